//! Damaged stores: what a crash tears opens; what was altered is refused by name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::{Cluster, pause};

/// The files below `dir` with this ending, the largest first.
fn files(dir: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == ending) {
                found.push(path);
            }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).map_or(0, |m| m.len())));
    Ok(found)
}

/// A cluster with data in its log and its state, all nodes stopped as `how` says.
async fn stopped_with_data(how: &str) -> Result<Cluster> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, note text)").await?;
    client
        .batch_execute("INSERT INTO t SELECT n, repeat('x', 100) || n FROM generate_series(1, 5000) AS g(n)")
        .await
        .with_context(|| cluster.logs())?;
    for n in 1..=3 {
        cluster.script(&[how, &n.to_string()])?;
    }
    Ok(cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_a_torn_tail_opens() -> Result<()> {
    let cluster = stopped_with_data("kill").await?;
    // A crash in the middle of a write leaves part of a record at the log's end. What was acknowledged lies before it.
    let logs = files(&cluster.node_dir(1).join("store").join("log"), "log")?;
    let log = logs.first().context("node 1 has a write-ahead log")?;
    let newest = logs.iter().max_by_key(|p| p.file_name().map(|n| n.to_owned())).unwrap_or(log);
    let mut bytes = fs::read(newest)?;
    // The beginning of a record whose rest was never written: a checksum, a length of 200, a type, some payload.
    bytes.extend_from_slice(&[0x12, 0x34, 0x56, 0x78, 200, 0, 1, 1, 2, 3, 4]);
    fs::write(newest, bytes)?;
    cluster.script(&["up"])?;
    for n in 1..=3 {
        ensure!(cluster.value(n, "SELECT count(*) FROM t").await? == "5000");
    }
    Ok(())
}

/// Flips one byte in the middle of a file, and expects that node 1 refuses to start and names it.
async fn flipped_byte_is_refused(how: &str, folder: &str, ending: &str) -> Result<()> {
    let cluster = stopped_with_data(how).await?;
    let found = files(&cluster.node_dir(1).join("store").join(folder), ending)?;
    let path = found.first().with_context(|| format!("node 1 has a .{ending} file in {folder}"))?;
    let mut bytes = fs::read(path)?;
    ensure!(bytes.len() > 200, "{} is too small to be what is meant", path.display());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(path, &bytes)?;
    let refused = cluster.script(&["start", "1"]);
    let log = fs::read_to_string(cluster.node_dir(1).join("log"))?;
    ensure!(refused.is_err(), "node 1 serves with a flipped byte in {}\n{log}", path.display());
    let name = path.file_name().and_then(|n| n.to_str()).context("a file name")?;
    let error = log.lines().rev().take(5).find(|line| line.contains(name));
    ensure!(error.is_some(), "the error does not name {name}:\n{log}");
    // The others serve without it. Neither is ready before both run.
    std::thread::scope(|threads| {
        #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
        let other = threads.spawn(|| cluster.script(&["start", "3"]));
        cluster.script(&["start", "2"])?;
        other.join().map_err(|_| anyhow::anyhow!("the starter of node 3 panicked"))?
    })?;
    ensure!(cluster.value(2, "SELECT count(*) FROM t").await? == "5000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_log_is_refused_by_name() -> Result<()> {
    flipped_byte_is_refused("kill", "log", "log").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_an_sst_is_refused_by_name() -> Result<()> {
    // A gentle stop flushes the state to SST files.
    flipped_byte_is_refused("stop", "state", "sst").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_use_or_of_something_else_is_refused() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let start = |store: &Path, port: u16| {
        std::process::Command::new(tests::binary())
            .args(["start", "--insecure", "--listen-sql", &format!("127.0.0.1:{port}")])
            .args(["--listen-rpc", &format!("127.0.0.1:{}", port + 1)])
            .args(["--listen-http", &format!("127.0.0.1:{}", port + 2)])
            .args(["--join", &format!("127.0.0.1:{}", port + 1)])
            .arg("--store")
            .arg(store)
            .output()
    };
    let free = cluster.http_port(1) + 5;
    let locked = start(&cluster.node_dir(1).join("store"), free)?;
    ensure!(!locked.status.success() && tests::text(&locked).contains("in use"), "{}", tests::text(&locked));

    let foreign = tempfile::tempdir()?;
    fs::write(foreign.path().join("letter.txt"), "dear diary")?;
    let refused = start(foreign.path(), free)?;
    ensure!(!refused.status.success(), "a folder of something else was taken for a store");
    ensure!(foreign.path().join("letter.txt").exists());

    let fresh = tempfile::tempdir()?;
    let taken = start(&fresh.path().join("store"), cluster.sql_port(1))?;
    ensure!(!taken.status.success() && tests::text(&taken).contains("in use"), "{}", tests::text(&taken));
    pause(1).await;
    Ok(())
}
