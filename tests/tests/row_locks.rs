//! Who gets along with whom: the table of PostgreSQL 15, 13.3.2, asked of both.

use anyhow::{Context, Result, ensure};
use tests::peer::Postgres;
use tests::{Cluster, connect};

/// What holds the row.
const HOLDERS: &[&str] = &[
    "SELECT 1 FROM t WHERE id = 1 FOR UPDATE",
    "SELECT 1 FROM t WHERE id = 1 FOR NO KEY UPDATE",
    "SELECT 1 FROM t WHERE id = 1 FOR SHARE",
    "SELECT 1 FROM t WHERE id = 1 FOR KEY SHARE",
    "SELECT 1 FROM t JOIN o ON o.id = t.id FOR SHARE OF t",
    "SELECT 1 FROM t JOIN o ON o.id = t.id FOR UPDATE OF o",
    "WITH w AS (SELECT id FROM t WHERE id = 1 FOR UPDATE) SELECT count(*) FROM w",
    "SELECT 1 FROM (SELECT id FROM t WHERE id = 1 FOR KEY SHARE) s",
    "UPDATE t SET n = n + 1 WHERE id = 1",
    "UPDATE t SET u = u + 1 WHERE id = 1",
    "UPDATE t SET id = 5 WHERE id = 1",
    "DELETE FROM t WHERE id = 1",
];

/// What another one wants.
const WANTED: &[&str] = &["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"];

/// For each holder and each wish: whether the row is got, and what NOWAIT says.
async fn table(one: &str, other: &str) -> Result<Vec<String>> {
    let (holder, wisher) = (connect(one).await?, connect(other).await?);
    holder
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int, u int UNIQUE); INSERT INTO t VALUES (1, 0, 0), (2, 0, 2);
             CREATE TABLE o (id int PRIMARY KEY); INSERT INTO o VALUES (1)",
        )
        .await?;
    let mut lines = Vec::new();
    for hold in HOLDERS {
        holder.batch_execute(&format!("BEGIN; {hold}")).await.with_context(|| (*hold).to_owned())?;
        for want in WANTED {
            let skip = format!("SELECT id FROM t WHERE id = 1 FOR {want} SKIP LOCKED");
            let got = wisher.query(&skip, &[]).await.with_context(|| skip.clone())?.len();
            let nowait = wisher.query(&format!("SELECT id FROM t WHERE id = 1 FOR {want} NOWAIT"), &[]).await;
            let nowait = nowait.err().and_then(|e| e.code().map(|c| c.code().to_owned()));
            lines.push(format!("{hold} / {want}: {got} {nowait:?}"));
        }
        holder.batch_execute("ROLLBACK").await?;
    }
    Ok(lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strengths_exclude_each_other_as_in_postgresql() -> Result<()> {
    let postgres = Postgres::start()?;
    let cluster = Cluster::start(3)?;
    let expected = table(&postgres.url(), &postgres.url()).await?;
    let found = table(&cluster.url(1), &cluster.url(3)).await.with_context(|| cluster.logs())?;
    for (expected, found) in expected.iter().zip(&found) {
        ensure!(expected == found, "PostgreSQL: {expected}\nFlotilla: {found}");
    }
    ensure!(expected.len() == found.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_names_the_rival() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let (one, two) = (cluster.connect(1).await?, cluster.connect(3).await?);
    one.batch_execute(
        "CREATE TABLE stock (id int PRIMARY KEY, n int); INSERT INTO stock VALUES (1, 10), (2, 20)",
    )
    .await?;
    one.batch_execute("BEGIN; SELECT sum(n) FROM stock").await?;
    two.batch_execute("UPDATE stock SET n = n - 3 WHERE id = 2").await?;
    let error = one
        .batch_execute("UPDATE stock SET n = 0 WHERE id = 1; COMMIT")
        .await
        .err()
        .context("no conflict")?;
    let error = error.as_db_error().context("an error of the server")?;
    let detail = error.detail().unwrap_or_default();
    ensure!(error.code().code() == "40001", "{error:?}");
    ensure!(error.hint() == Some("The transaction might succeed if retried."), "{error:?}");
    for part in [
        "Key (id)=(2)",
        "table \"stock\"",
        "UPDATE stock SET n = n - 3 WHERE id = 2",
        "UPDATE stock SET n = 0",
    ] {
        ensure!(detail.contains(part), "{part} is not in {detail}");
    }
    Ok(())
}
