//! The mark that says how a store's bytes are to be read: the file FORMAT, with one number for all that the store holds.
//!
//! - **1**: the first one.
//! - **2**: commands may be compressed (`raft.Entry.compression`), and may do nothing but close a timestamp
//!   (`shard.Command.closed`). Ballots, positions, import markers and spooled snapshots say their version, unless it is the first.
//!
//! # The rule
//!
//! **A new kind of entry, row or file, or another encoding of one, raises [`NEWEST`]**, with a line in the list above. It is about what
//! the version before would make of it: an entry that it can't read stops its replicas one by one, hours after it was
//! started; one that it reads as something else makes them differ. Refused by its mark, the store is refused at once, whole and by name. A
//! field that the version before may overlook, and be right all the same (a checksum, a hint), doesn't raise it.
//!
//! Whoever raises it says in [`upgrade`] what becomes of the stores of the format before. They are marked when they are opened, before
//! anything can be written into them, and then there is no way back: the version before refuses what is marked. When a format is
//! read no more, [`OLDEST`] rises; a store of it is refused, too, and says that a version in between has to open it first.

use std::io::ErrorKind;
use std::path::Path;

use crate::Error;
use crate::store::replace_file;

/// What this version writes. See the rule.
pub(crate) const NEWEST: u32 = 2;
/// The oldest format that this version reads, and brings to [`NEWEST`].
pub(crate) const OLDEST: u32 = 1;

const MAGIC: &str = "flotilla-store";

/// The format of the store in `dir`, which this version reads; `None` if there is no store yet.
pub(crate) fn known(dir: &Path) -> Result<Option<u32>, Error> {
    known_to(dir, OLDEST, NEWEST)
}

/// The same for a version that reads those formats.
pub(crate) fn known_to(dir: &Path, oldest: u32, newest: u32) -> Result<Option<u32>, Error> {
    match read(dir)? {
        Some(found) if found > newest => {
            Err(Error::NewerFormat { dir: dir.to_owned(), found, supported: newest })
        }
        Some(found) if found < oldest => {
            Err(Error::OlderFormat { dir: dir.to_owned(), found, oldest, newest })
        }
        found => Ok(found),
    }
}

/// The format of a store that must be there.
pub(crate) fn existing(dir: &Path) -> Result<u32, Error> {
    known(dir)?.ok_or_else(|| Error::io("read", &dir.join("FORMAT"), ErrorKind::NotFound.into()))
}

/// Brings a store of a format that this version reads to the one that it writes. It is durable when this returns.
pub(crate) fn upgrade(dir: &Path, found: u32) -> Result<(), Error> {
    assert!((OLDEST..=NEWEST).contains(&found), "a store of format {found} was not refused");
    if found == NEWEST {
        return Ok(());
    }
    // From 1 to 2: nothing is converted. Format 2 only adds to what 1 has, and what 1 wrote reads as ever.
    mark(dir)?;
    tracing::info!(store = %dir.display(), found, now = NEWEST, "the store has a newer format now: older versions refuse it");
    Ok(())
}

/// Marks a store as of the newest format.
pub(crate) fn mark(dir: &Path) -> Result<(), Error> {
    replace_file(dir, "FORMAT", line(NEWEST).as_bytes())
}

/// What the file holds: the magic word, the number, and a checksum of both.
pub(crate) fn line(format: u32) -> String {
    let said = format!("{MAGIC} {format}");
    format!("{said} {:08x}\n", crc32fast::hash(said.as_bytes()))
}

fn read(dir: &Path) -> Result<Option<u32>, Error> {
    let path = dir.join("FORMAT");
    let content = match std::fs::read(&path) {
        Ok(content) => content,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let format = std::str::from_utf8(&content).ok().and_then(|said| {
        let format: u32 = said.strip_prefix(MAGIC)?.split_whitespace().next()?.parse().ok()?;
        (said == line(format)).then_some(format)
    });
    match format {
        Some(format) => Ok(Some(format)),
        None => Err(Error::corrupt(path, "it is not what Flotilla wrote")),
    }
}
