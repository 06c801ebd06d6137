//! Flipped bytes: a node whose disk gives back something else than it was given must not serve, and must say why.
//!
//! The node is killed and one byte of its log or of a table is changed. It is then started, which has to fail. Healing
//! puts the byte back: what the test is about is that nobody is served from a damaged store. A node that serves is an anomaly.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Harm;
use crate::cluster::Cluster;
use crate::run::{connect, sleep};

/// Where the byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the log of the Raft groups.
    Log,
    /// In a table of the state.
    Table,
}

/// A smaller file has too little that is certainly not its torn tail.
const BYTES_MIN: u64 = 4096;
/// What is done to the byte.
const MASK: u8 = 0x40;

/// What a database is found doing that serves from a damaged store.
pub const SERVED: &str = "served-from-damage";
/// So long a young store takes at most until the first tables are written: the nodes' checkpoints come every ten seconds.
const PREPARE_TRIES: usize = 50;
const PREPARE_PAUSE: Duration = Duration::from_millis(500);
/// Rows that make a table of some size.
const BALLAST_ROWS: u32 = 2_000;

/// Sees to it that each node has something to be damaged: rows, in tables of all stores.
pub async fn prepare(cluster: &Cluster) -> Result<()> {
    let url = cluster.url(1);
    let session = connect(&url, false).await?;
    for sql in [
        "DROP TABLE IF EXISTS ballast".to_owned(),
        "CREATE TABLE ballast (id int PRIMARY KEY, note text NOT NULL) WITH (sharding = 'hash', shards = 6)"
            .to_owned(),
        format!("INSERT INTO ballast SELECT n, md5(n::text) FROM generate_series(1, {BALLAST_ROWS}) AS g(n)"),
    ] {
        session.write(&sql).await.map_err(|failure| anyhow::anyhow!("{sql}: {failure:?}"))?;
    }
    let mut ready = 0;
    for _ in 0..PREPARE_TRIES {
        ready = 0;
        for node in cluster.all() {
            let store = cluster.node_dir(node).join("store");
            let both = victim(&store, Place::Log)?.is_some() && victim(&store, Place::Table)?.is_some();
            ready += usize::from(both);
        }
        if ready == cluster.all().len() {
            break;
        }
        sleep(PREPARE_PAUSE).await;
    }
    // (A node that has no replica of it has less: what hits that one is refused.)
    ensure!(ready > 0, "no node has a table that could be damaged");
    Ok(())
}

/// Kills a node, flips a byte, and sees to it that the node refuses to start.
pub async fn harm(cluster: &Cluster, node: usize, place: Place, dice: u64) -> Result<Harm> {
    cluster.each("kill", &[node]).await?;
    let store = cluster.node_dir(node).join("store");
    let Some((path, length)) = victim(&store, place)? else {
        return Ok(Harm::Refused(format!("node {node} has no file of that kind")));
    };
    let at = length / 4 + dice % (length / 4);
    flip(&path, at)?;
    let note = format!("{at} {}", path.display());
    std::fs::write(note_path(cluster, node), note).context("noting the flipped byte")?;
    if cluster.each("start", &[node]).await.is_ok() {
        return Ok(started(node, &path, at));
    }
    let log = std::fs::read_to_string(cluster.node_dir(node).join("log")).unwrap_or_default();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let last = log.lines().rev().take(20).any(|line| line.contains(&name));
    if !last {
        bail!("node {node} did not start with a flipped byte, but does not name {name}");
    }
    Ok(Harm::Done)
}

/// A node is ready though a byte is flipped.
fn started(node: usize, path: &Path, at: u64) -> Harm {
    let what = format!("node {node} started although byte {at} of {} is flipped", path.display());
    // What a store deletes when it is opened was needed by nobody any more.
    match path.exists() {
        true => Harm::Wrong(SERVED, what),
        false => Harm::Refused(format!("{what}: it was not in use any more")),
    }
}

/// The file that is damaged.
fn victim(store: &Path, place: Place) -> Result<Option<(PathBuf, u64)>> {
    let (dir, extension) = match place {
        Place::Log => ("log", "log"),
        Place::Table => ("state", "sst"),
    };
    largest(&store.join(dir), extension)
}

/// Puts the byte back and starts the node.
pub async fn heal(cluster: &Cluster, node: usize) -> Result<()> {
    let note = note_path(cluster, node);
    if let Ok(text) = std::fs::read_to_string(&note) {
        let (at, path) = text.split_once(' ').context("the note of a flipped byte")?;
        // A node that serves has the file open, or has deleted it.
        if Path::new(path).exists() {
            flip(Path::new(path), at.parse().context("the note of a flipped byte")?)?;
        }
        std::fs::remove_file(&note).context("removing the note of a flipped byte")?;
    }
    cluster.each("start", &[node]).await
}

fn note_path(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.node_dir(node).join("flipped")
}

fn largest(dir: &Path, extension: &str) -> Result<Option<(PathBuf, u64)>> {
    let mut found: Option<(PathBuf, u64)> = None;
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        // A store that is open may delete it at this moment.
        let Ok(length) = path.metadata().map(|file| file.len()) else { continue };
        let fits = path.extension().is_some_and(|e| e == extension) && length >= BYTES_MIN;
        if fits && found.as_ref().is_none_or(|(_, known)| *known < length) {
            found = Some((path, length));
        }
    }
    Ok(found)
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let named = || format!("flipping byte {at} of {}", path.display());
    let file = OpenOptions::new().read(true).write(true).open(path).with_context(named)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).with_context(named)?;
    byte[0] ^= MASK;
    file.write_all_at(&byte, at).with_context(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serving_from_a_damaged_store_is_no_mere_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("000007.sst");
        assert!(matches!(started(2, &path, 5), Harm::Refused(_)), "it is gone");
        std::fs::write(&path, [1]).unwrap();
        assert!(matches!(started(2, &path, 5), Harm::Wrong(SERVED, _)));
    }

    #[test]
    fn flipping_twice_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let small = dir.path().join("000001.log");
        let large = dir.path().join("000002.log");
        std::fs::write(&small, vec![1; 100]).unwrap();
        std::fs::write(&large, vec![1; 9000]).unwrap();
        assert_eq!(largest(dir.path(), "log").unwrap(), Some((large.clone(), 9000)));
        assert_eq!(largest(dir.path(), "sst").unwrap(), None);
        flip(&large, 5000).unwrap();
        assert_eq!(std::fs::read(&large).unwrap()[5000], 1 ^ MASK);
        flip(&large, 5000).unwrap();
        assert_eq!(std::fs::read(&large).unwrap(), vec![1; 9000]);
    }
}
