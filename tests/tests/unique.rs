//! UNIQUE constraints when several nodes write at once: of rivals for one value exactly one wins.

use anyhow::{Result, ensure};
use tests::Cluster;
use tokio_postgres::error::SqlState;

/// Rounds of each kind; in each, all sessions want the same value.
const ROUNDS: i32 = 30;
/// Sessions, spread over the nodes.
const SESSIONS: usize = 6;

/// What a session does for the value of a round; `$1` is the session's own id in that round, `$2` the value.
const WAYS: [&str; 3] = [
    "INSERT INTO u (id, a) VALUES ($1, $2)",
    "UPDATE u SET a = $2 WHERE id = $1",
    "INSERT INTO u (id, a) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET a = excluded.a",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_rivals_for_a_value_one_wins() -> Result<()> {
    let cluster = Cluster::start(3)?;
    for (table, options) in [("u", ""), ("h", " WITH (sharding = 'hash', shards = 4)")] {
        let first = cluster.connect(1).await?;
        first
            .batch_execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY, a int UNIQUE){options}"))
            .await?;
        // The rows that UPDATE finds.
        let fill = format!("INSERT INTO {table} (id) SELECT g FROM generate_series(1, 10000) AS g");
        first.batch_execute(&fill).await?;
        let mut wins = vec![0; ROUNDS as usize];
        let mut sessions = Vec::new();
        for session in 0..SESSIONS {
            let mut client = cluster.connect(session % 3 + 1).await?;
            sessions.push(async move {
                let mut won = Vec::new();
                for round in 0..ROUNDS {
                    let way = (session + round as usize) % WAYS.len();
                    let id = round * SESSIONS as i32 + session as i32 + if way == 1 { 1 } else { 20_000 };
                    let sql = WAYS[way].replace("INTO u ", &format!("INTO {table} "));
                    let sql = sql.replace("UPDATE u ", &format!("UPDATE {table} "));
                    // In blocks, too: there uniqueness is found out by reading.
                    let result = if round % 2 == 0 {
                        client.execute(&sql, &[&id, &round]).await
                    } else {
                        let block = client.transaction().await?;
                        match block.execute(&sql, &[&id, &round]).await {
                            Ok(count) => block.commit().await.map(|()| count),
                            Err(error) => Err(error),
                        }
                    };
                    match result {
                        Ok(1) => won.push(round),
                        Ok(count) => anyhow::bail!("{sql} changed {count} rows"),
                        Err(error) => match error.code() {
                            Some(&SqlState::UNIQUE_VIOLATION | &SqlState::T_R_SERIALIZATION_FAILURE) => {}
                            _ => return Err(error.into()),
                        },
                    }
                }
                Ok::<_, anyhow::Error>(won)
            });
        }
        for round in futures::future::try_join_all(sessions).await?.into_iter().flatten() {
            wins[round as usize] += 1;
        }
        ensure!(wins.iter().all(|&n| n <= 1), "{table}: a value was won more than once: {wins:?}");
        // A conflict may cost both rivals their attempt, but not often.
        let decided: i32 = wins.iter().sum();
        ensure!(decided >= ROUNDS / 2, "{table}: hardly anybody won: {wins:?}");
        for node in 1..=3 {
            let doubled = format!(
                "SELECT count(*) FROM (SELECT a FROM {table} WHERE a IS NOT NULL GROUP BY a HAVING count(*) > 1) d"
            );
            ensure!(cluster.value(node, &doubled).await? == "0", "{table}: duplicates, seen at node {node}");
            let there = format!("SELECT count(*) FROM {table} WHERE a IS NOT NULL");
            ensure!(cluster.value(node, &there).await? == decided.to_string(), "{table}: what won is there");
        }
        // The index agrees with the rows: each value is taken, and each is free once its row is gone.
        let taken = first
            .execute(
                &format!("INSERT INTO {table} SELECT 50000 + a, a FROM {table} WHERE a IS NOT NULL ON CONFLICT (a) DO NOTHING"),
                &[],
            )
            .await?;
        ensure!(taken == 0, "{table}: {taken} values had no entry");
        first.execute(&format!("DELETE FROM {table} WHERE a IS NOT NULL"), &[]).await?;
        let again = first
            .execute(
                &format!(
                    "INSERT INTO {table} SELECT 70000 + g, g FROM generate_series(0, {}) AS g",
                    ROUNDS - 1
                ),
                &[],
            )
            .await?;
        ensure!(again == ROUNDS as u64, "{table}: the values of deleted rows are free");
    }
    Ok(())
}
