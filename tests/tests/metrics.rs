//! `/metrics`, and the Grafana board that shows it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, pause, root};

/// No picture: the board's variable `$job` asks for it.
const NOT_SHOWN: [&str; 1] = ["flotilla_build_info"];

/// What counts accidents, or what a cluster does that is older or busier than a test's.
const RARE: [&str; 38] = [
    "flotilla_advisory_locks_lost_total",
    "flotilla_closed_behind_seconds",
    "flotilla_consistency_checks_total",
    "flotilla_consistency_differences_total",
    "flotilla_deadlocks_total",
    "flotilla_gc_passes_total",
    "flotilla_gc_versions_removed_total",
    "flotilla_lock_wait_seconds",
    "flotilla_merge_seconds",
    "flotilla_messages_damaged_total",
    "flotilla_nodes_silent_total",
    "flotilla_past_reads_passed_on_total",
    "flotilla_past_reads_total",
    "flotilla_raft_appends_refused_total",
    "flotilla_raft_apply_stalled",
    "flotilla_raft_apply_stalled_total",
    "flotilla_raft_checkpoint_failures_total",
    "flotilla_raft_damage_met_total",
    "flotilla_raft_disk_stalled",
    "flotilla_raft_disk_stalled_total",
    "flotilla_raft_entry_bytes_total",
    "flotilla_raft_log_waits_total",
    "flotilla_raft_replicas_failed_total",
    "flotilla_raft_replicas_quarantined_total",
    "flotilla_raft_rests_total",
    "flotilla_raft_snapshot_bytes_total",
    "flotilla_raft_snapshot_resumes_total",
    "flotilla_raft_snapshot_spared_bytes_total",
    "flotilla_raft_wakes_refused_total",
    "flotilla_redirects_total",
    "flotilla_sql_connections_refused_total",
    "flotilla_sql_statement_errors_total",
    "flotilla_sql_statement_reruns_total",
    "flotilla_sql_statement_retries_total",
    "flotilla_state_writes_aside_total",
    "flotilla_store_failures_total",
    "flotilla_txn_async_probes_total",
    "flotilla_txn_failed_commits_total",
];

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

/// Whether this is a metric's name, and nothing more.
fn is_name(text: &str) -> bool {
    let rest = text.strip_prefix("flotilla_");
    rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(is_of_a_name))
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !is_of_a_name(c)).filter(|word| is_name(word)).map(str::to_owned).collect()
}

/// The names of metrics in the sources: literals that are nothing else.
fn in_sources(dir: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            in_sources(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path)?;
            found.extend(text.split('"').filter(|literal| is_name(literal)).map(str::to_owned));
        }
    }
    Ok(())
}

/// The metrics that the board's panels show.
fn shown() -> Result<BTreeSet<String>> {
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
    Ok(shown)
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

#[test]
fn the_board_shows_all_that_is_measured_and_nothing_else() -> Result<()> {
    let shown = shown()?;
    let mut measured = BTreeSet::new();
    for room in ["proto", "storage", "raft", "txn", "meta", "sql", "node"] {
        in_sources(&root().join(room).join("src"), &mut measured)?;
    }
    let unknown: Vec<&String> = shown.difference(&measured).collect();
    ensure!(unknown.is_empty(), "the board shows what no node measures: {unknown:?}");
    let excepted = BTreeSet::from(NOT_SHOWN.map(str::to_owned));
    let missing: BTreeSet<String> = measured.difference(&shown).cloned().collect();
    ensure!(missing == excepted, "the board is to lack {excepted:?} alone, and lacks {missing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_board_shows_is_measured_after_a_few_statements() -> Result<()> {
    let shown = shown()?;
    let strange: Vec<&&str> = RARE.iter().filter(|name| !shown.contains(**name)).collect();
    ensure!(strange.is_empty(), "said to be rare, and not on the board: {strange:?}");
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    client.batch_execute("ALTER TABLE t SPLIT AT VALUES (1)").await?;
    let expected: BTreeSet<&String> = shown.iter().filter(|name| !RARE.contains(&name.as_str())).collect();
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
