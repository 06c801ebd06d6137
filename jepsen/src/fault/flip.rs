//! Flipped bytes: a node whose disk gives back something else than it was given must not serve, and must say why.
//!
//! The node is killed and one byte of its log or of a table is changed. It is then started, which has to fail. Healing
//! puts the byte back: what the test is about is that nobody is served from a damaged store.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;

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

/// Kills a node, flips a byte, and sees to it that the node refuses to start.
pub async fn harm(cluster: &Cluster, node: usize, place: Place, dice: u64) -> Result<()> {
    cluster.each("kill", &[node]).await?;
    let store = cluster.node_dir(node).join("store");
    let (dir, extension) = match place {
        Place::Log => (store.join("log"), "log"),
        Place::Table => (store.join("state"), "sst"),
    };
    // A young store may have no table yet: then this was a kill.
    let Some((path, length)) = largest(&dir, extension)? else {
        return Ok(());
    };
    let at = length / 4 + dice % (length / 4);
    flip(&path, at)?;
    let note = format!("{at} {}", path.display());
    std::fs::write(note_path(cluster, node), note).context("noting the flipped byte")?;
    if cluster.each("start", &[node]).await.is_ok() {
        bail!("node {node} started although byte {at} of {} is flipped", path.display());
    }
    let log = std::fs::read_to_string(cluster.node_dir(node).join("log")).unwrap_or_default();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let last = log.lines().rev().take(20).any(|line| line.contains(&name));
    if !last {
        bail!("node {node} did not start with a flipped byte, but does not name {name}");
    }
    Ok(())
}

/// Puts the byte back and starts the node.
pub async fn heal(cluster: &Cluster, node: usize) -> Result<()> {
    let note = note_path(cluster, node);
    if let Ok(text) = std::fs::read_to_string(&note) {
        let (at, path) = text.split_once(' ').context("the note of a flipped byte")?;
        flip(Path::new(path), at.parse().context("the note of a flipped byte")?)?;
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
        let (path, length) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?.len())))?;
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
