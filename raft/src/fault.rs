//! How a replica that meets a broken disk or a broken state says so: once, to all who care.

use std::sync::Arc;

use tokio::sync::watch;

/// Set once. Clones share it.
#[derive(Clone)]
pub(crate) struct Fault {
    reason: Arc<watch::Sender<Option<Arc<str>>>>,
}

impl Fault {
    pub fn new() -> Self {
        Self { reason: Arc::new(watch::Sender::new(None)) }
    }

    /// Reports a failure; the first one counts.
    pub fn set(&self, reason: impl Into<Arc<str>>) {
        let reason = reason.into();
        self.reason.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }

    pub fn get(&self) -> Option<Arc<str>> {
        self.reason.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.reason.subscribe()
    }
}
