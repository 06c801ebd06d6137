//! Replicas that leave a node, and whose keys are whose.
//!
//! A replica is removed in steps, each durable before the next: its ballot says so (from here on a crash doesn't bring
//! it back); its state goes, and in the same batch a *tombstone* with its id comes, flushed; its log goes. A start
//! finds the ballot and goes on, and so does whoever asks again for a removal that has failed halfway.
//!
//! **A replica removed never comes back.** It has forgotten its votes and its log; back under the same id, a leader that
//! knows only the members of before could win its vote, and lead beside the one that the others follow. So a node makes
//! no replica whose id is not above the tombstone's. Ids are given out in order, so a new replica always is. Whether a
//! replica may be removed is for the caller to know: only the group's leader does, see [`crate::Group::has_member`].
//!
//! **No two replicas of a node hold the same key.** A shard's child begins with a part of its parent's keys. A node
//! whose replica of the parent has yet to apply the split holds them still; a replica of the child that got its
//! snapshot there would be written over by the parent's log, and be gone with the parent's replica. So a snapshot that
//! overlaps what another replica holds is refused until that one has split, or gone; or what another one is getting, or was to get by one whose
//! install has failed, for the next start goes on with that. The sender tries again. Looking and claiming are one step
//! ([`crate::claims`]), as are looking and removing: [`MultiRaft::territory`] is held meanwhile. A removal waits until nothing is being
//! installed into its replica, or over its keys. Splits need no
//! such care, for what they give a child they take from its parent. A merge gives a replica's keys to another one in one batch;
//! where that comes by snapshot, the one whose keys go says so ([`crate::StateMachine::yields_to`]).
//!
//! **What is another's stays.** A removal that has failed halfway holds its keys no more, and another replica may have come to hold some of
//! them: by a snapshot, which has replaced what lay there, or by a merge, which has taken it over, or as the child of one of those. Those rows are
//! the other one's, also if that is a child that is not made yet: they are known by what the engine says that this node should have. All else
//! that was left goes when the removal is gone on with, so the group's next replica does not wait for the other one to go.

use std::sync::Arc;

use proto::raft as wire;
use storage::fail_point::{self, FailPoint};
use storage::ids::{GroupId, KeyRange, ReplicaId};
use storage::{Cf, Engine};
use tokio::sync::MutexGuard;

use crate::api::{Error, Expected, Fatal, Role, StateMachine};
use crate::group::Group;
use crate::keys;
use crate::log_store::durably;
use crate::multi::{MultiRaft, storage_error};
use crate::snapshot;
use crate::state_machine::Position;
use crate::transport::server::refusal;

/// Why a replica has stopped that was found to differ from the others.
pub(crate) const QUARANTINED: &str = "it is in quarantine: it differs from the others";
/// … that is not to be here any more.
const REMOVED: &str = "removed from this node";
/// … that was only asked what it holds.
const UNMADE: &str = "not made yet";

impl MultiRaft {
    /// Stops a replica and removes its log and its data, for good: it must not be a member of its group any more.
    /// Idempotent. Goes on if the caller does not wait.
    pub async fn remove_replica(self: &Arc<Self>, id: GroupId, replica: ReplicaId) -> Result<(), Error> {
        let multi = self.clone();
        self.to_the_end("remove-replica", async move { multi.remove(id, replica).await }).await
    }

    async fn remove(&self, id: GroupId, replica: ReplicaId) -> Result<(), Error> {
        let (_turn, _alone) = self.undisturbed(id).await?;
        let group = match self.group(id) {
            Some(group) if group.replica() == replica => group,
            Some(other) => {
                return match self.removed(id)? {
                    Some(removed) if replica <= removed => Ok(()),
                    _ => Err(Error::OtherReplica { group: id, existing: other.replica(), wanted: replica }),
                };
            }
            None => return self.remove_remains(id, replica).await,
        };
        self.groups.write().remove(&id);
        group.stop(REMOVED).await;
        self.doubts().gone(id);
        self.arrivals().forget(id).await;
        // From here on a crash does not bring it back.
        self.write_ballot(id, replica, true).await?;
        fail_point::pass(FailPoint::RemovalBallot);
        self.wipe(id, replica, &**group.machine()).await?;
        tracing::info!(group = %id, %replica, "removed from this node");
        Ok(())
    }

    /// Alone with a group's replica: nothing is being installed into it, or over its keys, and nothing begins to be.
    async fn undisturbed(&self, id: GroupId) -> Result<(MutexGuard<'_, ()>, MutexGuard<'_, ()>), Error> {
        let mut ends = self.claims.ends();
        loop {
            // Before it is looked: an end that comes in between counts.
            ends.mark_unchanged();
            let turn = self.turn().await?;
            let alone = self.territory.lock().await;
            let spans = self.group(id).map(|group| group.machine().spans()).unwrap_or_default();
            if !self.claims.are_installing(id, &spans) {
                return Ok((turn, alone));
            }
            drop((turn, alone));
            // (The sender lives as long as this does.)
            let _ = ends.changed().await;
        }
    }

    /// Goes on with a removal that has failed halfway, or removes a replica that could not be opened. The territory is held.
    async fn remove_remains(&self, id: GroupId, replica: ReplicaId) -> Result<(), Error> {
        match self.ballot(id)? {
            Some((known, _)) if known == replica => {}
            _ => return Ok(()),
        }
        self.doubts().gone(id);
        self.write_ballot(id, replica, true).await?;
        self.finish_removal(id, replica).await
    }

    /// Goes on with the removal of a replica that does not run; `territory` is held.
    pub(crate) async fn finish_removal(&self, group: GroupId, replica: ReplicaId) -> Result<(), Error> {
        let machine = self.machine(group, replica);
        let wiped = self.wipe(group, replica, &*machine).await;
        machine.role_changed(&Role::Stopped { reason: REMOVED.into() });
        wiped
    }

    /// A blank replica is about to come, of a group that has no log here: it starts from nothing. A position that was left over
    /// openraft would take for what this replica has applied, and the leader would never send what lies below it. What a
    /// removed replica has left (one that wrote on after its removal) is cleared away; state that nobody can explain is left to
    /// somebody to look at.
    pub(crate) async fn clear_the_ground(&self, group: GroupId, me: ReplicaId) -> Result<(), Error> {
        let broken = |source| Error::Open { group, replica: me, source };
        let Some(last) = Position::load(self.engine(), group).map_err(broken)?.last else { return Ok(()) };
        let Some(removed) = self.removed(group)? else {
            return Err(broken(Fatal::new(format!("there is state up to {last} but no log"))));
        };
        tracing::warn!(%group, %removed, %last, "clearing away what a removed replica has left");
        let _alone = self.territory.lock().await;
        let machine = self.machine(group, me);
        let cleared = self.clear(group, me, &*machine, removed).await;
        machine.role_changed(&Role::Stopped { reason: REMOVED.into() });
        cleared
    }

    /// Removes a replica whose state another group has taken over. What it holds according to the state's last flush goes with it,
    /// also after a crash; so the take-over has to be durable first.
    pub async fn bury(self: &Arc<Self>, group: GroupId, replica: ReplicaId) -> Result<(), Error> {
        self.make_durable().await?;
        fail_point::pass(FailPoint::AbsorbedFlushed);
        self.remove_replica(group, replica).await
    }

    /// Stops a replica that must not be believed, for good: it hands over what it leads, serves nothing, votes for nobody, and
    /// does not run again after a restart. All that is left to be done with it is [`MultiRaft::remove_replica`]. Idempotent. Goes on
    /// if the caller does not wait.
    pub async fn quarantine(
        self: &Arc<Self>,
        id: GroupId,
        replica: ReplicaId,
        why: &str,
    ) -> Result<(), Error> {
        let (multi, why) = (self.clone(), why.to_owned());
        self.to_the_end("quarantine", async move { multi.confine(id, replica, &why).await }).await
    }

    async fn confine(&self, id: GroupId, replica: ReplicaId, why: &str) -> Result<(), Error> {
        let _turn = self.turn().await?;
        let group = self.group(id).filter(|group| group.replica() == replica).ok_or(Error::NoGroup(id))?;
        // (One that has failed of what it can't read may not be able to read this, either.)
        if matches!(self.is_quarantined(id, replica), Ok(true)) {
            self.shut_away(&group).await;
            return Ok(());
        }
        tracing::error!(group = %id, %replica, %why, "THIS REPLICA GOES INTO QUARANTINE");
        metrics::counter!("flotilla_raft_replicas_quarantined_total").increment(1);
        let mut batch = self.engine().batch();
        batch.put(Cf::Group, &keys::quarantined_key(id), &replica.0.to_be_bytes());
        let written = self.engine().write_aside(batch, self.seams()).await;
        written.map_err(storage_error("write that a replica is in quarantine"))?;
        self.flush().await?;
        let successor = group.leads().and_then(|_| group.successor());
        if let Some(to) = successor
            && let Err(error) = group.transfer_leader(to).await
        {
            tracing::info!(group = %id, %error, "the leadership is not handed over: the others elect");
        }
        self.shut_away(&group).await;
        Ok(())
    }

    /// Stops a replica that is in quarantine, and has the meta-group told as long as it is here.
    pub(crate) async fn shut_away(&self, group: &Group) {
        group.stop(QUARANTINED).await;
        self.doubts().stopped(group.id());
    }

    /// Whether a replica of this node is in quarantine.
    pub fn is_quarantined(&self, group: GroupId, replica: ReplicaId) -> Result<bool, Error> {
        let quarantined = is_quarantined(self.engine(), group, replica);
        quarantined.map_err(storage_error("read whether a replica is in quarantine"))
    }

    /// Makes everything durable that is applied now.
    pub async fn make_durable(&self) -> Result<(), Error> {
        self.flush().await
    }

    /// Removes what a stopped replica leaves. Its ballot says that it is being removed, and goes last.
    async fn wipe(
        &self,
        group: GroupId,
        replica: ReplicaId,
        machine: &dyn StateMachine,
    ) -> Result<(), Error> {
        let removed = self.removed(group)?.map_or(replica, |earlier| earlier.max(replica));
        self.clear(group, replica, machine, removed).await?;
        fail_point::pass(FailPoint::RemovalWiped);
        durably(|done| self.log.remove_group(group, done)).await.map_err(|e| Error::Open {
            group,
            replica,
            source: Fatal::new(e),
        })?;
        fail_point::pass(FailPoint::RemovalDone);
        Ok(())
    }

    /// Removes the state of a replica that does not run, and notes the newest that was removed. Durable when this returns.
    async fn clear(
        &self,
        group: GroupId,
        replica: ReplicaId,
        machine: &dyn StateMachine,
        removed: ReplicaId,
    ) -> Result<(), Error> {
        let (engine, dir) = (self.engine().clone(), self.spool_dir.clone());
        self.blocking("forget-install", move || snapshot::forget_install(&engine, &dir, group))
            .await?
            .map_err(|source| Error::Open { group, replica, source })?;
        self.claims.gone(group);
        let mut others = self.held_by_others(group);
        others.extend(self.held_by_unmade(group).await?);
        // Meanwhile somebody may have come to hold more. (And before that: what a replica has given to a child since is the child's.)
        others.extend(self.held_by_others(group));
        let mut left = machine.spans();
        left.push((Cf::Group, keys::all_keys(group)));
        let mut batch = self.engine().batch();
        for (cf, range) in without(left, others) {
            debug_assert!(self.holder(group, cf, &range).is_none(), "{group}: others hold its keys");
            batch.delete_range(cf, &range);
        }
        batch.put(Cf::Group, &keys::removed_key(group), &removed.0.to_be_bytes());
        let written = self.engine().write_aside(batch, self.seams()).await;
        written.map_err(storage_error("remove a group's state"))?;
        self.flush().await
    }

    /// The highest id of a replica of the group that was removed from this node.
    pub(crate) fn removed(&self, group: GroupId) -> Result<Option<ReplicaId>, Error> {
        let stored = self.engine().get(Cf::Group, &keys::removed_key(group));
        let stored = stored.map_err(storage_error("read which replicas were removed"))?;
        let id = |bytes: &[u8]| bytes.try_into().ok().map(|id| ReplicaId(u64::from_be_bytes(id)));
        match stored {
            None => Ok(None),
            Some(bytes) => id(&bytes).map(Some).ok_or_else(|| Error::Open {
                group,
                replica: ReplicaId(0),
                source: Fatal::new("the id of the replica that was removed is not 8 bytes"),
            }),
        }
    }

    /// Another group whose replica here holds some of these keys, or is to get them by a snapshot that it has accepted: a start
    /// would go on with that, though the install has failed.
    fn holder(&self, group: GroupId, cf: Cf, range: &KeyRange) -> Option<GroupId> {
        if let Some(other) = self.claims.holder(group, cf, range) {
            return Some(other);
        }
        let holds =
            |spans: &[(Cf, KeyRange)]| spans.iter().any(|(of, held)| *of == cf && held.overlaps(range));
        let others = self.groups().into_iter().filter(|other| other.id() != group);
        let others = others.into_iter().filter(|other| !other.machine().yields_to(group));
        others.into_iter().find(|other| holds(&other.machine().spans())).map(|other| other.id())
    }

    /// The keys that other groups' replicas here hold, or are to get.
    fn held_by_others(&self, group: GroupId) -> Vec<(Cf, KeyRange)> {
        let others = self.groups().into_iter().filter(|other| other.id() != group);
        let others = others.filter(|other| !other.machine().yields_to(group));
        let held = others.flat_map(|other| other.machine().spans());
        held.chain(self.claims.of_others(group)).collect()
    }

    /// … and those of replicas that are yet to be made: a split's child has its rows as soon as its parent has split here. `lifecycle` is held.
    async fn held_by_unmade(&self, group: GroupId) -> Result<Vec<(Cf, KeyRange)>, Error> {
        let (factory, engine) = (self.factory.clone(), self.engine().clone());
        let expected = self.blocking("expected-groups", move || factory.expected(&engine)).await?;
        let broken = |source| Error::Open { group, replica: ReplicaId(0), source };
        let mut held = Vec::new();
        for Expected { group: other, replica, .. } in expected.map_err(broken)? {
            if other == group || self.group(other).is_some() || self.has_left(other, replica)? {
                continue;
            }
            // Not one that holds nothing, if it can't be opened: then nothing is removed.
            let opened = self.factory.open(other, replica, self.engine().clone());
            let machine = opened.map_err(|source| Error::Open { group: other, replica, source })?;
            if !machine.yields_to(group) {
                held.extend(machine.spans());
            }
            machine.role_changed(&Role::Stopped { reason: UNMADE.into() });
        }
        Ok(held)
    }

    /// Another group that has begun to import some of these keys, and failed: they are not its own by the state's word, and yet they will go with
    /// its replica.
    fn importer(&self, group: GroupId, cf: Cf, range: &KeyRange) -> Option<GroupId> {
        let begun = self.engine().interrupted_imports().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read which imports were begun");
            Vec::new()
        });
        let holds =
            |spans: &[(Cf, KeyRange)]| spans.iter().any(|(of, held)| *of == cf && held.overlaps(range));
        begun.into_iter().find(|(other, spans)| *other != group && holds(spans)).map(|(other, _)| other)
    }

    /// Refuses a snapshot that would write over what another replica of this node holds.
    pub(crate) fn refuse_overlap(
        &self,
        group: GroupId,
        spans: &[(Cf, KeyRange)],
    ) -> Result<(), wire::Refusal> {
        let holder = |(cf, range): &(Cf, KeyRange)| {
            self.holder(group, *cf, range).or_else(|| self.importer(group, *cf, range))
        };
        match spans.iter().find_map(holder) {
            None => Ok(()),
            Some(other) => {
                let detail = format!("{other} still holds keys of {group} on this node");
                tracing::info!(%group, %other, "refusing a snapshot: {detail}");
                Err(refusal(wire::refusal::Reason::Starting, detail))
            }
        }
    }
}

/// What is left of these keys without those that others hold.
fn without(mut left: Vec<(Cf, KeyRange)>, others: Vec<(Cf, KeyRange)>) -> Vec<(Cf, KeyRange)> {
    for (cf, held) in others {
        let rest = |(of, range): (Cf, KeyRange)| {
            let rest = if of == cf { range.without(&held) } else { vec![range] };
            rest.into_iter().map(move |range| (of, range))
        };
        left = left.into_iter().flat_map(rest).collect();
    }
    left
}

/// Whether the engine says that a replica is in quarantine.
pub(crate) fn is_quarantined(
    engine: &Engine,
    group: GroupId,
    replica: ReplicaId,
) -> Result<bool, storage::Error> {
    let stored = engine.get(Cf::Group, &keys::quarantined_key(group))?;
    Ok(stored.is_some_and(|id| id[..] == replica.0.to_be_bytes()))
}
