//! The file that an incoming snapshot is spooled to: frames of length, checksum and content, the first one the header,
//! the others chunks.
//!
//! What has arrived may be worth a lot when the connection breaks, or this node stops. So a file whose snapshot is
//! incomplete may be kept, and be gone on with, if the sender still has the same view. Nothing of it is synced before
//! it is complete: whoever opens it again reads it, and cuts it off behind the last frame that is whole and in its place.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use proto::raft as wire;
use proto::storage::SnapshotChunk;
use storage::fail_point::{self, FailPoint};
use storage::snapshot::is_whole;

use crate::api::Fatal;
use crate::types::{FIRST_VERSION, check_version};

/// Being received, or broken off, or not yet accepted.
pub(crate) const PARTIAL: &str = "partial";
/// A bound on what a length in a file may claim.
const FRAME_BYTES_MAX: usize = 1 << 30;
const BUFFER_BYTES: usize = 1 << 20;
/// Length and checksum.
const FRAME_HEAD_BYTES: u64 = 8;

/// A file, which is removed with this unless it is kept.
pub(crate) struct Spool {
    pub path: PathBuf,
    pub kept: bool,
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes an incoming snapshot to a file, checking each chunk. Dropped, it takes the file with it, unless it was
/// suspended last.
pub(crate) struct SpoolWriter {
    file: BufWriter<File>,
    spool: Spool,
    header: wire::SnapshotHeader,
    next_sequence: u64,
    bytes: u64,
    complete: bool,
}

impl SpoolWriter {
    /// `unique` tells apart snapshots of one group.
    pub fn create(dir: &Path, unique: u64, header: &wire::SnapshotHeader) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}-{unique:016x}.{PARTIAL}", header.group));
        let file = BufWriter::with_capacity(BUFFER_BYTES, File::create(&path)?);
        let spool = Spool { path, kept: false };
        let header = identity(header);
        let mut writer = Self { file, spool, header, next_sequence: 0, bytes: 0, complete: false };
        let head = writer.header.encode_to_vec();
        writer.frame(&head)?;
        Ok(writer)
    }

    /// Opens a file again that was kept, cutting off what is not whole. None: nothing is.
    pub fn reopen(path: &Path) -> io::Result<Option<Self>> {
        let spool = Spool { path: path.to_owned(), kept: false };
        let mut reader = SpoolReader::open(path)?;
        let Ok(header) = reader.header() else { return Ok(None) };
        let header = identity(&header);
        let (mut next_sequence, mut complete) = (0, false);
        let mut whole = reader.read;
        while let Ok(frame) = reader.frame() {
            match SnapshotChunk::decode(frame) {
                Ok(chunk) if !complete && chunk.sequence == next_sequence => complete = chunk.last,
                _ => break,
            }
            next_sequence += 1;
            whole = reader.read;
        }
        let mut file = File::options().write(true).open(path)?;
        file.set_len(whole)?;
        file.seek(SeekFrom::End(0))?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Some(Self { file, spool, header, next_sequence, bytes: whole, complete }))
    }

    /// Whether this is the snapshot of that header, so that its chunks are to be added here.
    pub fn is_of(&self, header: &wire::SnapshotHeader) -> bool {
        header.id != 0 && self.header == identity(header)
    }

    /// The first chunk that is lacking.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// The bytes that are there.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the last chunk is there.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn frame(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(&(bytes.len() as u32).to_le_bytes())?;
        self.file.write_all(&crc32fast::hash(bytes).to_le_bytes())?;
        self.bytes += FRAME_HEAD_BYTES + bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Adds an encoded [`SnapshotChunk`].
    pub fn push(&mut self, encoded: &Bytes) -> io::Result<()> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a snapshot chunk {what}"));
        self.spool.kept = false;
        let chunk = SnapshotChunk::decode(encoded.clone()).map_err(|_| bad("does not decode"))?;
        if self.complete || chunk.sequence != self.next_sequence {
            return Err(bad("is out of sequence"));
        }
        if !is_whole(&chunk) {
            return Err(bad("fails its checksum"));
        }
        self.next_sequence += 1;
        self.complete = chunk.last;
        self.frame(encoded)
    }

    /// From now on, and until more is added, the file outlives this.
    pub fn suspend(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.spool.kept = true;
        Ok(())
    }

    /// Removes the file.
    pub fn discard(mut self) {
        self.spool.kept = false;
    }

    /// The file is complete and on disk.
    pub fn finish(mut self) -> io::Result<Spool> {
        if !self.complete {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot ended early"));
        }
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        self.spool.kept = false;
        fail_point::pass(FailPoint::SnapshotSpooled);
        Ok(self.spool)
    }
}

/// The header as this version writes it to a file, without what differs between streams of one snapshot.
fn identity(header: &wire::SnapshotHeader) -> wire::SnapshotHeader {
    wire::SnapshotHeader { first_sequence: 0, version: FIRST_VERSION, ..header.clone() }
}

/// Reads such a file.
pub(crate) struct SpoolReader {
    file: BufReader<File>,
    path: PathBuf,
    /// Up to the end of the last frame.
    read: u64,
    length: u64,
}

impl SpoolReader {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Self { file, path: path.to_owned(), read: 0, length })
    }

    /// The next frame's content.
    pub fn frame(&mut self) -> io::Result<Bytes> {
        let bad =
            || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", self.path.display()));
        let mut word = [0; 4];
        self.file.read_exact(&mut word)?;
        let length = u32::from_le_bytes(word) as usize;
        self.file.read_exact(&mut word)?;
        let end = self.read + FRAME_HEAD_BYTES + length as u64;
        // (No frame is empty; zeros, which a crash may leave behind a file's end, would be one.)
        if length == 0 || length > FRAME_BYTES_MAX || end > self.length {
            return Err(bad());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes)?;
        if crc32fast::hash(&bytes) != u32::from_le_bytes(word) {
            return Err(bad());
        }
        self.read = end;
        Ok(bytes.into())
    }

    /// The first frame.
    pub fn header(&mut self) -> Result<wire::SnapshotHeader, Fatal> {
        let frame = self.frame().map_err(Fatal::new)?;
        let header = wire::SnapshotHeader::decode(frame).map_err(Fatal::new)?;
        check_version(header.version, "snapshot header: this version does not know its form")
            .map_err(Fatal::new)?;
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use storage::snapshot::sealed;

    use super::*;

    fn chunk(sequence: u64, last: bool) -> Bytes {
        sealed(sequence, last, vec![sequence as u8; 1000].into()).encode_to_vec().into()
    }

    fn header(id: u64) -> wire::SnapshotHeader {
        wire::SnapshotHeader { group: 5, id, ..wire::SnapshotHeader::default() }
    }

    fn kept(dir: &Path, chunks: u64) -> PathBuf {
        let mut writer = SpoolWriter::create(dir, 1, &header(9)).expect("create");
        (0..chunks).for_each(|n| writer.push(&chunk(n, false)).expect("push"));
        writer.suspend().expect("suspend");
        writer.spool.path.clone()
    }

    #[test]
    fn suspended_file_is_gone_on_with_and_another_goes() {
        let dir = tempfile::tempdir().expect("dir");
        let path = kept(dir.path(), 3);
        let mut writer = SpoolWriter::reopen(&path).expect("reopen").expect("a header");
        let stream = wire::SnapshotHeader { first_sequence: 3, ..header(9) };
        assert!(writer.is_of(&stream) && !writer.is_of(&header(8)));
        assert_eq!((writer.next_sequence(), writer.is_complete()), (3, false));
        assert_eq!(writer.bytes(), path.metadata().expect("metadata").len());
        assert!(writer.push(&chunk(2, false)).is_err(), "it has that one");
        writer.push(&chunk(3, true)).expect("push");
        let spool = writer.finish().expect("finish");
        let mut reader = SpoolReader::open(&spool.path).expect("open");
        assert_eq!(reader.header().expect("header"), header(9));
        for n in 0..4 {
            assert_eq!(reader.frame().expect("frame"), chunk(n, n == 3));
        }
        drop(spool);
        assert!(!path.exists(), "nobody has accepted it");
    }

    #[test]
    fn file_of_a_later_version_is_not_gone_on_with() {
        let dir = tempfile::tempdir().expect("dir");
        for (version, known) in [(0, true), (1, true), (2, false)] {
            let path = dir.path().join("5-1.partial");
            let content = wire::SnapshotHeader { version, ..header(9) }.encode_to_vec();
            let length = (content.len() as u32).to_le_bytes();
            let frame = [&length[..], &crc32fast::hash(&content).to_le_bytes()[..], &content[..]].concat();
            std::fs::write(&path, frame).expect("write");
            assert_eq!(SpoolReader::open(&path).expect("open").header().is_ok(), known);
            let writer = SpoolWriter::reopen(&path).expect("reopen");
            assert_eq!(writer.is_some_and(|writer| writer.is_of(&header(9))), known);
            assert!(!path.exists());
        }
    }

    #[test]
    fn chunk_whose_place_was_altered_on_the_way_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let mut writer = SpoolWriter::create(dir.path(), 1, &header(9)).expect("create");
        let chunk = sealed(0, false, Bytes::from_static(b"rows"));
        let altered = [
            SnapshotChunk { last: true, ..chunk.clone() },
            SnapshotChunk { payload: Bytes::from_static(b"cows"), ..chunk.clone() },
            SnapshotChunk { sequence: 1, ..chunk.clone() },
        ];
        for altered in altered {
            writer.push(&altered.encode_to_vec().into()).expect_err("altered");
        }
        assert_eq!((writer.next_sequence(), writer.is_complete()), (0, false));
        writer.push(&chunk.encode_to_vec().into()).expect("as it was sent");
        // From a version before.
        let old = SnapshotChunk { place_crc32: None, ..sealed(1, true, Bytes::from_static(b"more")) };
        writer.push(&old.encode_to_vec().into()).expect("its content is right");
        assert!(writer.is_complete());
    }

    #[test]
    fn torn_or_damaged_tail_is_cut_off() {
        let dir = tempfile::tempdir().expect("dir");
        let path = kept(dir.path(), 3);
        let whole = std::fs::read(&path).expect("read");
        let frame = chunk(2, false).len() + 8;
        let mut zeros = whole.clone();
        zeros.extend_from_slice(&[0; 100]);
        let mut flipped = whole.clone();
        flipped[whole.len() - frame - 1] ^= 1;
        for (content, left) in [
            (whole.clone(), 3),
            (zeros, 3),
            (whole[..whole.len() - 1].to_vec(), 2),
            (whole[..whole.len() - frame + 5].to_vec(), 2),
            (flipped, 1),
        ] {
            std::fs::write(&path, content).expect("write");
            let mut writer = SpoolWriter::reopen(&path).expect("reopen").expect("a header");
            assert_eq!(writer.next_sequence(), left);
            for n in left..4 {
                writer.push(&chunk(n, n == 3)).expect("push");
            }
            writer.suspend().expect("suspend");
            drop(writer);
            let again = SpoolWriter::reopen(&path).expect("reopen").expect("a header");
            assert!(again.is_complete());
            drop(again);
            assert!(!path.exists());
        }
        std::fs::write(&path, &whole[..6]).expect("write");
        assert!(SpoolWriter::reopen(&path).expect("reopen").is_none(), "not even a header");
        assert!(!path.exists());
    }
}
