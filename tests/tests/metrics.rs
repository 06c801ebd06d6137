//! `/metrics`, and the Grafana board that shows it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, pause, root};

/// The names in a text that begin as ours do.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_lowercase() || c == '_');
    text.split(word)
        .filter(|name| name.starts_with("flotilla_") && *name != "flotilla_")
        .map(str::to_owned)
        .collect()
}

/// Whatever the sources name.
fn in_sources(dir: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            in_sources(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.extend(names(&fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

fn metrics(cluster: &Cluster, n: usize) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.http_port(n)))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_board_shows_what_nodes_measure() -> Result<()> {
    let board: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(root().join("docs/grafana-board.json"))?)?;
    let panels = board["panels"].as_array().context("panels")?;
    let mut shown = BTreeSet::new();
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten()) {
        let found = names(target["expr"].as_str().context("an expression")?);
        ensure!(!found.is_empty(), "{target}");
        let bare = |name: &String| {
            let ending =
                ["_bucket", "_sum", "_count"].into_iter().find_map(|ending| name.strip_suffix(ending));
            ending.unwrap_or(name).to_owned()
        };
        shown.extend(found.iter().map(bare));
    }
    let mut sources = BTreeSet::new();
    for room in ["storage", "raft", "txn", "meta", "sql", "node"] {
        in_sources(&root().join(room).join("src"), &mut sources)?;
    }
    let unknown: Vec<&String> = shown.difference(&sources).collect();
    ensure!(unknown.is_empty(), "the board shows what no node measures: {unknown:?}");

    // What counts without an accident having happened is there after a few statements.
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    let rare = [
        "flotilla_sql_statement_errors_total",
        "flotilla_sql_statement_retries_total",
        "flotilla_sql_statement_reruns_total",
        "flotilla_txn_failed_commits_total",
        "flotilla_deadlocks_total",
        "flotilla_lock_wait_seconds",
        "flotilla_gc_versions_removed_total",
        "flotilla_raft_entry_bytes_total",
        "flotilla_raft_snapshot_bytes_total",
        "flotilla_nodes_silent_total",
    ];
    let expected: BTreeSet<&String> = shown.iter().filter(|name| !rare.contains(&name.as_str())).collect();
    let mut missing = Vec::new();
    for _ in 0..40 {
        let mut measured = BTreeSet::new();
        for n in 1..=3 {
            measured.extend(names(&metrics(&cluster, n)?));
        }
        let is_there = |name: &&&String| measured.iter().any(|known| known.starts_with(name.as_str()));
        missing = expected.iter().filter(|name| !is_there(name)).map(|name| (*name).clone()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        pause(500).await;
    }
    anyhow::bail!("no node measures {missing:?}")
}
