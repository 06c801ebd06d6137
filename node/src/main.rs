//! The `flotilla` binary; everything is in the library.

/// The C library's allocator costs a busy node an eighth of its time. It is RocksDB's allocator, too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    node::cli::main()
}
