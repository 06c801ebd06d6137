//! Whether a group at rest has been led since: asked of a majority, by whoever has a use for what was known then.
//!
//! The leader that lays a group to rest ends its leadership for good before it tells anybody, and what a replica at rest has applied is all that
//! there is of its log ([`crate::rest`]). So nothing is under way in that term. Whoever leads in a later one is elected by a majority; and if a
//! majority has elected nobody as of now, that election is yet to come. **Everything that a later leader does, it does after this was asked**: if its
//! timestamps are drawn, they are above all that existed before.
//!
//! ```text
//!   replica at rest ──Vouch(the last leader's vote)──▶ the others with a vote
//!                   ◀── "I rest, and my vote is still that one" ──   … from a majority, itself included: true as of the question
//! ```
//!
//! Only replicas at rest vouch. One that is awake may be about to elect somebody, and the vote on its disk is behind what its instance has decided. Nobody is woken, and
//! nothing is promised: each may elect whom it likes right after it has answered. It works without the home of the group, and says
//! nothing where that has woken it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::raft as wire;

use crate::group::Group;
use crate::types::{Vote, vote_to_wire};

/// How long the others may take.
const ASK_LIMIT: Duration = Duration::from_millis(300);
const ASK_BYTES: usize = 48;

impl Group {
    /// The group rests, all of its log is applied here, and nobody has been elected before this was called: whoever leads it next begins to after that.
    pub async fn is_unled(self: &Arc<Self>) -> bool {
        let Some((vote, members)) = self.rest.vouched() else { return false };
        if self.is_stopping() || !members.contains_key(&self.replica()) {
            return false;
        }
        let majority = members.len() / 2 + 1;
        let others = members.iter().filter(|(replica, _)| **replica != self.replica());
        let mut answers: FuturesUnordered<_> = others
            .map(|(replica, node)| {
                let body = wire::request::Body::Vouch(wire::Vouch { vote: Some(vote_to_wire(&vote)) });
                let link = self.nursery.hub.link(*node);
                link.request(self.id(), self.replica(), *replica, ASK_BYTES, ASK_LIMIT, body)
            })
            .collect();
        let mut vouch = 1;
        while vouch < majority {
            match answers.next().await {
                Some(Ok(wire::answer::Body::Vouched(wire::Vouched { holds: true }))) => vouch += 1,
                Some(_) => {}
                None => return false,
            }
        }
        true
    }

    /// It rests, and has elected nobody since the leader with this vote laid the group to rest.
    pub(crate) fn vouches_for(&self, vote: &Vote) -> bool {
        !self.is_stopping() && self.rest.vouched().is_some_and(|(known, _)| known == *vote)
    }
}
