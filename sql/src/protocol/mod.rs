//! The PostgreSQL protocol (version 3), as seen from one connection.
//!
//! The messages and their encodings are `pgwire`'s; the loop that reads, runs and answers is ours, in
//! [`connection`]. What it keeps to:
//!
//! - **Bounded.** A frame over the limit is thrown away as it arrives, never buffered, and answered with `54000`; an
//!   answer is written whenever [`output::FLUSH_BYTES`] are waiting, so a slow reader holds back the query.
//! - **Clear text is not trusted.** Bytes that follow an SSLRequest in the same packet end the connection, because they
//!   could have been put there by someone in the middle (CVE-2021-23214).
//! - **Strict.** Strings that are not UTF-8 are refused with `22021`, never repaired. A message that lies about its
//!   own length ends the connection with `08P01`; nothing in here panics on what a client sends.
//! - **One write per Sync.** Replies are collected until the client waits for them.
//!
//! Start at [`connection`]; [`frame`] reads, [`output`] writes, [`startup`] is the handshake.

pub mod connection;
mod copy;
mod extended;
pub mod frame;
pub mod output;
pub mod startup;
