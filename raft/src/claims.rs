//! Which keys snapshots are about to bring, and to whom.
//!
//! To install a snapshot takes as long as it is large. Meanwhile nobody else's rows may come to lie among its own, nor may anybody clear
//! away what it has brought. So whoever installs one *claims* its keys first, and holds [`MultiRaft::territory`](crate::MultiRaft) only for
//! that: for the look that nobody else has them, and the claim.
//!
//! ```text
//!   look, claim ── under the territory ──▶ installs ──┬─ done ──▶ the keys are the replica's, by its state
//!                                                     └─ failed ▶ claimed still: until the replica is gone, for the next start goes on with it
//! ```
//!
//! Invariant: no two claims overlap; and none overlaps what another replica's state says that it holds, unless that one yields to it. Claims that
//! outlive the process are in the files that a start finds ([`crate::snapshot`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use storage::Cf;
use storage::ids::{GroupId, KeyRange};
use tokio::sync::watch;

/// See the module.
#[derive(Default)]
pub(crate) struct Claims {
    held: Mutex<BTreeMap<GroupId, Claim>>,
    /// An install has ended.
    ended: watch::Sender<()>,
}

struct Claim {
    spans: Vec<(Cf, KeyRange)>,
    /// At this moment.
    installs: bool,
}

impl Claim {
    fn holds(&self, cf: Cf, range: &KeyRange) -> bool {
        self.spans.iter().any(|(of, held)| *of == cf && held.overlaps(range))
    }
}

/// A snapshot is being installed. Dropped, it has failed.
pub(crate) struct Installing {
    claims: Arc<Claims>,
    group: GroupId,
}

impl Claims {
    /// A snapshot for the group's replica is accepted. The territory is held, and nobody else has these keys.
    pub fn begin(self: &Arc<Self>, group: GroupId, spans: Vec<(Cf, KeyRange)>) -> Installing {
        let claim = Claim { spans, installs: true };
        let before = self.held.lock().insert(group, claim);
        debug_assert!(before.is_none(), "{group}: one install at a time, and none after one that has failed");
        Installing { claims: self.clone(), group }
    }

    /// What an earlier process has accepted this one could not install.
    pub fn failed(&self, group: GroupId, spans: Vec<(Cf, KeyRange)>) {
        self.held.lock().insert(group, Claim { spans, installs: false });
    }

    /// The group's replica is not here any more, nor is what it has accepted.
    pub fn gone(&self, group: GroupId) {
        let before = self.held.lock().remove(&group);
        debug_assert!(before.is_none_or(|claim| !claim.installs), "{group}: it is being installed");
    }

    /// Another group than this one that has claimed some of these keys.
    pub fn holder(&self, group: GroupId, cf: Cf, range: &KeyRange) -> Option<GroupId> {
        let held = self.held.lock();
        held.iter().find(|(other, claim)| **other != group && claim.holds(cf, range)).map(|(other, _)| *other)
    }

    /// All that others than this group have claimed.
    pub fn of_others(&self, group: GroupId) -> Vec<(Cf, KeyRange)> {
        let held = self.held.lock();
        let others = held.iter().filter(|(other, _)| **other != group);
        others.flat_map(|(_, claim)| claim.spans.iter().cloned()).collect()
    }

    /// Whether a snapshot is being installed into the group's replica, or over some of these keys.
    pub fn are_installing(&self, group: GroupId, spans: &[(Cf, KeyRange)]) -> bool {
        let concerns = |of: GroupId, claim: &Claim| {
            of == group || spans.iter().any(|(cf, range)| claim.holds(*cf, range))
        };
        self.held.lock().iter().any(|(of, claim)| claim.installs && concerns(*of, claim))
    }

    /// Changes whenever an install ends.
    pub fn ends(&self) -> watch::Receiver<()> {
        self.ended.subscribe()
    }
}

impl Installing {
    /// It is done, or was never begun: the replica holds what its state says.
    pub fn done(self) {
        self.claims.held.lock().remove(&self.group);
    }
}

impl Drop for Installing {
    fn drop(&mut self) {
        if let Some(claim) = self.claims.held.lock().get_mut(&self.group) {
            claim.installs = false;
        }
        self.claims.ended.send_replace(());
    }
}
