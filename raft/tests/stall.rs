//! Disks that stall: who leads then. One node is real, and the others are played.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::puppet::{Puppet, agree, append, ask, is_success};
use harness::{Cluster, GROUP, eventually, eventually_so};
use proto::raft as wire;
use proto::raft::answer::Body as Answer;
use proto::raft::request::Body;
use raft::NewGroup;
use storage::ids::{GroupId, NodeId, ReplicaId};

/// The real node.
const ME: u64 = 1;
/// Has no vote in [`GROUP`], and its disk is well. It has one in [`OTHER`].
const BYSTANDER: u64 = 4;
const OTHER: GroupId = GroupId(8);

/// Four nodes, one of them real. The disk of another one stalls if this one's pulse says so.
struct Stage {
    cluster: Cluster,
    voters: [Puppet; 2],
    bystander: Puppet,
    /// The real node has said, by a pulse, that its disk stalls.
    said: Arc<AtomicBool>,
}

impl Stage {
    async fn set() -> Self {
        let mut cluster = Cluster::new();
        cluster.options.disk_stall = Duration::from_millis(250);
        let voters = [Puppet::start(&cluster, 2).await, Puppet::start(&cluster, 3).await];
        voters.iter().for_each(|puppet| puppet.play(refuse));
        let bystander = Puppet::start(&cluster, BYSTANDER).await;
        let said = Arc::new(AtomicBool::new(false));
        let heard = said.clone();
        bystander.play(move |asked| {
            if matches!(asked, Body::Pulse(pulse) if pulse.stalled) {
                heard.store(true, Ordering::SeqCst);
            }
            refuse(asked)
        });
        cluster.start(ME).await;
        let stage = Self { cluster, voters, bystander, said };
        stage.create(GROUP, &[1, 2, 3]).await;
        stage
    }

    async fn create(&self, group: GroupId, nodes: &[u64]) {
        let members: BTreeMap<_, _> = nodes.iter().map(|n| (ReplicaId(*n), NodeId(*n))).collect();
        let new = NewGroup { group, me: ReplicaId(ME), members, campaign: false };
        self.cluster.multi(ME).create_group(new).await.expect("create");
    }

    /// The group in which the bystander votes, which links the real node with it.
    async fn create_other(&self) {
        self.create(OTHER, &[ME, BYSTANDER]).await;
        let is_asked = || self.bystander.count(|asked| matches!(asked, Body::PreVote(_))) > 0;
        eventually("the bystander is asked for its vote", is_asked).await;
    }

    /// The real node's disk stalls until the answer is dropped. (It may have been slow before.)
    fn stall(&self) -> std::sync::mpsc::Sender<()> {
        self.said.store(false, Ordering::SeqCst);
        self.cluster.stall(ME)
    }

    /// These nodes say that they live, and that their disks stall. So does the bystander, that its own is well.
    async fn pulse(&self, stalled: &[u64]) {
        let pulse = |stalled| Body::Pulse(wire::Pulse { answered: true, stalled, ..wire::Pulse::default() });
        for node in stalled {
            ask(&self.cluster, *node, ME, pulse(true)).await;
        }
        ask(&self.cluster, BYSTANDER, ME, pulse(false)).await;
    }

    /// Until it is so these nodes say that.
    async fn pulse_until(&self, what: &str, stalled: &[u64], so: impl Fn() -> bool) {
        let so = &so;
        eventually_so(what, || async move {
            self.pulse(stalled).await;
            so()
        })
        .await;
    }

    fn pre_votes(&self) -> usize {
        self.voters.iter().map(|puppet| puppet.count(|asked| matches!(asked, Body::PreVote(_)))).sum()
    }
}

/// Elects nobody, and agrees to all else.
fn refuse(asked: &Body) -> Option<Answer> {
    match asked {
        Body::PreVote(_) => {
            let vote = Some(wire::Vote { term: 0, replica: 0, committed: false });
            Some(Answer::Vote(wire::VoteAnswer { vote, granted: false, last: None }))
        }
        other => agree(other),
    }
}

/// As long as a node without a vote counted as a better one, no voter stood for election when all of them stalled. What the others
/// say may change meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_disk_stalls_stands_for_election_as_long_as_no_other_voter_is_well() {
    let stage = Stage::set().await;
    stage.create_other().await;
    let _well = stage.stall();
    stage.pulse_until("it says that its disk stalls", &[2, 3], || stage.said.load(Ordering::SeqCst)).await;
    // (Those that were on their way when the disk came to stall are not counted.)
    let enough = stage.pre_votes() + 5;
    stage.pulse_until("it stands for election", &[2, 3], || stage.pre_votes() >= enough).await;

    let silence = 6 * stage.cluster.options.election_max;
    let is_silent = || stage.voters.iter().all(|puppet| puppet.left_alone_for() > silence);
    let well = wire::Pulse { answered: true, ..wire::Pulse::default() };
    let (cluster, is_silent) = (&stage.cluster, &is_silent);
    eventually_so("it stands back for a voter that is well", || async move {
        ask(cluster, 3, ME, Body::Pulse(well)).await;
        is_silent()
    })
    .await;
    let before = stage.pre_votes();
    stage.pulse_until("that one stalls, too", &[2, 3], || stage.pre_votes() > before).await;
}

/// The same of a group at rest, whose home is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_at_rest_wakes_where_the_disk_stalls_if_no_other_voter_is_well() {
    let mut stage = Stage::set().await;
    let appended = ask(&stage.cluster, 2, ME, append(2, 5, 1)).await;
    assert!(is_success(&appended), "{appended:?}");
    eventually("it is applied", || stage.cluster.applied_commands(ME) == 1).await;
    // A group that has nothing to apply again rests when its node starts.
    stage.cluster.stop(ME).await;
    stage.cluster.start(ME).await;
    stage.create_other().await;
    let group = stage.cluster.group(ME);
    assert!(group.rests());

    let _well = stage.stall();
    stage.pulse_until("it says that its disk stalls", &[3], || stage.said.load(Ordering::SeqCst)).await;
    let before = stage.pre_votes();
    group.rouse(Duration::from_secs(3)).await;
    assert!(!group.rests());
    stage.pulse_until("it stands for election", &[3], || stage.pre_votes() > before).await;
}
