//! Whether a group serves, as far as a replica can tell without asking anybody.
//!
//! To ask is work, and a group that has work does not rest ([`crate::rest`]). So whoever has none, and only wants to know whether it
//! would be done, looks here first.

use crate::api::Role;
use crate::group::Group;

impl Group {
    /// Whether the group serves, or would as soon as somebody asked: a majority of its members is there, among them its leader, or the
    /// home where it would have one.
    ///
    /// A hint, of a moment ago. "No" says that one has to ask to know.
    pub fn seems_served(&self) -> bool {
        let (me, liveness) = (self.nursery.hub.me, &self.nursery.hub.liveness);
        let rests = self.rests();
        let role = self.role().borrow().clone();
        let leader = match role {
            Role::Leader { .. } => me,
            Role::Follower { leader } => match if rests { self.home() } else { leader } {
                Some(leader) => leader.node,
                None => return false,
            },
            Role::Stopped { .. } => return false,
        };
        let lives = leader == me || liveness.is_heard(leader);
        // A replica that leads may have failed alone, while its node lives.
        let leads = rests || leader == me || self.unheard_for() < self.options.election_max;
        let well = lives && leads && !self.is_outdone(leader) && !self.is_gated();
        well && liveness.is_answered(me, &self.quorums())
    }
}
