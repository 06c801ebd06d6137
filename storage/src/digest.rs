//! Digests of what a view holds: replicas of one group at one index of its log have equal ones.
//!
//! The rows are read in key order, beside the block cache, a step at a time, so that whoever asks for the digest of a large
//! shard decides how much of the disk it may take. Each column family has a digest of its own: where two replicas differ, that
//! says of what kind the difference is. Every block that is read is checked against its checksum on the way.

use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::engine::{Cf, Snapshot};
use crate::ids::KeyRange;

/// Rows of one column family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many.
    pub rows: u64,
    /// Their keys and values together.
    pub bytes: u64,
    /// SHA-256 over each key and value, with their lengths.
    pub hash: [u8; 32],
}

/// A digest being made.
pub struct Digester {
    view: Snapshot,
    /// What is left, in stored keys, the next one last.
    left: Vec<(Cf, KeyRange)>,
    sums: [(Sha256, u64, u64); Cf::ALL.len()],
}

impl Digester {
    /// Of `spans` (user keys in `Data` and `Intents`, stored keys in `Group`) as `view` shows them.
    pub fn new(view: Snapshot, spans: &[(Cf, KeyRange)]) -> Self {
        let spans = spans.iter().filter(|(_, range)| !range.is_empty());
        let left = spans.map(|(cf, range)| (*cf, cf.stored(range))).rev().collect();
        Self { view, left, sums: Default::default() }
    }

    /// Reads on, for about `bytes_max`. Says how many bytes it read; `None` if there is nothing left. Blocks on the disk.
    pub fn step(&mut self, bytes_max: u64) -> Result<Option<u64>, Error> {
        let mut read = 0;
        while let Some((cf, range)) = self.left.pop() {
            let (hasher, rows, bytes) = &mut self.sums[cf as usize];
            let mut iter = self.view.iter_stored(cf, range.clone(), false);
            iter.seek_to_first();
            while let Some((key, value)) = iter.item() {
                if read >= bytes_max {
                    let start = bytes::Bytes::copy_from_slice(key);
                    self.left.push((cf, KeyRange { start, end: range.end }));
                    return Ok(Some(read));
                }
                hasher.update((key.len() as u64).to_be_bytes());
                hasher.update(key);
                hasher.update((value.len() as u64).to_be_bytes());
                hasher.update(value);
                let length = (key.len() + value.len()) as u64;
                *rows += 1;
                *bytes += length;
                // What is small costs something, too.
                read += length + 16;
                iter.next();
            }
            iter.check()?;
        }
        Ok((read > 0).then_some(read))
    }

    /// By column family, in the order of [`Cf::ALL`].
    pub fn finish(self) -> [Digest; Cf::ALL.len()] {
        self.sums.map(|(hasher, rows, bytes)| Digest { rows, bytes, hash: hasher.finalize().into() })
    }
}
