//! Opens a database and compares every table with its checksum, before anything is served from it.
//!
//! RocksDB keeps a checksum of each whole table file in the manifest. Reads verify their blocks anyway; this is about
//! finding damage when the store opens, where an operator sees it, and not when a row is asked for months later, and
//! about naming the file, which RocksDB does not always do. The price is one sequential read of the tables.

use std::ffi::{CStr, c_char, c_void};
use std::path::Path;

use rocksdb::{AsRawPtr, DB, Options};

use crate::Error;

// In RocksDB's C interface, but not in the binding.
unsafe extern "C" {
    fn rocksdb_verify_file_checksums(db: *mut c_void, error: *mut *mut c_char);
    fn rocksdb_free(pointer: *mut c_void);
    fn rocksdb_file_checksum_gen_crc32c_factory_create() -> *mut c_void;
    fn rocksdb_file_checksum_gen_factory_destroy(factory: *mut c_void);
    fn rocksdb_options_set_file_checksum_gen_factory(options: *mut c_void, factory: *mut c_void);
}

/// Opens the database in `dir`. Tables are verified unless they have more than `bytes_max` bytes together.
pub(crate) fn open<const N: usize>(
    dir: &Path,
    families: impl Fn() -> (Options, [(&'static str, Options); N]),
    bytes_max: u64,
) -> Result<DB, Error> {
    let (mut options, with) = families();
    keep_file_checksums(&mut options);
    let db = match DB::open_cf_with_opts(&options, dir, with) {
        Ok(db) => db,
        Err(error) => {
            let error = Error::rocks("open the database", dir, error);
            return Err(match error {
                // A table that cannot even be opened is reported without its name, or with the manifest's.
                Error::Corrupt { .. } => damaged_table(dir, families()).unwrap_or(error),
                other => other,
            });
        }
    };
    let files = db.live_files().map_err(|e| Error::rocks("list the tables", dir, e))?;
    let bytes: u64 = files.iter().map(|file| file.size as u64).sum();
    if bytes > bytes_max {
        tracing::warn!(
            dir = %dir.display(), bytes, bytes_max,
            "tables are not verified at start, for there are too many; reads verify what they touch"
        );
        return Ok(db);
    }
    // Whatever keeps a table from being read at this point makes it unusable.
    verify(&db).map_err(|message| Error::unreadable(dir, message))?;
    Ok(db)
}

/// Looks for the table because of which a database does not open.
fn damaged_table<const N: usize>(
    dir: &Path,
    (mut options, families): (Options, [(&'static str, Options); N]),
) -> Option<Error> {
    keep_file_checksums(&mut options);
    options.set_paranoid_checks(false);
    let db = DB::open_cf_with_opts_for_read_only(&options, dir, families, false).ok()?;
    verify(&db).err().map(|message| Error::unreadable(dir, message))
}

/// Makes RocksDB record a checksum of each table that it writes.
fn keep_file_checksums(options: &mut Options) {
    // SAFETY: both pointers are valid; the options share ownership of what is in the factory, whose own handle is
    // given back here, once.
    unsafe {
        let factory = rocksdb_file_checksum_gen_crc32c_factory_create();
        rocksdb_options_set_file_checksum_gen_factory(options.as_raw_ptr().cast(), factory);
        rocksdb_file_checksum_gen_factory_destroy(factory);
    }
}

fn verify(db: &DB) -> Result<(), String> {
    let mut error: *mut c_char = std::ptr::null_mut();
    // SAFETY: the pointer is that of an open database, which the reference keeps open; `error` is a valid place for
    // the message, which RocksDB allocates and leaves to the caller.
    unsafe { rocksdb_verify_file_checksums(db.as_raw_ptr().cast(), &raw mut error) };
    // SAFETY: null, or a message that RocksDB has left to its caller.
    unsafe { message(error) }.map_or(Ok(()), Err)
}

/// The error that a call has left, if it has.
///
/// # Safety
///
/// `error` is null, or a NUL-terminated string of RocksDB's allocator that nobody else frees.
pub(crate) unsafe fn message(error: *mut c_char) -> Option<String> {
    if error.is_null() {
        return None;
    }
    // SAFETY: the caller's word; copied before it is freed.
    let message = unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned();
    // SAFETY: as above, once.
    unsafe { rocksdb_free(error.cast()) };
    Some(message)
}
