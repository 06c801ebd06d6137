//! The small files beside the databases in a store.
//!
//! | file | what | written |
//! |---|---|---|
//! | `INSTANCE` | 16 random bytes, in hex: this store, whatever node it becomes | before the first join; never changed |
//! | `BOOTSTRAP` | the new cluster's id and settings: its initialisation has begun and is not finished | by `init`; removed at its end |
//! | `cluster-map` | nodes and members as last heard of, so that a node finds the others without a join list | on change; a lost one costs nothing |
//!
//! The first two are durable when the call returns: file and directory are synced.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// Files in one store's directory.
#[derive(Clone, Debug)]
pub struct LocalFiles {
    dir: PathBuf,
}

impl LocalFiles {
    /// Of the store in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The directory.
    pub fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    /// The store's own identity; `fresh` is used, and kept, if there is none yet.
    pub fn instance(&self, fresh: u128) -> Result<u128, Failure> {
        const NAME: &str = "INSTANCE";
        match self.read(NAME)? {
            Some(text) => parse_hex(&text).ok_or_else(|| self.malformed(NAME)),
            None => {
                self.write(NAME, format!("{fresh:032x}\n").as_bytes())?;
                Ok(fresh)
            }
        }
    }

    /// The initialisation that has begun and not finished, if there is one: cluster id, replication factor.
    pub fn bootstrap(&self) -> Result<Option<(u128, u32)>, Failure> {
        let Some(text) = self.read("BOOTSTRAP")? else { return Ok(None) };
        let malformed = || self.malformed("BOOTSTRAP");
        let text = String::from_utf8(text).map_err(|_| malformed())?;
        let (id, factor) = text.trim().split_once(' ').ok_or_else(malformed)?;
        let id = parse_hex(id.as_bytes()).ok_or_else(malformed)?;
        Ok(Some((id, factor.parse().map_err(|_| malformed())?)))
    }

    /// An initialisation begins.
    pub fn begin_bootstrap(&self, cluster_id: u128, replication_factor: u32) -> Result<(), Failure> {
        self.write("BOOTSTRAP", format!("{cluster_id:032x} {replication_factor}\n").as_bytes())
    }

    /// It has ended: everything it made is durable.
    pub fn end_bootstrap(&self) -> Result<(), Failure> {
        let path = self.dir.join("BOOTSTRAP");
        let removed = fs::remove_file(&path).and_then(|()| File::open(&self.dir)?.sync_all());
        removed.map_err(|source| Failure::File { operation: "remove", path, source })
    }

    /// What was heard of the cluster in an earlier run.
    pub fn cluster_map(&self) -> Result<Option<Vec<u8>>, Failure> {
        self.read("cluster-map")
    }

    /// Remembers it.
    pub fn remember_cluster_map(&self, encoded: &[u8]) -> Result<(), Failure> {
        self.write("cluster-map", encoded)
    }

    fn malformed(&self, name: &str) -> Failure {
        let detail = "it does not read as what was written".to_owned();
        Failure::Store(storage::Error::Corrupt { file: self.dir.join(name), detail })
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Failure::File { operation: "read", path, source }),
        }
    }

    /// All or nothing, and durable.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.dir.join(name);
        let temporary = self.dir.join(format!("{name}.new"));
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| File::open(&self.dir)?.sync_all());
        written.map_err(|source| Failure::File { operation: "write", path, source })
    }
}

fn parse_hex(text: &[u8]) -> Option<u128> {
    u128::from_str_radix(std::str::from_utf8(text).ok()?.trim(), 16).ok()
}
