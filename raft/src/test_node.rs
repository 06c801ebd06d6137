//! A node for tests of what is not to be seen from outside: of each of its groups it has the second of three members, and
//! the other two nodes are the test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::AppendEntriesRequest;
use openraft::vote::{RaftLeaderId, RaftVote};
use storage::ids::{GroupId, LogIndex, NodeId, ReplicaId};
use storage::seam::Seams;
use storage::{Identity, Store, StoreOptions};
use tempfile::TempDir;

use crate::api::Peer;
use crate::create::NewGroup;
use crate::group::Group;
use crate::multi::MultiRaft;
use crate::options::RaftOptions;
use crate::test_machine::{Nobody, Nothings};
use crate::types::{Entry, LeaderId, TypeConfig, Vote, log_id};

const ME: u64 = 2;
const TERM: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(30);
/// The leader of all its groups.
pub(crate) const LEADER: Peer = Peer { replica: ReplicaId(1), node: NodeId(1) };

pub(crate) struct TestNode {
    pub multi: Arc<MultiRaft>,
    seams: Seams,
    _store: Arc<Store>,
    _dir: TempDir,
}

impl TestNode {
    /// One that stands for election only when it is made to.
    pub async fn start(options: RaftOptions) -> Self {
        let seconds = Duration::from_secs;
        let options = RaftOptions { election_min: seconds(20), election_max: seconds(30), ..options };
        let dir = TempDir::new().expect("a directory");
        let seams = Seams::real();
        let store = Store::open(dir.path(), StoreOptions::default(), seams.clone()).expect("a store");
        store.set_identity(Identity { cluster_id: 1, node_id: NodeId(ME) }).expect("identity");
        let multi =
            MultiRaft::start(options, store.clone(), Arc::new(Nothings), Arc::new(Nobody), seams.clone());
        Self { multi: multi.await.expect("start"), seams, _store: store, _dir: dir }
    }

    /// A group that follows [`LEADER`].
    pub async fn group(&self, id: u64) -> Arc<Group> {
        let members: BTreeMap<ReplicaId, NodeId> = [1, 2, 3].map(|n| (ReplicaId(n), NodeId(n))).into();
        let new = NewGroup { group: GroupId(id), me: ReplicaId(ME), members, campaign: false };
        let group = self.multi.create_group(new).await.expect("create");
        let core = group.awake().await.expect("awake");
        let append = AppendEntriesRequest::<TypeConfig> {
            vote: leaders_vote(),
            prev_log_id: Some(log_id(0, 0)),
            entries: vec![Entry::new(log_id(TERM, 1), EntryPayload::Blank)],
            leader_commit: Some(log_id(TERM, 1)),
        };
        core.raft.append_entries(append).await.expect("append");
        group
    }

    /// … and rests.
    pub async fn group_at_rest(&self, id: u64) -> Arc<Group> {
        let group = self.group(id).await;
        self.eventually("it is applied", || group.status().applied == Some(LogIndex(1))).await;
        self.lay_to_rest(&group).await;
        group
    }

    /// The leader says that one of these is at rest.
    pub async fn lay_to_rest(&self, group: &Arc<Group>) {
        for _ in 0..1000 {
            if group.follow_to_rest(LEADER, leaders_vote(), 1, BTreeSet::new()).await {
                assert!(group.rests());
                return;
            }
            // The metrics come later.
            self.seams.sleep(Duration::from_millis(5)).await;
        }
        panic!("{group:?} does not rest: {:?}", group.status());
    }

    pub async fn eventually(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = self.seams.clock.now() + PATIENCE;
        while !condition() {
            assert!(self.seams.clock.now() < deadline, "it never happened: {what}");
            self.seams.sleep(Duration::from_millis(5)).await;
        }
    }
}

fn leaders_vote() -> Vote {
    Vote::from_leader_id(LeaderId::new(TERM, LEADER.replica.0), true)
}
