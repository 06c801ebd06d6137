//! How the replicas that a node has come to run: at the start of the process all that the store knows, and any other one when
//! it is made.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use storage::ids::{GroupId, ReplicaId};

use super::{MultiRaft, storage_error};
use crate::api::{Error, Fatal};
use crate::create::NewGroup;
use crate::fault::Fault;
use crate::gate::Closing;
use crate::group::Group;
use crate::log_store::{LogStore, decode_ballot, durably, encode_ballot};
use crate::removal::is_quarantined;
use crate::rest::Rested;
use crate::snapshot;
use crate::state_machine::{Position, Shared};
use crate::types::decode_log_id;

impl MultiRaft {
    /// At start.
    pub(super) async fn reopen(self: &Arc<Self>) -> Result<(), Error> {
        let broken = |source| Error::Open { group: GroupId(0), replica: ReplicaId(0), source };
        let multi = self.clone();
        let resume = move || {
            let ballot = |group| multi.ballot(group).map_err(Fatal::new);
            snapshot::resume_installs(&multi.engine, &multi.spool_dir, ballot)
        };
        let mut torn = self.blocking("resume-installs", resume).await?.map_err(broken)?;
        // Nobody else gets their keys before they are gone, as if they had failed in this process.
        torn.iter().for_each(|(group, torn)| self.claims.failed(*group, torn.spans.clone()));
        let mut leaving = Vec::new();
        {
            let _turn = self.lifecycle.lock().await;
            // No snapshot brings anybody the keys of those that are yet to be opened.
            let _alone = self.territory.lock().await;
            for group in self.log.groups().map_err(storage_error("list the groups of the log"))? {
                let Some((replica, removed)) = self.ballot(group)? else {
                    let source = Fatal::new("its log has lost the replica's id");
                    return Err(Error::Open { group, replica: ReplicaId(0), source });
                };
                let torn = torn.remove(&group).map(|torn| torn.why);
                match removed {
                    true => leaving.push((group, replica)),
                    false => self.reopen_one(group, replica, torn).await?,
                }
            }
        }
        // Of a group that the log does not know: then nobody can say whose it is.
        if let Some((group, torn)) = torn.pop_first() {
            return Err(Error::Open { group, replica: ReplicaId(0), source: torn.why });
        }
        // (No replica is made in the place of one that leaves: that one's descriptor may say more than is true.)
        self.create_expected().await?;
        // When it is known who holds which keys: a removal may have failed long ago.
        let _turn = self.lifecycle.lock().await;
        // No snapshot brings anybody the keys of what is being removed.
        let _alone = self.territory.lock().await;
        for (group, replica) in leaving {
            if let Err(error) = self.finish_removal(group, replica).await {
                if self.fails_all() {
                    return Err(error);
                }
                tracing::error!(%group, %replica, %error, "what a replica has left stays");
            }
        }
        Ok(())
    }

    /// Makes the groups that by the state this node is a member of, and that the log does not know.
    async fn create_expected(self: &Arc<Self>) -> Result<(), Error> {
        let broken = |source| Error::Open { group: GroupId(0), replica: ReplicaId(0), source };
        for expected in self.factory.expected(&self.engine).map_err(broken)? {
            let (group, me, members) = (expected.group, expected.replica, expected.members);
            if self.group(group).is_some() {
                continue;
            }
            match self.has_left(group, me) {
                Ok(false) => {
                    tracing::info!(%group, "starting a group that a crash has kept from starting");
                    self.create_group(NewGroup { group, me, members, campaign: false }).await?;
                }
                Ok(true) => {
                    tracing::info!(%group, replica = %me, "a replica has left, and its descriptor has not")
                }
                Err(error) if self.fails_all() => return Err(error),
                Err(error) => {
                    tracing::error!(%group, replica = %me, %error, "whether a replica has left is not known");
                }
            }
        }
        Ok(())
    }

    /// A replica has been removed from this node, or its removal has begun: it does not come back.
    pub(crate) fn has_left(&self, group: GroupId, replica: ReplicaId) -> Result<bool, Error> {
        let leaves = self.ballot(group)?.is_some_and(|(_, removed)| removed);
        Ok(leaves || self.removed(group)?.is_some_and(|removed| replica <= removed))
    }

    /// The log or the state refuses everything: then the failure of a replica is none of its own.
    pub(crate) fn fails_all(&self) -> bool {
        self.log.failure().is_some() || self.engine.failure().is_some()
    }

    /// The replica's id in the log, and whether it is being removed.
    pub(crate) fn ballot(&self, group: GroupId) -> Result<Option<(ReplicaId, bool)>, Error> {
        let ballot = self.log.vote(group).map_err(storage_error("read a vote"))?;
        let Some(ballot) = ballot else { return Ok(None) };
        let (replica, _, removed) = decode_ballot(&ballot).map_err(|e| Error::Open {
            group,
            replica: ReplicaId(0),
            source: Fatal::new(e),
        })?;
        Ok(Some((replica, removed)))
    }

    pub(crate) async fn write_ballot(
        &self,
        group: GroupId,
        replica: ReplicaId,
        removed: bool,
    ) -> Result<(), Error> {
        let ballot = encode_ballot(replica, None, removed);
        durably(|done| self.log.save_vote(group, ballot, done)).await.map_err(|e| Error::Open {
            group,
            replica,
            source: Fatal::new(e),
        })
    }

    /// Opens a replica that has its ballot. One that can't be opened is there all the same, and has failed: its ballot stands in the
    /// way of any other one, and only what is there is found, and removed.
    pub(crate) async fn open(
        &self,
        group: GroupId,
        replica: ReplicaId,
        gated: bool,
    ) -> Result<Arc<Group>, Error> {
        let opened = self.open_now(group, replica, gated).await;
        opened.map_err(|source| {
            match self.fails_all() {
                // The node goes: what it says of this group is of no use.
                true => self.doubts().gone(group),
                false => self.admit_failed(group, replica, &source),
            }
            Error::Open { group, replica, source }
        })
    }

    async fn open_now(&self, group: GroupId, replica: ReplicaId, gated: bool) -> Result<Arc<Group>, Fatal> {
        let quarantined = is_quarantined(self.engine(), group, replica)?;
        let opened = self.try_open(group, replica, gated, false).await?;
        if opened.shared.fault.get().is_none() {
            // An earlier attempt may have failed.
            self.doubts().gone(group);
        }
        Ok(self.admit(opened, quarantined).await)
    }

    /// It is one of this node's from now on. In quarantine it does not run.
    pub(crate) async fn admit(&self, opened: Arc<Group>, quarantined: bool) -> Arc<Group> {
        self.groups.write().insert(opened.id(), opened.clone());
        if self.gate_open.load(Ordering::SeqCst) && opened.is_gated() {
            // It was to be gated, and came too late for those whose gates were opened together.
            opened.gate.outlive(Closing::START);
            if !opened.is_gated() {
                opened.stand_for_election();
            }
        }
        if quarantined {
            self.shut_away(&opened).await;
        }
        opened
    }

    /// `at_start` of the process, one that has no work is left at rest.
    pub(crate) async fn try_open(
        &self,
        group: GroupId,
        replica: ReplicaId,
        gated: bool,
        at_start: bool,
    ) -> Result<Arc<Group>, Fatal> {
        let position = Position::load(&self.engine, group)?;
        let purged = self.log.state(group)?.purged;
        let purged = purged.as_deref().map(decode_log_id).transpose().map_err(Fatal::new)?;
        // openraft would go on with a hole.
        if purged.map(|id| id.index) > position.last.map(|id| id.index) {
            return Err(Fatal::new("the log begins after the end of the state: the state is not this log's"));
        }
        let machine = self.factory.open(group, replica, self.engine.clone())?;
        let shared = Shared::new(
            group,
            replica,
            self.engine.clone(),
            machine,
            self.seams.clone(),
            Fault::new(),
            position.clone(),
        );
        let log = LogStore::open(
            self.log.clone(),
            group,
            replica,
            self.options().append_bytes_max,
            self.options().tail_bytes_max,
            self.nursery.log_room.clone(),
        )
        .map_err(Fatal::new)?;
        // Nothing is to be applied again, and there is somebody to ask when it is needed.
        let complete = position.last.is_some() && log.last() == position.last;
        let led = log.vote().is_some_and(|vote| vote.is_committed());
        let rests = at_start && complete && led && shared.machine.may_rest();
        let rested = Rested::opened(&shared, &position, log.vote());
        match rests {
            true => self.nursery.roll.found_at_rest(group, &rested),
            false => self.nursery.roll.rests(group, false),
        }
        let opened = Group::new(shared, self.nursery.clone(), gated, rested);
        if rests {
            // Nodes with a link know of each other's silence.
            opened.voter_nodes().into_iter().filter(|node| *node != self.hub.me).for_each(|node| {
                self.hub.link(node);
            });
        } else {
            // (It has entries to apply, or nobody knows who leads it: it cannot rest.)
            opened.awake_in_any_case().await.map_err(|reason| Fatal::new(reason.to_string()))?;
        }
        Ok(opened)
    }
}
