//! How replicas come to be.
//!
//! A group begins as if a snapshot had been installed at index 0: a member that joins later gets the initial state, which
//! no log entry carries, in a snapshot. The state is flushed before the log knows the group, so that after a crash a
//! split's child is never replayed over a parent that has yet to split.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::Membership;
use storage::fail_point::{self, FailPoint};
use storage::ids::{GroupId, LogIndex, NodeId, ReplicaId};

use crate::api::{Error, Fatal};
use crate::group::Group;
use crate::log_store::durably;
use crate::multi::{MultiRaft, storage_error};
use crate::state_machine::Position;
use crate::types::{Host, StoredMembership, encode_log_id, log_id};

/// A group that is to exist on this node.
#[derive(Clone, Debug)]
pub struct NewGroup {
    /// The group.
    pub group: GroupId,
    /// This node's replica.
    pub me: ReplicaId,
    /// Its first members: every one of them is told the same.
    pub members: BTreeMap<ReplicaId, NodeId>,
    /// It stands for election at once. (Give it to one of them; a sole member does anyway.)
    pub campaign: bool,
}

impl MultiRaft {
    /// Starts a group on one of its first members. Whatever the engine holds of the group now is its initial state (write
    /// the descriptor before), the same on all of them. Idempotent.
    pub async fn create_group(&self, new: NewGroup) -> Result<Arc<Group>, Error> {
        let group = new.group;
        let mut created = self.create_groups(vec![new]).await?;
        created.pop().unwrap_or(Err(Error::NoGroup(group)))
    }

    /// Starts several, with one flush of the state for all of them, and their logs' first fsyncs together.
    pub async fn create_groups(&self, all: Vec<NewGroup>) -> Result<Vec<Result<Arc<Group>, Error>>, Error> {
        let _turn = self.turn().await?;
        let mut known = Vec::with_capacity(all.len());
        for new in &all {
            known.push(match self.existing(new.group, new.me).await {
                Ok(None) => self.begin(new).await.map(|()| None),
                other => other,
            });
        }
        if known.iter().any(|known| matches!(known, Ok(None))) {
            self.flush().await?;
            fail_point::pass(FailPoint::GroupFlushed);
        }
        let logs = all.iter().zip(&known).map(async |(new, known)| match known {
            Ok(None) => self.begin_log(new).await,
            _ => Ok(()),
        });
        let logs = futures::future::join_all(logs).await;
        let mut created = Vec::with_capacity(all.len());
        for ((new, known), log) in all.iter().zip(known).zip(logs) {
            created.push(match (known, log) {
                (Ok(Some(existing)), _) => Ok(existing),
                (Ok(None), Ok(())) => {
                    fail_point::pass(FailPoint::GroupLogged);
                    let opened = self.open(new.group, new.me, false).await;
                    if let Ok(opened) = &opened
                        && (new.campaign || new.members.len() == 1)
                    {
                        opened.campaign().await;
                    }
                    opened
                }
                (Err(error), _) | (_, Err(error)) => Err(error),
            });
        }
        Ok(created)
    }

    /// Writes the position that the group begins at. Not flushed.
    async fn begin(&self, new: &NewGroup) -> Result<(), Error> {
        let group = new.group;
        let broken = |source: Fatal| Error::Open { group, replica: new.me, source };
        let start = log_id(0, 0);
        match Position::load(self.engine(), group).map_err(broken)?.last {
            None => {
                let voters = new.members.keys().map(|replica| replica.0).collect();
                let hosts: BTreeMap<u64, Host> =
                    new.members.iter().map(|(replica, node)| (replica.0, Host(node.0))).collect();
                let membership =
                    Membership::new(vec![voters], hosts).map_err(|e| broken(Fatal::new(e.to_string())))?;
                let position = Position {
                    last: Some(start),
                    membership: StoredMembership::new(Some(start), membership),
                };
                let mut batch = self.engine().batch();
                position.store(group, &mut batch);
                let written = self.engine().write_aside(batch, self.seams()).await;
                written.map_err(storage_error("write a group's initial state"))
            }
            // A crash came between the flush and the log.
            Some(last) if last == start => Ok(()),
            Some(last) => Err(broken(Fatal::new(format!("there is state up to {last} but no log")))),
        }
    }

    /// After the flush.
    async fn begin_log(&self, new: &NewGroup) -> Result<(), Error> {
        let (group, replica) = (new.group, new.me);
        self.write_ballot(group, replica, false).await?;
        fail_point::pass(FailPoint::GroupBallot);
        let start = encode_log_id(&log_id(0, 0));
        durably(|done| self.log.purge_to(group, LogIndex(0), start, done)).await.map_err(|e| Error::Open {
            group,
            replica,
            source: Fatal::new(e),
        })
    }

    /// Creates a blank replica, which waits for a leader to tell it everything. Idempotent. Goes on if the caller does not wait.
    pub async fn create_replica(
        self: &Arc<Self>,
        group: GroupId,
        me: ReplicaId,
    ) -> Result<Arc<Group>, Error> {
        let multi = self.clone();
        self.to_the_end("create-replica", async move { multi.create_blank(group, me).await }).await
    }

    async fn create_blank(&self, group: GroupId, me: ReplicaId) -> Result<Arc<Group>, Error> {
        let _turn = self.turn().await?;
        if let Some(existing) = self.existing(group, me).await? {
            return Ok(existing);
        }
        self.clear_the_ground(group, me).await?;
        debug_assert!(
            Position::load(self.engine(), group).is_ok_and(|position| position.last.is_none()),
            "{group}: a blank replica starts from nothing"
        );
        self.write_ballot(group, me, false).await?;
        fail_point::pass(FailPoint::ReplicaBallot);
        self.open(group, me, false).await
    }

    /// The replica, if it is there already or can be opened; an error if another one is.
    async fn existing(&self, group: GroupId, me: ReplicaId) -> Result<Option<Arc<Group>>, Error> {
        if let Some(existing) = self.group(group) {
            return match existing.replica() {
                replica if replica == me => Ok(Some(existing)),
                replica => Err(Error::OtherReplica { group, existing: replica, wanted: me }),
            };
        }
        match self.ballot(group)? {
            None => match self.removed(group)? {
                Some(removed) if me <= removed => Err(Error::Removed { group, wanted: me, removed }),
                _ => Ok(None),
            },
            Some((replica, false)) if replica == me => {
                let gated = !self.gate_open.load(Ordering::SeqCst);
                self.open(group, me, gated).await.map(Some)
            }
            // Its removal has failed halfway.
            Some((replica, true)) if replica < me => {
                let _alone = self.territory.lock().await;
                self.finish_removal(group, replica).await.map(|()| None)
            }
            Some((replica, _)) => Err(Error::OtherReplica { group, existing: replica, wanted: me }),
        }
    }
}
