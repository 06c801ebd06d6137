//! `flotilla admin check`: the replicas of each shard compared, and the tables' constraints looked at, while clients work. (That it
//! finds what differs is shown in `verify.rs`, by a build that loses rows, and in `raft/tests/cluster.rs`; what is wrong in tables, in
//! `sql/testscripts/sql/inspection`.)

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use tests::{Cluster, binary, pause, text};

fn check(cluster: &Cluster, arguments: &[&str]) -> Result<Output> {
    let host = format!("127.0.0.1:{}", cluster.rpc_port(1));
    Ok(Command::new(binary()).args(["admin", "check", "--host", &host]).args(arguments).output()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_compared_while_clients_write_and_one_that_is_away_is_named() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(2).await?;
    client
        .batch_execute(
            "CREATE TABLE p (id int PRIMARY KEY, code text UNIQUE);
             INSERT INTO p SELECT n, 'c' || n FROM generate_series(0, 99) AS g(n);
             CREATE TABLE t (id int PRIMARY KEY, v text, p int REFERENCES p, u int UNIQUE CHECK (u >= 0))
             WITH (sharding = 'hash', shards = 3);
             INSERT INTO t SELECT n, repeat('x', 200), n % 100, n FROM generate_series(0, 1999) AS g(n)",
        )
        .await?;
    let writing = async {
        for n in 0.. {
            let changed = "UPDATE t SET v = 'new', u = u + 2000, p = (p + 7) % 100 WHERE id = $1";
            client.execute(changed, &[&(n % 2000)]).await?;
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    let checking = async {
        let host = format!("127.0.0.1:{}", cluster.rpc_port(1));
        let mut command = tokio::process::Command::new(binary());
        anyhow::Ok(command.args(["admin", "check", "--all", "--host", &host]).output().await?)
    };
    let output = tokio::select! {
        ended = writing => return ended,
        output = checking => output?,
    };
    let said = text(&output);
    ensure!(output.status.code() == Some(0), "{said}");
    ensure!(said.contains("0 differ, 0 not looked at"), "{said}");
    // The meta-group, the system's, the database's and those of the table, three replicas each.
    ensure!(said.matches(" equal").count() >= 3 * 6, "{said}");

    ensure!(
        said.contains("2 tables, 2100 rows") && said.contains(": 0 not consistent, 0 not looked at"),
        "{said}"
    );
    let output = check(&cluster, &["--table", "public.t", "--table", "p"])?;
    ensure!(output.status.success() && !text(&output).contains("differ"), "{}", text(&output));
    let output = check(&cluster, &["--table", "nobody"])?;
    ensure!(output.status.code() == Some(6) && text(&output).contains("\"nobody\""), "{}", text(&output));

    let output = check(&cluster, &["g4711"])?;
    ensure!(output.status.code() == Some(2) && text(&output).contains("4711"), "{}", text(&output));

    let output = check(&cluster, &["--all", "meta", "g3"])?;
    ensure!(text(&output).contains("2 groups, 6 replicas: 0 differ"), "{}", text(&output));

    cluster.script(&["pause", "3"])?;
    // Groups that it led elect others.
    pause(3_000).await;
    let output = check(&cluster, &["--json"])?;
    cluster.script(&["resume", "3"])?;
    ensure!(output.status.code() == Some(7), "{}", text(&output));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let groups = &said["groups"];
    let states =
        groups.as_array().into_iter().flatten().flat_map(|group| group["replicas"].as_array()).flatten();
    let unknown = states.filter(|replica| replica["state"] == "unknown").count();
    ensure!(unknown == groups.as_array().map_or(0, Vec::len), "{groups:#}");
    let tables = said["tables"].as_array().into_iter().flatten();
    ensure!(
        tables.clone().count() == 4 && tables.clone().all(|table| table["state"] == "consistent"),
        "{said:#}"
    );
    Ok(())
}
