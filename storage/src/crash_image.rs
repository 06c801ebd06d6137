//! What a crash at this moment would leave of a store: for tests and the simulator.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// How often a copy is begun again.
const ATTEMPTS_MAX: usize = 100;

/// Copies the directory of an open store as it is at one moment. `to` is replaced; where there is no `from`, there is nothing to
/// copy.
///
/// RocksDB works in the background: a copy during which it has made, grown or removed a file is of no moment (its manifest could
/// name a table that was made after the copier had passed its place), and is begun again.
///
/// # Errors
///
/// The file system's; and `ResourceBusy` if the directory never holds still.
pub fn crash_image(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        return Ok(());
    }
    for _ in 0..ATTEMPTS_MAX {
        match copy_unless_it_moves(from, to) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::ResourceBusy, format!("{} does not hold still", from.display())))
}

fn copy_unless_it_moves(from: &Path, to: &Path) -> Result<bool> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    let before = sizes(from)?;
    copy(from, to)?;
    Ok(before == sizes(from)?)
}

/// The files under a directory, but for RocksDB's own log.
fn sizes(dir: &Path) -> Result<BTreeMap<PathBuf, u64>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(sizes(&entry.path())?);
        } else if entry.file_name() != "LOG" {
            found.insert(entry.path(), entry.metadata()?.len());
        }
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
