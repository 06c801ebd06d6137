//! Reads RocksDB's log files (write-ahead logs and manifests) before RocksDB does, to tell a torn tail from damage.
//!
//! RocksDB's recovery modes draw the line elsewhere than we must. The tolerant ones take a flipped length near the
//! end of a file for the end of the log and drop acknowledged records without a word; the strict one refuses a store
//! whose last, unacknowledged write was cut short by a crash. So this module decides, cuts off what is torn, and
//! RocksDB then opens the log in its strict mode.
//!
//! The file is a row of 32 KiB blocks of records (see `db/log_format.h` in RocksDB):
//!
//! ```text
//!   crc32c u32 LE, masked │ length u16 LE │ type u8 (full, or first … middle … last of a batch) │ payload
//! ```
//!
//! **What a crash can leave.** The writer syncs each batch before it writes the next, and files are only appended
//! to. So at most the last batch is incomplete, and what it lacks is missing from the file or reads as zeros. Each
//! batch ends in [`BATCH_TRAILER`], which is not zero, so a complete batch never ends in zeros.
//!
//! **What is damage**, then: a record that fails its checksum although (a) another batch begins behind it, or (b)
//! nothing of it is missing. A length field that was flipped so that the record seems to extend beyond the end of
//! the file is found by trying the length that would end exactly there.
//!
//! Caveat: a flip of many bytes that turns the end of the very last batch into zeros looks like a tear. And a tear
//! on a disk that makes random bytes of an unsynced tail is refused as damage: safe, the node joins again.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::crc32c::crc32c;

/// What the log writer appends to each batch: see the module's essay.
pub(crate) const BATCH_TRAILER: &[u8] = &[0xa5; 8];

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// How a log file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// With a whole batch.
    Whole,
    /// With a batch that was not completely written, and begins at this offset.
    Torn(usize),
}

/// What a crash has left at the end of a log.
pub(crate) struct Torn {
    path: PathBuf,
    /// Where the batch begins that was not completely written.
    at: usize,
    length: usize,
}

/// Checks the manifest and the write-ahead logs of a RocksDB directory. Cuts off the torn tail of the newest
/// write-ahead log; anything else that is wrong is [`Error::Corrupt`].
pub(crate) fn check_directory(dir: &Path) -> Result<(), Error> {
    match look(dir)? {
        Some(torn) => cut(&torn),
        None => Ok(()),
    }
}

/// The same without changing anything: what is to be cut off.
pub(crate) fn look(dir: &Path) -> Result<Option<Torn>, Error> {
    let current = dir.join("CURRENT");
    let named = std::fs::read(&current).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::corrupt(&current, "the file is missing"),
        _ => Error::io("read", &current, e),
    })?;
    let manifest = std::str::from_utf8(&named)
        .ok()
        .and_then(|name| name.strip_suffix('\n'))
        .filter(|name| name.starts_with("MANIFEST-"))
        .map(|name| dir.join(name))
        .ok_or_else(|| Error::corrupt(&current, "it does not name a manifest"))?;
    if !manifest.is_file() {
        return Err(Error::corrupt(&current, format!("it names {}, which is missing", manifest.display())));
    }
    // A torn manifest is left to RocksDB, which ignores an incomplete last record.
    check(&manifest, &read(&manifest)?)?;

    let mut logs: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let path = entry.map_err(|e| Error::io("list", dir, e))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|e| e == "log")) {
            logs.push((number, path));
        }
    }
    logs.sort();
    // RocksDB makes the next file ahead of need: the newest one with anything in it is the last that was written.
    let mut newest = true;
    let mut torn = None;
    for (_, path) in logs.iter().rev() {
        let data = read(path)?;
        match check(path, &data)? {
            Tail::Whole => {}
            Tail::Torn(at) if newest => torn = Some(Torn { path: path.clone(), at, length: data.len() }),
            Tail::Torn(at) => {
                return Err(Error::corrupt(
                    path,
                    format!("the batch at offset {at} is incomplete, though a later file follows"),
                ));
            }
        }
        newest &= data.is_empty();
    }
    Ok(torn)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e| Error::io("read", path, e))
}

fn cut(torn: &Torn) -> Result<(), Error> {
    let Torn { path, at, length } = torn;
    tracing::warn!(
        file = %path.display(), offset = at, bytes = length - at,
        "cutting off a write that a crash left incomplete; it was never acknowledged"
    );
    let cut = || {
        let file = std::fs::OpenOptions::new().write(true).open(path)?;
        file.set_len(*at as u64)?;
        file.sync_all()
    };
    cut().map_err(|e| Error::io("cut off the torn tail of", path, e))
}

/// Checks one file's content.
pub(crate) fn check(path: &Path, data: &[u8]) -> Result<Tail, Error> {
    let mut at = 0;
    // Where the batch begins whose last fragment was not seen yet.
    let mut open = None;
    while at < data.len() {
        let block_left = BLOCK - at % BLOCK;
        if block_left < HEADER {
            let end = data.len().min(at + block_left);
            if data[at..end].iter().any(|&b| b != 0) {
                return Err(Error::corrupt(path, format!("the padding at offset {at} is not zero")));
            }
            at = end;
            continue;
        }
        let Some(record) = Record::at(data, at) else {
            return classify(path, data, at, open.unwrap_or(at));
        };
        let fits = match record.kind {
            FULL | FIRST => open.is_none(),
            MIDDLE | LAST => open.is_some(),
            _ => true,
        };
        if !fits {
            return Err(Error::corrupt(path, format!("the record at offset {at} is out of order")));
        }
        match record.kind {
            FIRST => open = Some(at),
            LAST => open = None,
            _ => {}
        }
        at = record.end;
    }
    Ok(open.map_or(Tail::Whole, Tail::Torn))
}

/// A record whose checksum is right.
struct Record {
    kind: u8,
    end: usize,
}

impl Record {
    fn at(data: &[u8], at: usize) -> Option<Record> {
        let header = data.get(at..at + HEADER)?;
        let end = at + HEADER + usize::from(u16::from_le_bytes([header[4], header[5]]));
        let within_block = end <= at - at % BLOCK + BLOCK;
        let body = data.get(at + HEADER - 1..end)?;
        let kind = header[6];
        let crc = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        (within_block && kind != 0 && crc == masked(body)).then_some(Record { kind, end })
    }
}

/// RocksDB's form of a checksum; `body` begins with the type.
fn masked(body: &[u8]) -> u32 {
    crc32c(body).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Where the first batch behind the bad record at `at` begins.
fn next_batch(data: &[u8], at: usize) -> Option<usize> {
    let begins = |at: usize| {
        let plausible =
            BLOCK - at % BLOCK >= HEADER && matches!(data.get(at + HEADER - 1), Some(&(FULL | FIRST)));
        plausible.then(|| Record::at(data, at)).flatten().map(|_| at)
    };
    // In the bad record's own block any byte may begin one, for the bad record's length can't be trusted.
    let block_end = data.len().min(at - at % BLOCK + BLOCK);
    if let Some(found) = (at + 1..block_end).find_map(begins) {
        return Some(found);
    }
    // Records never cross a block, so each later block begins with one.
    for block in (block_end..data.len()).step_by(BLOCK) {
        let mut at = block;
        while at < data.len().min(block + BLOCK) {
            if let Some(found) = begins(at) {
                return Some(found);
            }
            match Record::at(data, at) {
                Some(record) => at = record.end,
                None => break,
            }
        }
    }
    None
}

/// Whether the bad record at `at`, of the batch that begins at `batch`, is torn or damaged.
fn classify(path: &Path, data: &[u8], at: usize, batch: usize) -> Result<Tail, Error> {
    let damaged = |why: &str| {
        Err(Error::corrupt(path, format!("the record at offset {at} fails its checksum, and {why}")))
    };
    if let Some(next) = next_batch(data, at) {
        return damaged(&format!("another batch follows at offset {next}"));
    }
    let rest = &data[at..];
    let zeros = rest.iter().rev().take_while(|&&b| b == 0).count();
    if zeros >= BATCH_TRAILER.len() || zeros == rest.len() {
        return Ok(Tail::Torn(batch));
    }
    let Some(header) = rest.first_chunk::<HEADER>() else {
        return Ok(Tail::Torn(batch));
    };
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let block_end = at - at % BLOCK + BLOCK;
    if at + HEADER + length > data.len() && at + HEADER + length <= block_end {
        let crc = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        if crc == masked(&rest[HEADER - 1..]) {
            return damaged("is whole but for its length");
        }
        return Ok(Tail::Torn(batch));
    }
    damaged("nothing of it is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of batches with the given payload sizes, as RocksDB writes it, and where each batch ends.
    fn file(sizes: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let (mut data, mut ends) = (Vec::new(), Vec::new());
        for (number, &size) in sizes.iter().enumerate() {
            // Not a byte that looks like a record's type: the search for the next batch would try each of them.
            let mut payload = vec![b'a' + number as u8; size];
            payload.extend_from_slice(BATCH_TRAILER);
            let mut rest = &payload[..];
            let mut first = true;
            while first || !rest.is_empty() {
                let left = BLOCK - data.len() % BLOCK;
                if left < HEADER {
                    data.resize(data.len() + left, 0);
                    continue;
                }
                let (fragment, after) = rest.split_at(rest.len().min(left - HEADER));
                let kind = match (first, after.is_empty()) {
                    (true, true) => FULL,
                    (true, false) => FIRST,
                    (false, false) => MIDDLE,
                    (false, true) => LAST,
                };
                let mut body = vec![kind];
                body.extend_from_slice(fragment);
                data.extend_from_slice(&masked(&body).to_le_bytes());
                data.extend_from_slice(&(fragment.len() as u16).to_le_bytes());
                data.extend_from_slice(&body);
                (first, rest) = (false, after);
            }
            ends.push(data.len());
        }
        (data, ends)
    }

    fn checked(data: &[u8]) -> Result<Tail, Error> {
        check(Path::new("000001.log"), data)
    }

    #[test]
    fn whole_file_is_whole() {
        assert_eq!(checked(&[]).expect("empty"), Tail::Whole);
        assert_eq!(checked(&file(&[10, 40_000, 0, 70_000, 3]).0).expect("whole"), Tail::Whole);
    }

    #[test]
    fn cut_anywhere_in_the_last_batch_is_torn_where_that_batch_begins() {
        for sizes in [&[10, 300][..], &[10, 70_000], &[300]] {
            let (data, ends) = file(sizes);
            let begin = if ends.len() > 1 { ends[ends.len() - 2] } else { 0 };
            for end in (begin + 1..data.len()).step_by(1 + sizes[sizes.len() - 1] / 40) {
                assert_eq!(checked(&data[..end]).expect("torn"), Tail::Torn(begin), "cut at {end}");
                // The file had its length already, but not its bytes.
                let mut zeroed = data.clone();
                zeroed[end..].fill(0);
                if data.len() - end >= BATCH_TRAILER.len() {
                    assert_eq!(checked(&zeroed).expect("torn"), Tail::Torn(begin), "zeros from {end}");
                }
            }
        }
    }

    #[test]
    fn any_flipped_bit_is_damage() {
        let every_flip = |data: &[u8], places: &mut dyn Iterator<Item = usize>| {
            for at in places {
                for bit in 0..8 {
                    let mut flipped = data.to_vec();
                    flipped[at] ^= 1 << bit;
                    assert!(
                        matches!(checked(&flipped), Err(Error::Corrupt { .. })),
                        "bit {bit} of byte {at}"
                    );
                }
            }
        };
        let (data, _) = file(&[10, 60, 0, 20]);
        every_flip(&data, &mut (0..data.len()));
        // A batch in two fragments, before and after another one.
        let (data, ends) = file(&[33_000, 60]);
        every_flip(&data, &mut (0..8).chain(BLOCK - 1..BLOCK + 9).chain(ends[0] - 1..ends[0] + 8));
        let (data, ends) = file(&[60, 33_000]);
        every_flip(&data, &mut (ends[0] - 1..ends[0] + 8).chain(BLOCK..BLOCK + 9).chain([data.len() - 1]));
    }
}
