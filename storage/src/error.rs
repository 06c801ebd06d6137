//! What can go wrong on a disk, and what to do about it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An error of the storage layer. Each names the operation or the file, and keeps its source. Cheap to clone: one
/// failed fsync is reported to every write that waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the store open.
    #[error("the store {} is in use by another process; stop it, or give this node a directory of its own", dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The directory is neither empty nor a store.
    #[error(
        "{} is not a Flotilla store: it holds {found:?} but no FORMAT file; give an empty or a new directory",
        dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// One of the files found there.
        found: String,
    },
    /// The store was written by a later version.
    #[error(
        "the store {} has format {found}, this version of Flotilla reads up to {supported}; start the version that wrote it",
        dir.display()
    )]
    NewerFormat {
        /// The store's directory.
        dir: PathBuf,
        /// The format that was found.
        found: u32,
        /// The newest format that this build reads.
        supported: u32,
    },
    /// Bytes on disk are not the bytes that were written. Where that is found when the store is opened, nothing is served from it; later, and in
    /// what one replica alone has written, that replica stops.
    #[error(
        "{} is corrupt: {detail}; this store must not be used: wipe it and let the node join again",
        file.display()
    )]
    Corrupt {
        /// The damaged file (or its directory, where no file is known).
        file: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// The operating system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: Arc<std::io::Error>,
    },
    /// RocksDB refused.
    #[error("cannot {operation} in {}", dir.display())]
    Rocks {
        /// What was tried.
        operation: &'static str,
        /// The database's directory.
        dir: PathBuf,
        /// Why it failed.
        source: rocksdb::Error,
    },
    /// A write to the log failed earlier. What the disk holds is unknown, so nothing is acknowledged any more.
    #[error("the log is closed since a write to it failed; restart the node")]
    LogFailed {
        /// The failure that closed it.
        source: Arc<Error>,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
    /// A caller broke a rule: a defect.
    #[error("misuse of the storage layer: {0}")]
    Misuse(String),
    /// A snapshot chunk does not fit its checksum or its place.
    #[error("a snapshot chunk is damaged: {0}")]
    BadChunk(String),
}

/// What an operator or the calling layer may do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Try again, or fetch the data again from elsewhere.
    Retry,
    /// The request is wrong; nothing is wrong with the store.
    Reject,
    /// Stop using this store, visibly.
    Fatal,
}

impl Error {
    /// What to do about it.
    pub fn remedy(&self) -> Remedy {
        match self {
            Error::BadChunk(_) => Remedy::Retry,
            Error::Misuse(_) => Remedy::Reject,
            _ => Remedy::Fatal,
        }
    }

    pub(crate) fn io(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        Error::Io { operation, path: path.to_owned(), source: Arc::new(source) }
    }

    pub(crate) fn corrupt(file: impl Into<PathBuf>, detail: impl Into<String>) -> Self {
        Error::Corrupt { file: file.into(), detail: detail.into() }
    }

    /// A table or log of the database in `dir` that cannot be read, as RocksDB put it.
    pub(crate) fn unreadable(dir: &Path, message: String) -> Self {
        Error::Corrupt { file: file_named_in(dir, &message), detail: message }
    }

    /// Sorts RocksDB's corruption reports from its other errors, and finds the file that they name.
    pub(crate) fn rocks(operation: &'static str, dir: &Path, source: rocksdb::Error) -> Self {
        // Most reports carry the kind; some paths wrap it in text.
        if source.kind() == rocksdb::ErrorKind::Corruption || source.as_ref().contains("Corruption:") {
            Error::unreadable(dir, source.into_string())
        } else {
            Error::Rocks { operation, dir: dir.to_owned(), source }
        }
    }
}

/// The file below `dir` that RocksDB's message names, or `dir` itself.
fn file_named_in(dir: &Path, message: &str) -> PathBuf {
    message
        .split([' ', ',', ';', '\'', '"', '(', ')'])
        .filter_map(|word| {
            let word = word.trim_end_matches(['.', ':']);
            let name = word.rsplit('/').next().unwrap_or(word);
            let is_table = name.split_once('.').is_some_and(|(number, suffix)| {
                matches!(suffix, "sst" | "log" | "blob") && number.bytes().all(|b| b.is_ascii_digit())
            });
            (is_table || name.starts_with("MANIFEST-") || name == "CURRENT").then(|| dir.join(name))
        })
        .next()
        .unwrap_or_else(|| dir.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corruption_message_yields_the_file_it_names() {
        let dir = Path::new("/s/state");
        let message = "Corruption: block checksum mismatch: stored = 1, computed = 2, type = 4  in /s/state/000012.sst offset 0 size 9";
        assert_eq!(file_named_in(dir, message), Path::new("/s/state/000012.sst"));
        let message = "Corruption: Can't access /000009.sst: IO error: No such file or directory";
        assert_eq!(file_named_in(dir, message), Path::new("/s/state/000009.sst"));
        assert_eq!(file_named_in(dir, "Corruption: odd. file sizes differ"), dir);
    }
}
