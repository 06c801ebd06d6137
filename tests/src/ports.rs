//! Ports for the processes of a test.
//!
//! They lie below those that the kernel hands out by itself (32768 and up on Linux): a port that was free a moment
//! ago, or is free while its node is down, could otherwise become another process's before ours listens there. Tests
//! that run at once keep out of each other's way with locks on files, which end with the process that holds them.

use std::fs::{File, TryLockError};
use std::net::TcpListener;
use std::ops::Range;

use anyhow::{Context, Result, bail};

const ALL: Range<u16> = 10_000..32_720;
/// As many as a cluster with proxies takes.
const BLOCK: u16 = 80;

/// Eighty consecutive ports that belong to this test as long as it holds this.
pub struct Ports {
    /// The first of them.
    pub base: u16,
    _lock: File,
}

impl Ports {
    /// Takes a block that nobody has and where nobody listens.
    ///
    /// # Errors
    ///
    /// If there is none, or the folder of the locks cannot be written.
    pub fn take() -> Result<Self> {
        let dir = std::env::temp_dir().join("flotilla-test-ports");
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for base in ALL.step_by(BLOCK.into()) {
            let path = dir.join(base.to_string());
            let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) if (base..base + BLOCK).all(free) => return Ok(Self { base, _lock: lock }),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => {
                    return Err(e).context(format!("cannot lock {}", path.display()));
                }
            }
        }
        bail!("somebody listens in each block of {BLOCK} ports in {ALL:?}, or another test has it")
    }
}

fn free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_get_the_same_and_a_listener_is_left_alone() {
        let first = Ports::take().unwrap();
        let second = Ports::take().unwrap();
        assert!(first.base.abs_diff(second.base) >= BLOCK);
        let _listener = TcpListener::bind(("127.0.0.1", second.base + 7)).unwrap();
        let base = second.base;
        drop(second);
        assert_ne!(Ports::take().unwrap().base, base);
    }
}
