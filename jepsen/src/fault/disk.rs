//! Broken disks and clocks, by way of a small library that is loaded into the nodes (`interposer/disk.c`).
//!
//! It makes syncs stall and writes fail on request, and notes how much of each file was synced. What was not would be gone
//! after a power cut, though it survives `kill -9`: the kernel still has it. So a *power cut* is a kill after which each file is cut
//! somewhere between what was synced and what was written, as a disk tears it.
//!
//! It needs Linux and a C compiler, which building Flotilla needs anyway.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::process::Command;

use crate::cluster::Cluster;

/// What a disk does, as the library reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ailment {
    /// Syncs don't return.
    Stall,
    /// Nothing can be written.
    Full,
    /// Syncs are said to have succeeded.
    Lies,
}

/// Compiles the library into a folder.
pub async fn build(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let source = folder.join("disk.c");
    let library = folder.join("disk.so");
    std::fs::write(&source, include_str!("../../interposer/disk.c"))
        .with_context(|| format!("writing {}", source.display()))?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    let output = compiler.output().await.context("running cc, which faults of the disk need")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(library)
}

/// From now on the nodes' disks are ill.
pub fn infect(cluster: &Cluster, nodes: &[usize], ailment: Ailment) -> Result<()> {
    for node in nodes {
        let path = cluster.node_dir(*node).join("disk");
        let what = match ailment {
            Ailment::Stall => "s",
            Ailment::Full => "f",
            Ailment::Lies => "l",
        };
        std::fs::write(&path, what).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// … and well again.
pub fn cure(cluster: &Cluster, nodes: &[usize]) -> Result<()> {
    for node in nodes {
        let path = cluster.node_dir(*node).join("disk");
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// Cuts what was not synced off the files of a node that doesn't run. `dice` decides where.
pub fn tear(cluster: &Cluster, node: usize, dice: u64) -> Result<()> {
    let dir = cluster.node_dir(node);
    let notes = dir.join("synced");
    let notes = std::fs::read(&notes).with_context(|| format!("reading {}", notes.display()))?;
    tear_files(&dir.join("store"), &synced(&notes), dice ^ node as u64)
}

/// Bytes that are safe, by inode. An inode may be used again by a younger file: then too much counts as safe, never too little.
fn synced(notes: &[u8]) -> HashMap<u64, u64> {
    let mut safe = HashMap::new();
    for note in notes.chunks_exact(16) {
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&note[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        let size = safe.entry(number(0)).or_insert(0);
        *size = number(8).max(*size);
    }
    safe
}

fn tear_files(dir: &Path, safe: &HashMap<u64, u64>, dice: u64) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let file = entry.metadata()?;
        if file.is_dir() {
            tear_files(&entry.path(), safe, dice)?;
        } else if file.is_file() {
            let safe = safe.get(&file.ino()).copied().unwrap_or(0).min(file.len());
            // By its name: inodes differ from run to run.
            let name = u64::from(crc32fast::hash(entry.file_name().as_encoded_bytes()));
            let mut rng = StdRng::seed_from_u64(dice ^ (name << 32));
            let cut = rng.random_range(safe..=file.len());
            let path = entry.path();
            let torn = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(cut));
            torn.with_context(|| format!("cutting {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_stays_and_the_rest_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let within = dir.path().join("log");
        std::fs::create_dir(&within).unwrap();
        let (log, scratch) = (within.join("000004.log"), dir.path().join("LOG"));
        std::fs::write(&log, vec![7; 1_000]).unwrap();
        std::fs::write(&scratch, vec![7; 1_000]).unwrap();
        let inode = std::fs::metadata(&log).unwrap().ino();
        let notes: Vec<u8> = [inode, 600, inode, 400].iter().flat_map(|n| n.to_ne_bytes()).collect();
        tear_files(dir.path(), &synced(&notes), 7).unwrap();
        assert!((600..=1_000).contains(&std::fs::metadata(&log).unwrap().len()));
        assert!(std::fs::metadata(&scratch).unwrap().len() <= 1_000);
    }

    #[test]
    fn where_a_file_is_torn_follows_from_the_dice() {
        let torn = |dice: u64| {
            let dir = tempfile::tempdir().unwrap();
            // Files of other inodes in each run.
            let path = dir.path().join("000004.log");
            std::fs::write(&path, vec![7; 1 << 20]).unwrap();
            tear_files(dir.path(), &HashMap::new(), dice).unwrap();
            std::fs::metadata(&path).unwrap().len()
        };
        assert_eq!(torn(3), torn(3));
        assert_ne!(torn(3), torn(4));
    }
}
