//! A store directory: who may open it, what it is, and whose it is.
//!
//! ```text
//!   LOCK       locked while a process has the store open
//!   FORMAT     how to read the rest (`format`); written last when a store is made, so its absence says "not (yet) a store"
//!   CREATING   stands while a store is being made
//!   IDENTITY   cluster and node id; absent until the node has joined
//!   log/       the Raft log of all groups
//!   state/     what they have applied
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;

use crate::Error;
use crate::engine::Engine;
use crate::format;
use crate::ids::NodeId;
use crate::options::StoreOptions;
use crate::raft_log::{LogEngine, RocksLog};
use crate::seam::Seams;
use crate::wal_check;

const IDENTITY_MAGIC: &[u8; 8] = b"FLOTILID";

/// Whose store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster: drawn at its initialisation.
    pub cluster_id: u128,
    /// The node within it: assigned when it joined.
    pub node_id: NodeId,
}

/// An open store.
pub struct Store {
    dir: PathBuf,
    identity: Mutex<Option<Identity>>,
    log: Arc<dyn LogEngine>,
    engine: Arc<Engine>,
    /// Released last, when the databases are closed.
    _lock: File,
}

impl Store {
    /// Opens the store in `dir`, or makes one there if the directory is empty or missing. Verifies what it finds:
    /// damage is an error here rather than a wrong answer later.
    pub fn open(dir: &Path, options: StoreOptions, seams: Seams) -> Result<Arc<Store>, Error> {
        Self::open_with(dir, &options, |log_dir, exists| {
            if exists {
                wal_check::check_directory(log_dir)?;
            }
            Ok(Arc::new(RocksLog::open(log_dir, &options, seams)?))
        })
    }

    /// The same over another log engine, which is told the log's directory, and whether the store was there already.
    pub fn open_with(
        dir: &Path,
        options: &StoreOptions,
        open_log: impl FnOnce(&Path, bool) -> Result<Arc<dyn LogEngine>, Error>,
    ) -> Result<Arc<Store>, Error> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create the store's directory", dir, e))?;
        refuse_foreign(dir)?;
        let lock = lock(dir)?;
        let (log_dir, state_dir) = (dir.join("log"), dir.join("state"));
        let found = format::known(dir)?;
        let exists = found.is_some();
        if exists {
            wal_check::check_directory(&state_dir)?;
        } else {
            begin_creation(dir, &[&log_dir, &state_dir])?;
        }

        let log = open_log(&log_dir, exists)?;
        let engine = Engine::open(&state_dir, options)?;
        let identity = read_identity(dir)?;
        if let Some(found) = found {
            // A lost identity must not turn a member into a newcomer.
            if identity.is_none() && !log.groups()?.is_empty() {
                return Err(Error::corrupt(
                    dir.join("IDENTITY"),
                    "the file is missing, but the log has groups",
                ));
            }
            // Before anybody can write into it.
            format::upgrade(dir, found)?;
        } else {
            finish_creation(dir)?;
        }
        Ok(Arc::new(Store {
            dir: dir.to_owned(),
            identity: Mutex::new(identity),
            log,
            engine: Arc::new(engine),
            _lock: lock,
        }))
    }

    /// Whose store it is; `None` until the node has joined a cluster.
    pub fn identity(&self) -> Option<Identity> {
        *self.identity.lock()
    }

    /// Notes whose store it is; durable when this returns. An identity is for life.
    pub fn set_identity(&self, identity: Identity) -> Result<(), Error> {
        let mut current = self.identity.lock();
        if let Some(current) = *current {
            if current == identity {
                return Ok(());
            }
            return Err(Error::Misuse(format!("the store belongs to {current:?}, not to {identity:?}")));
        }
        let message = proto::storage::Identity {
            cluster_id: Bytes::copy_from_slice(&identity.cluster_id.to_be_bytes()),
            node_id: identity.node_id.0,
        }
        .encode_to_vec();
        let crc = crc32fast::hash(&message).to_le_bytes();
        replace_file(&self.dir, "IDENTITY", &[&IDENTITY_MAGIC[..], &crc, &message].concat())?;
        *current = Some(identity);
        Ok(())
    }

    /// The log of all groups.
    pub fn log(&self) -> Arc<dyn LogEngine> {
        self.log.clone()
    }

    /// The state database.
    pub fn engine(&self) -> Arc<Engine> {
        self.engine.clone()
    }

    /// Where the store is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes everything durable and ends the log's writer, for a clean shutdown. Later log operations fail.
    pub fn close(&self) -> Result<(), Error> {
        self.log.close();
        self.engine.flush()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.dir.display())
    }
}

pub(crate) fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("LOCK");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| Error::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", &path, e)),
    }
}

/// A directory with anything in it must say that it is a store, or was about to become one.
fn refuse_foreign(dir: &Path) -> Result<(), Error> {
    let mut found = None;
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let name = entry.map_err(|e| Error::io("list", dir, e))?.file_name();
        match name.to_str() {
            Some("FORMAT" | "CREATING") => return Ok(()),
            // A fresh file system has the latter; the former may have been made a moment ago by a rival.
            Some("LOCK" | "lost+found") => {}
            _ => found = Some(name.to_string_lossy().into_owned()),
        }
    }
    match found {
        Some(found) => Err(Error::Foreign { dir: dir.to_owned(), found }),
        None => Ok(()),
    }
}

/// A crash may have left a part of a store here: it was never used, so it goes.
fn begin_creation(dir: &Path, parts: &[&Path]) -> Result<(), Error> {
    let creating = dir.join("CREATING");
    File::create(&creating).map_err(|e| Error::io("create", &creating, e))?;
    sync_dir(dir)?;
    for part in parts {
        match std::fs::remove_dir_all(part) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove", part, e)),
            _ => {}
        }
    }
    Ok(())
}

fn finish_creation(dir: &Path) -> Result<(), Error> {
    format::mark(dir)?;
    let creating = dir.join("CREATING");
    std::fs::remove_file(&creating).map_err(|e| Error::io("remove", &creating, e))?;
    sync_dir(dir)
}

pub(crate) fn read_identity(dir: &Path) -> Result<Option<Identity>, Error> {
    let path = dir.join("IDENTITY");
    let content = match std::fs::read(&path) {
        Ok(content) => content,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let identity = content.strip_prefix(IDENTITY_MAGIC).and_then(|rest| {
        let (crc, message) = rest.split_first_chunk::<4>()?;
        if crc32fast::hash(message) != u32::from_le_bytes(*crc) {
            return None;
        }
        let message = proto::storage::Identity::decode(message).ok()?;
        let cluster_id = u128::from_be_bytes(message.cluster_id[..].try_into().ok()?);
        Some(Identity { cluster_id, node_id: NodeId(message.node_id) })
    });
    match identity {
        Some(identity) => Ok(Some(identity)),
        None => Err(Error::corrupt(path, "it is not what Flotilla wrote")),
    }
}

/// Writes a small file so that after a crash it has the old content or the new.
pub(crate) fn replace_file(dir: &Path, name: &str, content: &[u8]) -> Result<(), Error> {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.new")));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(|e| Error::io("write", &path, e))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("sync", dir, e))
}
