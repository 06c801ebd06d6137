//! Sessions, transactions and commits that last too long.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, pause, sqlstate};
use tokio_postgres::Client;

fn state(result: Result<(), tokio_postgres::Error>) -> String {
    result.map_or_else(|error| sqlstate(&error), |()| "done".into())
}

/// The error that a session was ended with: psql shows it at the next statement.
fn ended_with(cluster: &Cluster, script: &str) -> Result<String> {
    let output = cluster.psql(1, &["-v", "VERBOSITY=sqlstate", "-At"], script)?;
    Ok(tests::text(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_end_that_are_idle_or_whose_transaction_lasts_too_long() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let sleep = "\\! sleep 1\nSELECT 'still there';\n";
    let idle = ended_with(&cluster, &format!("SET idle_session_timeout = '300ms';\n{sleep}"))?;
    ensure!(idle.contains("57P05") && !idle.contains("still there"), "{idle}");
    let in_transaction = format!(
        "SET idle_in_transaction_session_timeout = '300ms';\nSELECT 'outside';\n\\! sleep 1\nBEGIN;\n{sleep}"
    );
    let in_transaction = ended_with(&cluster, &in_transaction)?;
    ensure!(in_transaction.contains("25P03") && in_transaction.contains("outside"), "{in_transaction}");
    let transaction = ended_with(
        &cluster,
        &format!("SET transaction_timeout = '300ms';\nBEGIN;\nSELECT 'begun';\n{sleep}"),
    )?;
    ensure!(transaction.contains("25P04") && transaction.contains("begun"), "{transaction}");
    ensure!(!transaction.contains("still there"), "{transaction}");
    // Statement by statement there is no transaction that lasts.
    let one_by_one = ended_with(&cluster, &format!("SET transaction_timeout = '300ms';\n{sleep}"))?;
    ensure!(one_by_one.contains("still there"), "{one_by_one}");
    // A statement that runs is ended, too.
    let running = "SET transaction_timeout = '300ms';\nSELECT count(*) FROM generate_series(1, 100000000);\nSELECT 'on';\n";
    let running = ended_with(&cluster, running)?;
    ensure!(running.contains("25P04") && !running.contains("on\n"), "{running}");
    let statement = "SET statement_timeout = '300ms';\nSELECT count(*) FROM generate_series(1, 100000000);\nSELECT 'on';\n";
    let statement = ended_with(&cluster, statement)?;
    ensure!(statement.contains("57014") && statement.contains("on\n"), "{statement}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_a_majority_has_an_unknown_outcome_in_time() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let admin = cluster.connect(1).await?;
    admin
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
        .await
        .with_context(|| cluster.logs())?;
    admin.batch_execute("INSERT INTO t SELECT n, 0 FROM generate_series(1, 10) AS g(n)").await?;
    let leader: usize = cluster
        .value(1, "SELECT leader FROM flotilla.shards WHERE database_name = 'postgres' ORDER BY 1 LIMIT 1")
        .await?
        .parse()?;
    let (one, two): (Client, Client) = (cluster.connect(leader).await?, cluster.connect(leader).await?);
    for client in [&one, &two] {
        client.batch_execute("SET statement_timeout = '1s'").await?;
        client.batch_execute("SELECT * FROM t").await?;
    }
    one.batch_execute("BEGIN; UPDATE t SET n = 1 WHERE id = 1").await?;
    for node in (1..=3).filter(|node| *node != leader) {
        cluster.script(&["kill", &node.to_string()])?;
    }
    let both = async {
        futures::join!(one.batch_execute("COMMIT"), two.batch_execute("INSERT INTO t VALUES (11, 1)"))
    };
    let answers = tokio::time::timeout(Duration::from_secs(8), both).await;
    let (commit, alone) = answers.context("clients are kept waiting")?;
    // Nobody can know, and nobody pretends to.
    let (commit, alone) = (state(commit), state(alone));
    ensure!(commit == "40003", "{commit}");
    ensure!(["40003", "57014", "57P03"].contains(&alone.as_str()), "{alone}");
    for node in (1..=3).filter(|node| *node != leader) {
        cluster.script(&["start", &node.to_string()])?;
    }
    pause(1).await;
    let mut left = 100;
    let count = loop {
        match cluster.value(leader, "SELECT count(*) FROM t").await {
            Ok(count) => break count,
            Err(error) if left == 0 => return Err(error),
            Err(_) => pause(200).await,
        }
        left -= 1;
    };
    ensure!(["10", "11"].contains(&count.as_str()), "{count}");
    Ok(())
}
