//! Reads every table of a database once and compares all block checksums, before anything is served from it.
//!
//! Reads verify their blocks anyway; this is about finding damage when the store opens, where an operator sees it,
//! and not when a row is asked for months later. The price is one sequential read of the tables.

use std::ffi::{CStr, c_char, c_void};

use rocksdb::{AsRawPtr, DB};

use crate::Error;

// In RocksDB's C interface, but not in the binding.
unsafe extern "C" {
    fn rocksdb_verify_checksum(db: *mut c_void, error: *mut *mut c_char);
    fn rocksdb_free(pointer: *mut c_void);
}

/// Verifies all tables, unless they have more than `bytes_max` bytes together.
pub(crate) fn verify_tables(db: &DB, bytes_max: u64) -> Result<(), Error> {
    let files = db.live_files().map_err(|e| Error::rocks("list the tables", db.path(), e))?;
    let bytes: u64 = files.iter().map(|file| file.size as u64).sum();
    if bytes > bytes_max {
        tracing::warn!(
            dir = %db.path().display(), bytes, bytes_max,
            "tables are not verified at start, for there are too many; reads verify what they touch"
        );
        return Ok(());
    }
    // Whatever keeps a table from being read at this point makes it unusable.
    verify(db).map_err(|message| Error::unreadable(db.path(), message))
}

fn verify(db: &DB) -> Result<(), String> {
    let mut error: *mut c_char = std::ptr::null_mut();
    // SAFETY: the pointer is that of an open database, which the reference keeps open; `error` is a valid place for
    // the message, which RocksDB allocates and leaves to the caller.
    unsafe { rocksdb_verify_checksum(db.as_raw_ptr().cast(), &raw mut error) };
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a message is a NUL-terminated string, copied here before it is freed, once, by RocksDB's allocator.
    let message = unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned();
    // SAFETY: as above.
    unsafe { rocksdb_free(error.cast()) };
    Err(message)
}
