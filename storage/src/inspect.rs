//! A stopped node's store, looked at without changing it.
//!
//! Nothing is cut off, and nothing refused as a whole, so that a store that a node refuses can be looked at, too: what is
//! damaged is told when it is read. Only of a log that is damaged RocksDB reads what lies before the place, and says nothing:
//! [`Inspection::damage`] does. (RocksDB writes its diary, the files called `LOG`, and nothing else.)

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rocksdb::{DB, DBRecoveryMode};

use crate::Error;
use crate::engine::{Cf, Engine};
use crate::format;
use crate::ids::{GroupId, LogIndex};
use crate::options::{self, StoreOptions};
use crate::raft_log::{LogState, stored};
use crate::store::{self, Identity};
use crate::wal_check;

/// A store that no process has open, for reading.
pub struct Inspection {
    dir: PathBuf,
    format: u32,
    identity: Result<Option<Identity>, Error>,
    log: DB,
    engine: Engine,
    damage: Option<Error>,
    _lock: File,
}

/// The files of one of a store's databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Of a column family.
    pub family: String,
    /// How many.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Entries, deletions included.
    pub entries: u64,
}

impl Inspection {
    /// Opens what is in `dir`. Refuses what a node has open, what is no store, and a format that
    /// this version doesn't read. (An older one that it reads stays as it is.)
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let format = format::existing(dir)?;
        let lock = store::lock(dir)?;
        let (mut with, families) = options::log();
        // A torn tail is what a crash leaves: it is cut off when the node starts.
        with.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        let log = open(&dir.join("log"), with, families)?;
        let (with, families) = options::state(&StoreOptions::default());
        let engine = Engine::over(open(&dir.join("state"), with, families)?);
        let identity = store::read_identity(dir);
        let damage = ["log", "state"].iter().find_map(|database| wal_check::look(&dir.join(database)).err());
        Ok(Self { dir: dir.to_owned(), format, identity, log, engine, damage, _lock: lock })
    }

    /// What is wrong with a write-ahead log or a manifest (apart from what a crash leaves at its end): whatever lies behind it is not shown.
    pub fn damage(&self) -> Option<&Error> {
        self.damage.as_ref()
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version of its format.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// Whose it is; `None` if the node has never joined.
    pub fn identity(&self) -> Result<Option<Identity>, Error> {
        self.identity.clone()
    }

    /// What state machines had flushed. What is in no table, the node applies again from the log when it starts.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// All groups of which there is anything in the log or in the state.
    pub fn groups(&self) -> Result<Vec<GroupId>, Error> {
        let mut groups: BTreeSet<GroupId> = stored::states(&self.log)?.into_keys().collect();
        let snapshot = self.engine.snapshot();
        let mut iter = snapshot.iter(Cf::Group, &crate::ids::KeyRange::all());
        iter.seek_to_first();
        while let Some(id) = iter.key().and_then(|key| key.first_chunk::<8>()) {
            let id = u64::from_be_bytes(*id);
            // The first and the last are not groups': see `Cf::Group`, and `txn::keys`.
            if id != 0 && id != u64::MAX {
                groups.insert(GroupId(id));
            }
            let Some(next) = id.checked_add(1) else { break };
            iter.seek(&next.to_be_bytes());
        }
        iter.check()?;
        Ok(groups.into_iter().collect())
    }

    /// What the log has of a group, apart from its entries.
    pub fn log(&self, group: GroupId) -> Result<LogState, Error> {
        Ok(stored::states(&self.log)?.remove(&group).unwrap_or_default())
    }

    /// Shows the entries of a group from `from` on, oldest first, until `visit` has seen enough (and says `false`).
    pub fn entries(
        &self,
        group: GroupId,
        from: LogIndex,
        visit: &mut dyn FnMut(LogIndex, Bytes) -> bool,
    ) -> Result<(), Error> {
        stored::entries(&self.log, group, from, visit)
    }

    /// The tables of the log and of the state.
    pub fn tables(&self) -> Result<[Vec<Tables>; 2], Error> {
        Ok([tables(&self.log)?, tables(self.engine.database())?])
    }
}

fn open<const N: usize>(
    dir: &Path,
    options: rocksdb::Options,
    families: [(&'static str, rocksdb::Options); N],
) -> Result<DB, Error> {
    DB::open_cf_with_opts_for_read_only(&options, dir, families, false)
        .map_err(|e| Error::rocks("open the database", dir, e))
}

fn tables(db: &DB) -> Result<Vec<Tables>, Error> {
    let files = db.live_files().map_err(|e| Error::rocks("list the tables", db.path(), e))?;
    let mut found: Vec<Tables> = Vec::new();
    for file in files {
        let family = file.column_family_name;
        let at = found.iter().position(|tables| tables.family == family).unwrap_or_else(|| {
            found.push(Tables { family, files: 0, bytes: 0, entries: 0 });
            found.len() - 1
        });
        found[at].files += 1;
        found[at].bytes += file.size as u64;
        found[at].entries += file.num_entries;
    }
    Ok(found)
}

impl std::fmt::Debug for Inspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inspection({})", self.dir.display())
    }
}
