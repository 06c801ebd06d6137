//! Leaders that are cut off from their followers: what they leave in their logs, and what they hold on to.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests of the real thing run on the real clock"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Cable, FIRST, TestCluster, orphan_prewrite, request, set};
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use raft::{ChangeError, Group, RaftOptions};
use storage::ids::Term;
use storage::seam::Seams;
use txn::shard::Leadership;
use txn::{CoordinatorOptions, ShardServer};

const WHILE: Duration = Duration::from_secs(1);

/// Three nodes, and a row. A lease is so long that whoever is cut off has it for whatever a test does next; and a proposal that
/// nobody answers is given up before that leader gives up anything.
async fn cuttable() -> (TestCluster, Cable) {
    let raft = RaftOptions {
        election_min: Duration::from_millis(1_500),
        election_max: Duration::from_millis(2_000),
        request_timeout: Duration::from_millis(500),
        propose_timeout: Duration::from_millis(1_000),
        ..RaftOptions::default()
    };
    let cable = Cable::default();
    let seams = Seams::real().over(Arc::new(cable.clone()));
    let cluster = TestCluster::start_over(3, CoordinatorOptions::default(), raft, seams).await;
    cluster.eventually("somebody leads", || cluster.nodes.iter().any(|node| node.leads().is_some())).await;
    set(&*cluster.database(0), "a", Some("1")).await;
    (cluster, cable)
}

struct Leader {
    server: Arc<ShardServer>,
    group: Arc<Group>,
    leadership: Arc<Leadership>,
    term: Term,
}

impl Leader {
    fn of(cluster: &TestCluster) -> Self {
        let led = cluster.nodes.iter().find_map(|node| Some((node, node.leads()?)));
        let (node, leadership) = led.unwrap();
        let term = leadership.term;
        Self { server: node.server.clone(), group: node.multi.group(FIRST).unwrap(), leadership, term }
    }

    /// What it answers is awaited elsewhere.
    fn ask(&self, ask: Ask) -> tokio::task::JoinHandle<Answer> {
        let server = self.server.clone();
        tokio::spawn(async move { server.handle(request(ask)).await.body.unwrap() })
    }

    fn close(&self) -> tokio::task::JoinHandle<Answer> {
        self.ask(Ask::Close(pb::Close { behind: 1, wanted: true }))
    }

    /// The last entry of its log; it leads still.
    fn last(&self) -> u64 {
        assert_eq!(self.group.leads(), Some(self.term), "it leads for as long as it hears of nobody else");
        self.group.status().last.unwrap().0
    }
}

fn assert_failure(answer: &Answer, kind: pb::FailureKind) {
    assert!(matches!(answer, Answer::Failure(failure) if failure.kind() == kind), "{answer:?}");
}

/// Shards that are due are looked at several times a second. A leader that only found out by its entry that it has no majority
/// left had another entry in its log, and a task that waited for its fate, after each look, until openraft trusted it no more;
/// and all of them were to be replicated afterwards. (By its lease it finds out late. Here it asks.)
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_without_a_majority_has_nothing_to_say_about_what_is_closed() {
    let (cluster, cable) = cuttable().await;
    cluster.nodes.iter().for_each(|node| node.multi.set_quorum_reads(true));
    let leader = Leader::of(&cluster);
    let last = leader.last();
    cable.set_cut(true);
    let asked = [leader.close(), leader.close(), leader.close()];
    for closing in asked {
        assert_failure(&closing.await.unwrap(), pb::FailureKind::FailureNotLeader);
    }
    assert_eq!(leader.last(), last);
}

/// Where the majority is lost between the two, an entry is in the log and nobody knows what becomes of it. Nobody needs to: no
/// latch hangs on it. Proposed like effects, it left a task behind that went on asking, with an entry each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_said_in_vain_is_given_up() {
    let (cluster, cable) = cuttable().await;
    let leader = Leader::of(&cluster);
    let last = leader.last();
    // It has a majority when it asks for the time, and none when it is told.
    cluster.meta.stopped.send_replace(true);
    let asked = cluster.meta.asked.load(Ordering::SeqCst);
    let closing = leader.close();
    cluster.eventually("it asks for the time", || cluster.meta.asked.load(Ordering::SeqCst) > asked).await;
    cable.set_cut(true);
    cluster.meta.stopped.send_replace(false);
    assert_failure(&closing.await.unwrap(), pb::FailureKind::FailureAmbiguous);
    assert_eq!(leader.last(), last + 1);
    cluster.seams.sleep(WHILE).await;
    assert_eq!(leader.last(), last + 1, "nobody asks what has become of it");
}

/// A leader that hands over takes no proposals, as if it led no more. But its term goes on until somebody else leads, and what
/// it has in its log may be committed until then: by latches that were let go before, others would not have seen what is about
/// to be applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn latches_stay_while_their_leader_hands_over_to_one_that_is_gone() {
    let (cluster, cable) = cuttable().await;
    let started = cluster.database(0).timestamp().await.unwrap();
    let leader = Leader::of(&cluster);
    let latches = &leader.leadership.latches;
    cluster.eventually("nothing is under way", || latches.is_idle()).await;
    let last = leader.last();
    cable.set_cut(true);
    let prewrite = leader.ask(orphan_prewrite("b", "2", started));
    cluster.eventually("it is in the log", || leader.last() > last).await;
    // To whom it has heard of a moment ago.
    let progress = leader.group.status().progress;
    let heard = progress.iter().filter_map(|(replica, progress)| Some((progress.silent_for?, *replica)));
    let (_, to) = heard.min().unwrap();
    let group = leader.group.clone();
    let handing_over = tokio::spawn(async move { group.transfer_leader(to).await });
    assert_failure(&prewrite.await.unwrap(), pb::FailureKind::FailureAmbiguous);
    for _ in 0..50 {
        assert!(!latches.is_idle(), "whether it is applied is not known yet");
        leader.last();
        cluster.seams.sleep(WHILE / 50).await;
    }
    assert!(!handing_over.is_finished(), "it has handed over all the while");
    // It hears who leads.
    cable.set_cut(false);
    cluster.eventually("it is known", || latches.is_idle()).await;
    assert_ne!(leader.group.leads(), Some(leader.term));
    let handed = handing_over.await.unwrap();
    assert!(matches!(handed, Ok(()) | Err(ChangeError::TimedOut(_))), "{handed:?}");
}
