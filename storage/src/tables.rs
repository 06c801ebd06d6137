//! Tables that are written beside the state database and then become part of it.
//!
//! They bypass the memtables: what they hold goes to the disk once, takes no memory, and makes nobody wait for a
//! flush. RocksDB links them under names of its own and notes them in its manifest, so they are durable *at once*,
//! before batches that were written earlier: whoever ingests has to leave word, durably, before it does
//! ([`crate::import`]). What others have in the memtables at that time is neither flushed nor lost by it, as long as
//! it lies outside of the tables' ranges; a table therefore never reaches over the end of a span.
//!
//! Each block carries a checksum from the moment it is made. At ingestion RocksDB reads the whole table from the disk
//! and compares them, and then notes the checksum of the file, which is compared at each start ([`crate::verify`]).

use std::ffi::{CString, c_char, c_uchar, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{AsColumnFamilyRef, AsRawPtr, SstFileWriter};

use crate::Error;
use crate::engine::{Cf, Engine, handle};
use crate::ids::GroupId;
use crate::verify::message;

/// A table is ended when it is so large on disk. Many small ones would pile up in level 0, where they go if there is
/// anything below them.
pub(crate) const TABLE_BYTES: u64 = 128 << 20;
/// Beside the state database's directory: on the same file system, so that tables can be linked.
const DIR: &str = "importing";

// In RocksDB's C interface; the binding has no way to have checksums verified.
unsafe extern "C" {
    fn rocksdb_ingestexternalfileoptions_create() -> *mut c_void;
    fn rocksdb_ingestexternalfileoptions_destroy(options: *mut c_void);
    fn rocksdb_ingestexternalfileoptions_set_move_files(options: *mut c_void, on: c_uchar);
    fn rocksdb_ingestexternalfileoptions_set_verify_checksums_before_ingest(
        options: *mut c_void,
        on: c_uchar,
    );
    fn rocksdb_ingestexternalfileoptions_set_fill_cache(options: *mut c_void, on: c_uchar);
    fn rocksdb_ingest_external_file_cf(
        db: *mut c_void,
        family: *mut c_void,
        files: *const *const c_char,
        count: usize,
        options: *const c_void,
        error: *mut *mut c_char,
    );
}

/// What a crash has left there is of no use. Before the database in `state` is opened.
pub(crate) fn remove_leftovers(state: &Path) -> Result<(), Error> {
    remove(&state.with_file_name(DIR))
}

fn remove(dir: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", dir, e)),
        _ => Ok(()),
    }
}

/// The tables of one import, in a directory of their own that goes with this.
pub(crate) struct Tables<'e> {
    engine: &'e Arc<Engine>,
    dir: PathBuf,
    bytes_max: u64,
    open: Option<Open<'e>>,
    done: Vec<(Cf, PathBuf)>,
}

struct Open<'e> {
    cf: Cf,
    path: PathBuf,
    writer: SstFileWriter<'e>,
}

impl<'e> Tables<'e> {
    pub fn create(engine: &'e Arc<Engine>, group: GroupId) -> Result<Self, Error> {
        let dir = engine.database().path().with_file_name(DIR).join(group.0.to_string());
        remove(&dir)?;
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
        Ok(Self { engine, dir, bytes_max: TABLE_BYTES, open: None, done: Vec::new() })
    }

    #[cfg(test)]
    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Adds a row. Its key is above the last one's, unless the table was ended.
    pub fn put(&mut self, cf: Cf, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if self.open.as_ref().is_some_and(|open| open.cf != cf || open.writer.file_size() >= self.bytes_max) {
            self.end()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let path = self.dir.join(format!("{}-{}.sst", cf.name(), self.done.len()));
                let writer = SstFileWriter::create(self.engine.table_options(cf));
                writer.open(&path).map_err(|e| Error::rocks("create a table", &self.dir, e))?;
                self.open.insert(Open { cf, path, writer })
            }
        };
        open.writer.put(key, value).map_err(|e| Error::rocks("write a table", &self.dir, e))
    }

    /// Ends the table that is being written: what follows goes into another one.
    pub fn end(&mut self) -> Result<(), Error> {
        if let Some(mut open) = self.open.take() {
            // Synced, too.
            open.writer.finish().map_err(|e| Error::rocks("finish a table", &self.dir, e))?;
            self.done.push((open.cf, open.path));
        }
        Ok(())
    }

    /// The tables that are ended.
    #[cfg(test)]
    pub fn files(&self) -> &[(Cf, PathBuf)] {
        &self.done
    }

    /// Makes a column family's tables part of the database, all at once and durably. False: there are none.
    pub fn ingest(&self, cf: Cf) -> Result<bool, Error> {
        let files: Vec<CString> = self
            .done
            .iter()
            .filter(|(of, _)| *of == cf)
            .map(|(_, path)| CString::new(path.as_os_str().as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|e| Error::io("name a table in", &self.dir, io::Error::other(e)))?;
        if files.is_empty() {
            return Ok(false);
        }
        let db = self.engine.database();
        ingest(db, cf, &files).map_err(|message| {
            if message.contains("Corruption") {
                return Error::corrupt(&self.dir, message);
            }
            Error::io("ingest the tables in", &self.dir, io::Error::other(message))
        })?;
        Ok(true)
    }
}

impl Drop for Tables<'_> {
    fn drop(&mut self) {
        self.open = None;
        // What stays is removed by the next import, or at the next start.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn ingest(db: &rocksdb::DB, cf: Cf, files: &[CString]) -> Result<(), String> {
    let names: Vec<*const c_char> = files.iter().map(|file| file.as_ptr()).collect();
    let mut error: *mut c_char = std::ptr::null_mut();
    // SAFETY: the options are made here and given back here, once. The database and the column family are open as long
    // as the reference lives; the names are NUL-terminated, as many as is said, and outlive the call, which copies
    // them; `error` is a valid place for the message.
    //
    // What is left as it is by default: RocksDB gives the rows a sequence number above all others where they hide
    // anything or a snapshot exists (which goes on seeing what it saw), and waits for a flush if a memtable has
    // something in the tables' ranges.
    unsafe {
        let options = rocksdb_ingestexternalfileoptions_create();
        rocksdb_ingestexternalfileoptions_set_move_files(options, 1);
        rocksdb_ingestexternalfileoptions_set_verify_checksums_before_ingest(options, 1);
        rocksdb_ingestexternalfileoptions_set_fill_cache(options, 0);
        rocksdb_ingest_external_file_cf(
            db.as_raw_ptr().cast(),
            handle(db, cf).inner().cast(),
            names.as_ptr(),
            names.len(),
            options,
            &raw mut error,
        );
        rocksdb_ingestexternalfileoptions_destroy(options);
    }
    // SAFETY: null, or a message that RocksDB has left to its caller.
    unsafe { message(error) }.map_or(Ok(()), Err)
}
