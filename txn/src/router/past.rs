//! Reads of the past: any replica may do.
//!
//! The nearest one is asked first: this node's own, if it has one. If that has not closed the timestamp yet, the others hardly have, and the leader is to be asked;
//! unless nobody has heard of the leader's node lately, when it is worth asking them all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::NodeId;

use super::{ATTEMPT_MIN, Router};
use crate::Error;
use crate::descriptor::ShardDescriptor;
use crate::server::error_of;

impl Router {
    /// Asks replicas of `shard` for what can be answered without its leader. `None`: not here, not now.
    pub async fn ask_any(
        &self,
        shard: &ShardDescriptor,
        ask: &Ask,
        deadline: Instant,
    ) -> Result<Option<Answer>, Error> {
        let leader = self.leader(shard.group).filter(|node| !self.is_lost(*node));
        let nodes = self.order(shard, leader);
        let tries = if leader.is_some() { 1 } else { nodes.len() };
        for node in nodes.into_iter().take(tries) {
            let left = deadline.saturating_duration_since(self.seams.clock.now());
            let time = ATTEMPT_MIN.min(left);
            if time.is_zero() {
                return Ok(None);
            }
            let request = pb::Request {
                group: shard.group.0,
                epoch: shard.epoch.0,
                timeout_ms: time.as_millis().try_into().unwrap_or(u32::MAX),
                past: true,
                body: Some(ask.clone()),
                ..pb::Request::default()
            };
            match self.attempt(node, request, time).await {
                Ok(answer @ (Answer::Values(_) | Answer::Page(_))) => return Ok(Some(answer)),
                // As true there as at the leader.
                Ok(Answer::Failure(failure))
                    if matches!(
                        failure.kind(),
                        pb::FailureKind::FailureSnapshotTooOld | pb::FailureKind::FailureFenceMismatch
                    ) =>
                {
                    return Err(error_of(failure));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Who is asked, in order: this node, those who don't lead (from a random one on), the leader. What this node has it knows better
    /// than the map, which may be from before the replica was made.
    fn order(&self, shard: &ShardDescriptor, leader: Option<NodeId>) -> Vec<NodeId> {
        let me = self.server.me();
        let mut nodes: Vec<NodeId> = shard.nodes().filter(|node| !self.is_lost(*node)).collect();
        if !nodes.is_empty() {
            let by = (self.seams.random_f64() * nodes.len() as f64) as usize % nodes.len();
            nodes.rotate_left(by);
        }
        if !nodes.contains(&me) && self.server.registry().get(shard.group).is_some() {
            nodes.push(me);
        }
        nodes.sort_by_key(|node| (*node != me, Some(*node) == leader));
        nodes
    }

    fn is_lost(&self, node: NodeId) -> bool {
        node != self.server.me() && self.reach.is_lost(node)
    }

    /// Tells the leader of `shard` something, if it is known. It may be lost.
    pub async fn tell_leader(&self, shard: &Arc<ShardDescriptor>, ask: Ask, time: Duration) {
        let Some(node) = self.leader(shard.group) else { return };
        let request = pb::Request {
            group: shard.group.0,
            epoch: shard.epoch.0,
            timeout_ms: time.as_millis().try_into().unwrap_or(u32::MAX),
            body: Some(ask),
            ..pb::Request::default()
        };
        // Whoever it concerns tells it again.
        let _ = self.attempt(node, request, time).await;
    }
}
