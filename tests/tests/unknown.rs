//! Commits whose outcome the client can't be told.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, pause};

/// A leader freezes while rows are inserted through other nodes, one to a statement: each statement either succeeds, or says that
/// it did nothing, or says `40003`. Nobody runs one of those again: the table has no key that would keep a second row out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_outcome_is_said_and_not_tried_again() -> Result<()> {
    let cluster = Cluster::start(3)?;
    cluster.connect(1).await?.batch_execute("CREATE TABLE t (n int)").await?;
    let leader = cluster.leader().await?;
    let gateway = leader % 3 + 1;
    let inserting = (0..8).map(|worker| {
        let cluster = &cluster;
        async move {
            let client = cluster.connect(gateway).await?;
            let mut told = Vec::new();
            for i in 0..60 {
                let n = worker * 1000 + i;
                let result = client.batch_execute(&format!("INSERT INTO t VALUES ({n})")).await;
                let state = match result {
                    Ok(()) => "done".to_owned(),
                    Err(error) => error.code().context("the connection broke")?.code().to_owned(),
                };
                told.push((n, state));
                pause(15).await;
            }
            anyhow::Ok(told)
        }
    });
    let freezing = async {
        for _ in 0..2 {
            pause(250).await;
            cluster.script(&["pause", &leader.to_string()])?;
            pause(2500).await;
            cluster.script(&["resume", &leader.to_string()])?;
        }
        anyhow::Ok(())
    };
    let all = futures::future::try_join_all(inserting);
    let both = tokio::time::timeout(Duration::from_secs(120), async { futures::join!(all, freezing) });
    let (told, frozen) = both.await.context("for ever")?;
    frozen?;
    let told: Vec<(i32, String)> = told.with_context(|| cluster.logs())?.concat();
    let client = cluster.connect(gateway).await?;
    let mut rows: HashMap<i32, usize> = HashMap::new();
    for row in client.query("SELECT n FROM t", &[]).await? {
        *rows.entry(row.get(0)).or_default() += 1;
    }
    let mut states: HashMap<&str, usize> = HashMap::new();
    for (n, state) in &told {
        *states.entry(state).or_default() += 1;
        let there = rows.get(n).copied().unwrap_or_default();
        let right = match state.as_str() {
            "done" => there == 1,
            "40003" => there <= 1,
            _ => there == 0,
        };
        ensure!(right, "{n} was told {state}, and is there {there} times\n{}", cluster.logs());
    }
    println!("{states:?}");
    ensure!(states.get("done").is_some_and(|done| *done > 100), "{states:?}");
    Ok(())
}
