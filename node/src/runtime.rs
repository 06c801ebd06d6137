//! The process around a server: scheduler, log, panics, limits, signals.

use storage::seam::Seams;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// The scheduler of a server, or of a command.
pub fn build(threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("flotilla")
        .enable_all()
        .build()
        .map_err(Failure::other)
}

/// Log lines go to stderr; `FLOTILLA_LOG` chooses them (`info` if unset, e.g. `debug,raft=trace`).
pub fn init_log() {
    let filter =
        EnvFilter::try_from_env("FLOTILLA_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A second call (in tests) keeps the first subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .try_init();
}

/// A panic is logged and ends the process: a task that died unseen would leave a node that looks alive.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!("panic in thread {}: {panic}\n{backtrace}", thread.name().unwrap_or("?"));
        std::process::abort();
    }));
}

/// Raises the limit of open files as far as it may be: each connection and each table file takes one.
pub fn raise_file_limit() {
    const WANTED: libc::rlim_t = 1 << 20;
    const ENOUGH: libc::rlim_t = 16_384;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or write the struct that they are given.
    let raised = unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return;
        }
        limit.rlim_cur = limit.rlim_max.min(WANTED);
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
    };
    if !raised || limit.rlim_cur < ENOUGH {
        warn!("at most {} files may be open: thousands of connections need more (ulimit -n)", limit.rlim_cur);
    }
}

/// A token that is cancelled by SIGTERM or SIGINT. The second signal ends the process at once.
pub fn shutdown_on_signal(seams: &Seams) -> Result<CancellationToken, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::other)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::other)?;
    let token = CancellationToken::new();
    let requested = token.clone();
    seams.spawn("signals", async move {
        for round in 0.. {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if round > 0 {
                warn!("{name} again: leaving at once");
                std::process::exit(1);
            }
            info!("{name}: shutting down");
            requested.cancel();
        }
    });
    Ok(token)
}
