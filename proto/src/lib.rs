//! Everything that crosses a wire or survives a restart, as protobuf.
//!
//! One `.proto` per service (or per crate that persists something), in package `flotilla.<name>`; the build compiles
//! all files of this directory, and `<name>.proto` becomes the module `proto::<name>`. `bytes` fields are
//! [`bytes::Bytes`](prost::bytes::Bytes).
//!
//! There is no logic here, but for how messages get their checksum, and lose it again (`checked.rs`). Conversions to
//! the product's own types live in the crate that owns those types.
//!
//! Rules for whoever edits a file: field numbers are never reused, fields are added and not changed (nodes of
//! neighbouring versions talk to each other, if both make checksums, and stores are opened by later versions), an enum's zero value means
//! "not said", and ids, timestamps and log indexes are `uint64`, transaction ids 16 `bytes`, big-endian.

mod checked;

include!(concat!(env!("OUT_DIR"), "/modules.rs"));
