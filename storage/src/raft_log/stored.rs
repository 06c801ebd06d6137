//! A log that nobody has open, read as it lies on disk.

use std::collections::BTreeMap;

use bytes::Bytes;
use rocksdb::{DB, ReadOptions};

use super::LogState;
use super::record;
use super::rocks::{load_groups, read_sealed};
use crate::Error;
use crate::ids::{GroupId, LogIndex};

/// What there is of each group, apart from its entries.
pub(crate) fn states(db: &DB) -> Result<BTreeMap<GroupId, LogState>, Error> {
    let mut states = BTreeMap::new();
    for (id, group) in load_groups(db)? {
        let group = group.lock();
        let last = match group.last {
            Some(index) => read_sealed(db, &record::entry_key(id, index))?.map(|entry| (index, entry)),
            None => None,
        };
        let state = LogState {
            first: group.purged.as_ref().map(|_| group.first),
            last,
            vote: group.vote.clone(),
            committed: group.committed.clone(),
            purged: group.purged.clone(),
        };
        states.insert(id, state);
    }
    Ok(states)
}

/// Shows entries, oldest first, until `visit` says `false`.
pub(crate) fn entries(
    db: &DB,
    group: GroupId,
    from: LogIndex,
    visit: &mut dyn FnMut(LogIndex, Bytes) -> bool,
) -> Result<(), Error> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(record::entries_end(group));
    let mut cursor = db.raw_iterator_opt(options);
    cursor.seek(record::entry_key(group, from));
    while let Some((key, stored)) = cursor.item() {
        let corrupt = |detail: String| Error::corrupt(db.path(), detail);
        let index = record::entry_index(key)
            .ok_or_else(|| corrupt(format!("the key {} is none of an entry", key.escape_ascii())))?;
        let payload = record::open(key, stored)
            .ok_or_else(|| corrupt(format!("entry {index} of {group} fails its checksum")))?;
        if !visit(index, Bytes::copy_from_slice(payload)) {
            return Ok(());
        }
        cursor.next();
    }
    cursor.status().map_err(|e| Error::rocks("read the log", db.path(), e))
}
