//! `flotilla debug`: what is in a stopped node's files, that looking does no harm, and what it says of files that are damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;
use tests::{Cluster, binary, text};

fn debug(cluster: &Cluster, arguments: &[&str], node: u16, rest: &[&str]) -> Result<Output> {
    let store = cluster.node_dir(node.into()).join("store");
    Ok(Command::new(binary()).arg("debug").args(arguments).arg(store).args(rest).output()?)
}

fn json(output: &Output) -> Result<Json> {
    ensure!(output.status.success(), "{}", text(output));
    serde_json::from_slice(&output.stdout).with_context(|| text(output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_a_stopped_node_can_be_read() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, note text); ALTER TABLE t SPLIT AT VALUES (0);
             INSERT INTO t SELECT n, 'note ' || n FROM generate_series(1, 500) AS g(n)",
        )
        .await?;

    let refused = debug(&cluster, &["store"], 1, &[])?;
    ensure!(refused.status.code() == Some(4), "a running node's store: {}", text(&refused));

    // A gentle stop flushes everything, so that equal replicas have equal rows in their tables.
    for node in 1..=3 {
        cluster.script(&["stop", &node.to_string()])?;
    }
    let mut digests = Vec::new();
    for node in 1..=3 {
        let store = json(&debug(&cluster, &["--json", "store"], node, &[])?)?;
        ensure!(store["format"] == 2 && store["node"].is_u64(), "{store}");
        let groups = store["groups"].as_array().context("groups")?;
        ensure!(groups.iter().any(|group| group["group"] == 1), "no meta-group: {store}");
        // That of the rows is the last one that was made.
        let group = groups.iter().filter_map(|group| group["group"].as_u64()).max().context("a group")?;
        let page = json(&debug(&cluster, &["--json", "group"], node, &[&format!("g{group}")])?)?;
        ensure!(page["last"]["index"].as_u64() >= page["applied"]["index"].as_u64(), "{page}");
        let data = page["rows"].as_array().and_then(|rows| rows.first()).context("rows")?.clone();
        ensure!(data["rows"].as_u64() >= Some(500), "{page}");
        digests.push((group, data));

        let shown = debug(&cluster, &["log"], node, &["meta", "--limit", "3"])?;
        ensure!(shown.status.success() && text(&shown).lines().count() == 3, "{}", text(&shown));
        let line = debug(&cluster, &["--json", "log"], node, &[&format!("g{group}"), "--limit", "1"])?;
        ensure!(json(&line)?["index"].is_u64(), "{}", text(&line));
    }
    digests.dedup();
    ensure!(digests.len() == 1, "replicas differ: {digests:?}");

    let unknown = debug(&cluster, &["group"], 1, &["g4711"])?;
    ensure!(unknown.status.code() == Some(2) && text(&unknown).contains("g4711"), "{}", text(&unknown));
    let nothing = Command::new(binary()).args(["debug", "store", "/nowhere"]).output()?;
    ensure!(nothing.status.code() == Some(4) && text(&nothing).contains("/nowhere"), "{}", text(&nothing));

    cluster.script(&["up"])?;
    ensure!(cluster.value(2, "SELECT count(*) FROM t").await? == "500");
    Ok(())
}

fn is_refused(output: &Output, status: i32, what: &str) -> Result<()> {
    let said = text(output);
    ensure!(output.status.code() == Some(status) && said.contains(what), "{:?}: {said}", output.status);
    // An error in one line, and no panic.
    ensure!(said.trim_end().lines().count() == 1, "{said}");
    Ok(())
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The largest file of a kind, and what it holds with one bit of its middle flipped.
fn largest_flipped(dir: &Path, ending: &str) -> Result<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        files.push(entry?.path());
    }
    files.retain(|path| path.extension().is_some_and(|found| found == ending));
    files.sort_by_key(|path| path.metadata().map_or(0, |of| of.len()));
    let largest = files.pop().with_context(|| format!("a file .{ending}"))?;
    let mut content = fs::read(&largest)?;
    let middle = content.len() / 2;
    ensure!(middle > 100, "{} is too small to be what is meant", largest.display());
    content[middle] ^= 0x40;
    Ok((largest, content))
}

/// Has a file say something else for a while.
fn while_it_says(file: &Path, said: &[u8], look: impl FnOnce() -> Result<()>) -> Result<()> {
    let whole = fs::read(file)?;
    fs::write(file, said)?;
    let outcome = look().with_context(|| file.display().to_string());
    fs::write(file, whole)?;
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_and_other_formats_are_told() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.connect(1).await?;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, note text);
             INSERT INTO t SELECT n, repeat('x', 100) || n FROM generate_series(1, 5000) AS g(n)",
        )
        .await?;
    drop(client);
    cluster.script(&["stop", "1"])?;
    let store = cluster.node_dir(1).join("store");
    let shown = json(&debug(&cluster, &["--json", "store"], 1, &[])?)?;
    let groups = shown["groups"].as_array().context("groups")?;
    let groups: Vec<String> =
        groups.iter().filter_map(|group| Some(format!("g{}", group["group"].as_u64()?))).collect();

    let format = store.join("FORMAT");
    let refused_by_all = |status, what| {
        is_refused(&debug(&cluster, &["store"], 1, &[])?, status, what)?;
        is_refused(&debug(&cluster, &["log"], 1, &["meta"])?, status, what)?;
        is_refused(&debug(&cluster, &["group"], 1, &["meta"])?, status, what)?;
        is_refused(&debug(&cluster, &["recover", "--lost", "n2", "--store"], 1, &[])?, status, what)
    };
    while_it_says(&format, b"flotilla-store 2", || refused_by_all(5, "FORMAT"))?;
    // (With their checksums.)
    while_it_says(&format, b"flotilla-store 0 46072a2b\n", || refused_by_all(4, "has format 0,"))?;
    while_it_says(&format, b"flotilla-store 99 f03f22a6\n", || refused_by_all(4, "has format 99,"))?;
    for database in ["log", "state"] {
        let current = store.join(database).join("CURRENT");
        while_it_says(&current, b"MANIFEST-what", || refused_by_all(5, "CURRENT"))?;
    }

    // What lies before the place is shown, and then that this is not all.
    let (log, flipped) = largest_flipped(&store.join("log"), "log")?;
    while_it_says(&log, &flipped, || {
        let output = debug(&cluster, &["--json", "store"], 1, &[])?;
        let said = text(&output);
        ensure!(output.status.code() == Some(5) && said.contains(&name(&log)), "{said}");
        let shown: Json = serde_json::from_slice(&output.stdout).context(said)?;
        ensure!(shown["format"] == 2, "{shown}");
        Ok(())
    })?;

    let (table, flipped) = largest_flipped(&store.join("state"), "sst")?;
    while_it_says(&table, &flipped, || {
        // Whatever is not damaged can be looked at; whose rows are in there is refused.
        let mut refused = 0;
        for group in &groups {
            let output = debug(&cluster, &["group"], 1, &[group])?;
            if !output.status.success() {
                is_refused(&output, 5, &name(&table))?;
                refused += 1;
            }
        }
        ensure!(refused > 0, "nobody has noticed");
        Ok(())
    })?;

    cluster.script(&["up"])?;
    ensure!(cluster.value(1, "SELECT count(*) FROM t").await? == "5000");
    Ok(())
}
