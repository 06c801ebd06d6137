//! Replicas that leave a node when something is in the way, and what those that come after them find.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use harness::{Cluster, GROUP, eventually};
use raft::{Error, Expected, Group, NewGroup, Role, private_key, private_keys};
use storage::ids::{GroupId, KeyRange, NodeId, ReplicaId};
use storage::seam::{Task, Tasks, TokioTasks};

const NEIGHBOUR: GroupId = GroupId(8);
/// No group of its own.
const ELSEWHERE: GroupId = GroupId(9);
const FIRST: ReplicaId = ReplicaId(1);
const SECOND: ReplicaId = ReplicaId(2);
const THIRD: ReplicaId = ReplicaId(3);

fn sole(group: GroupId) -> NewGroup {
    NewGroup { group, me: FIRST, members: BTreeMap::from([(FIRST, NodeId(1))]), campaign: false }
}

/// Counts how often the removal of a replica goes on after something that it had to wait for.
struct Watched(Arc<AtomicUsize>);

impl Tasks for Watched {
    fn spawn_boxed(&self, name: &'static str, mut task: Task) {
        if name != "remove-replica" {
            return TokioTasks.spawn_boxed(name, task);
        }
        let steps = self.0.clone();
        let watched = std::future::poll_fn(move |cx| {
            steps.fetch_add(1, Ordering::SeqCst);
            task.as_mut().poll(cx)
        });
        TokioTasks.spawn_boxed(name, Box::pin(watched));
    }

    fn thread(&self, name: &'static str, body: Box<dyn FnOnce() + Send + 'static>) -> std::io::Result<()> {
        TokioTasks.thread(name, body)
    }
}

/// The group has one member, on node 1, and a row.
async fn one() -> Cluster {
    one_of(Cluster::new()).await
}

/// … of a cluster without nodes.
async fn one_of(mut cluster: Cluster) -> Cluster {
    cluster.start(1).await;
    cluster.multi(1).create_group(sole(GROUP)).await.expect("create");
    cluster.put("a", "1").await;
    cluster
}

/// … which has begun to be removed, and stays halfway as long as a directory is where the removal looks for a file.
async fn half_removed() -> (Cluster, PathBuf) {
    let cluster = one().await;
    let obstacle = cluster.dir(1).join("incoming").join(format!("{}.install", GROUP.0));
    std::fs::create_dir_all(&obstacle).expect("an obstacle");
    let refused = cluster.multi(1).remove_replica(GROUP, FIRST).await;
    assert!(matches!(refused, Err(Error::Open { .. })), "{refused:?}");
    assert!(cluster.multi(1).group(GROUP).is_none());
    assert_eq!(cluster.get(1, "a").as_deref(), Some("1"), "nothing is gone yet");
    (cluster, obstacle)
}

/// Openraft ends its core, and leaves the worker that applies entries to end by itself. A removal that did not wait for that
/// worker wiped the state, and then the worker wrote the entry it was at: rows, and a position, that stayed under the tombstone
/// for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removal_waits_for_what_is_being_applied() {
    /// A removal is done after some ten. One that has taken so many and is not waits, and looks again and again.
    const STEPS: usize = 50;
    let steps = Arc::<AtomicUsize>::default();
    let mut cluster = Cluster::new();
    cluster.tasks = Some(Arc::new(Watched(steps.clone())));
    let cluster = one_of(cluster).await;
    let (_, term) = cluster.leader().await;
    let held = cluster.hold();
    let group = cluster.group(1);
    let proposing = tokio::spawn(async move { group.propose(term, Bytes::from_static(b"late=1")).await });
    eventually("it is being applied", || held.is_met()).await;
    let multi = cluster.multi(1);
    let removing = tokio::spawn(async move { multi.remove_replica(GROUP, FIRST).await });
    eventually("the removal has begun", || cluster.multi(1).group(GROUP).is_none()).await;
    let waits_or_is_done = || removing.is_finished() || steps.load(Ordering::SeqCst) >= STEPS;
    eventually("the removal waits, or is done", waits_or_is_done).await;
    assert!(!removing.is_finished(), "it has not waited");
    assert_eq!(cluster.get(1, "a").as_deref(), Some("1"), "it has wiped what is being written");
    drop(held);
    removing.await.expect("a task").expect("remove");
    // (The worker may have answered, or have ended before that.)
    drop(proposing.await.expect("a task"));
    assert_eq!(cluster.rows(1).len(), 1, "nothing but the tombstone: {:?}", cluster.rows(1));
}

/// A removal that has failed halfway has no replica among the running ones. Whoever asked again was told that it was done, and
/// the state and the log stayed until the node was started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_has_failed_halfway_is_repeated() {
    let (mut cluster, obstacle) = half_removed().await;
    let multi = cluster.multi(1);
    multi.remove_replica(GROUP, FIRST).await.expect_err("it fails as it did");
    assert_eq!(cluster.get(1, "a").as_deref(), Some("1"));
    std::fs::remove_dir(&obstacle).expect("remove the obstacle");
    for _ in 0..2 {
        multi.remove_replica(GROUP, FIRST).await.expect("remove");
        assert_eq!(cluster.rows(1).len(), 1, "nothing but the tombstone: {:?}", cluster.rows(1));
    }
    match multi.create_replica(GROUP, FIRST).await {
        Err(Error::Removed { .. }) => {}
        other => panic!("a removed replica came back: {other:?}"),
    }
    drop(multi);
    cluster.stop(1).await;
    cluster.start(1).await;
    assert!(cluster.multi(1).group(GROUP).is_none());
}

/// The next replica is the occasion, too: it is not made as long as its predecessor's state is there, and finds nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_replica_waits_for_the_removal_of_its_predecessor() {
    let (cluster, obstacle) = half_removed().await;
    let multi = cluster.multi(1);
    multi.create_replica(GROUP, SECOND).await.expect_err("its predecessor is still there");
    assert_eq!(cluster.get(1, "a").as_deref(), Some("1"));
    std::fs::remove_dir(&obstacle).expect("remove the obstacle");
    let group = multi.create_replica(GROUP, SECOND).await.expect("create");
    assert_eq!((group.replica(), group.status().applied), (SECOND, None));
    assert_eq!(cluster.get(1, "a"), None);
}

/// A removal that has failed halfway holds its keys no more: another replica may have got some of them since. Gone on with all the
/// same, at a request or at the next start, it would take that one's rows. Not gone on with, it would keep the group's next replica
/// from this node for as long as the other one is here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_replica_has_come_to_hold_stays_and_keeps_nobody_away() {
    let (mut cluster, obstacle) = half_removed().await;
    // The other one has a part of what is left.
    cluster.put_rows(1, &[(private_key(GROUP, b"b"), b"left".to_vec())]);
    std::fs::remove_dir(&obstacle).expect("remove the obstacle");
    cluster.claim(NEIGHBOUR, Some(KeyRange::point(&private_key(GROUP, b"a"))));
    let multi = cluster.multi(1);
    multi.create_group(sole(NEIGHBOUR)).await.expect("create");
    let its_rows = |cluster: &Cluster| {
        assert_eq!(cluster.get(1, "a").as_deref(), Some("1"), "the other one's");
        assert_eq!(cluster.get(1, "b"), None, "nobody's");
    };
    let group = multi.create_replica(GROUP, SECOND).await.expect("the next one may come");
    assert_eq!((group.replica(), group.status().applied), (SECOND, None));
    its_rows(&cluster);
    for _ in 0..2 {
        multi.remove_replica(GROUP, SECOND).await.expect("remove");
        assert_eq!(cluster.rows(1).len(), 2, "the tombstone, and the other one's: {:?}", cluster.rows(1));
        its_rows(&cluster);
    }
    drop((multi, group));
    cluster.stop(1).await;
    cluster.start(1).await;
    its_rows(&cluster);
    assert!(cluster.multi(1).group(NEIGHBOUR).is_some() && cluster.multi(1).group(GROUP).is_none());
}

/// A split's child has its rows as soon as its parent has split, and is made later: by the node, or by its next start. What a removal that has
/// failed halfway gone on with in between took of them was gone on this node alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_child_holds_that_is_not_made_yet_stays() {
    for restarts in [false, true] {
        let (mut cluster, obstacle) = half_removed().await;
        std::fs::remove_dir(&obstacle).expect("remove the obstacle");
        cluster.claim(NEIGHBOUR, Some(KeyRange::point(&private_key(GROUP, b"a"))));
        let members = BTreeMap::from([(FIRST, NodeId(1))]);
        cluster.expect(Expected { group: NEIGHBOUR, replica: FIRST, members });
        if restarts {
            cluster.stop(1).await;
            cluster.start(1).await;
        } else {
            cluster.multi(1).remove_replica(GROUP, FIRST).await.expect("remove");
        }
        assert_eq!(cluster.multi(1).group(NEIGHBOUR).is_some(), restarts);
        assert_eq!(cluster.get(1, "a").as_deref(), Some("1"), "after a start: {restarts}");
        assert_eq!(cluster.rows(1).len(), 2, "the tombstone, and the other one's: {:?}", cluster.rows(1));
    }
}

/// A removal that a start cannot finish is the affair of that replica, not of the node. So it is if the state that it has left says
/// that the node should have it. And one that it can finish takes nothing from others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_whatever_a_replica_that_leaves_has_left() {
    let (mut cluster, obstacle) = half_removed().await;
    cluster.multi(1).create_group(sole(NEIGHBOUR)).await.expect("create");
    let members = BTreeMap::from([(FIRST, NodeId(1))]);
    cluster.expect(Expected { group: GROUP, replica: FIRST, members });
    for takes_the_keys in [false, true] {
        if takes_the_keys {
            std::fs::remove_dir(&obstacle).expect("remove the obstacle");
            cluster.claim(NEIGHBOUR, Some(private_keys(GROUP)));
        }
        cluster.stop(1).await;
        cluster.start(1).await;
        assert!(cluster.multi(1).group(NEIGHBOUR).is_some() && cluster.multi(1).group(GROUP).is_none());
        assert_eq!(cluster.get(1, "a").as_deref(), Some("1"), "finished before: {takes_the_keys}");
    }
    assert_eq!(cluster.rows(1).len(), 2, "the tombstone, and the other one's: {:?}", cluster.rows(1));
    // (The tombstone has no ballot beside it.)
    cluster.stop(1).await;
    cluster.start(1).await;
    assert!(cluster.multi(1).group(GROUP).is_none());
    match cluster.multi(1).create_replica(GROUP, FIRST).await {
        Err(Error::Removed { .. }) => {}
        other => panic!("a removed replica came back: {other:?}"),
    }
}

/// The group's first member on node 1, its second one on node 2, where the install of its first snapshot has failed; the file
/// of that.
async fn failed_install() -> (Cluster, Arc<Group>, PathBuf) {
    let mut cluster = one().await;
    cluster.start(2).await;
    // That is in the snapshot, too.
    cluster.claim(GROUP, Some(private_keys(ELSEWHERE)));
    // Where the import makes its tables there is a file.
    let importing = cluster.dir(2).join("importing");
    std::fs::create_dir_all(&importing).expect("a directory");
    std::fs::write(importing.join(GROUP.0.to_string()), "in the way").expect("an obstacle");
    cluster.multi(2).create_replica(GROUP, SECOND).await.expect("create");
    let leader = cluster.group(1);
    leader.add_learner(SECOND, NodeId(2)).await.expect("add");
    eventually("the install fails", || matches!(cluster.group(2).status().role, Role::Stopped { .. })).await;
    cluster.claim(GROUP, None);
    let accepted = cluster.dir(2).join("incoming").join(format!("{}.install", GROUP.0));
    assert!(accepted.exists());
    (cluster, leader, accepted)
}

/// An accepted snapshot whose import fails stays in its file, for the next start to import. With the replica it goes: by the
/// next start, somebody else may hold the keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_install_has_left_goes_with_its_replica() {
    let (mut cluster, leader, accepted) = failed_install().await;
    leader.remove(SECOND).await.expect("a change of members");
    drop(leader);
    cluster.multi(2).remove_replica(GROUP, SECOND).await.expect("remove");
    assert!(!accepted.exists(), "the next start would import it");
    cluster.corrupt(2, "a", "somebody's");
    cluster.stop(2).await;
    cluster.start(2).await;
    assert_eq!(cluster.get(2, "a").as_deref(), Some("somebody's"));
}

/// Until then its keys are spoken for, whatever its state says that it holds: the start would import it over whoever has got them
/// meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_install_was_to_bring_nobody_else_gets_before() {
    let (cluster, _leader, _) = failed_install().await;
    nobody_else_gets_its_keys_before(&cluster).await;
}

/// The next start would go on with it, whether or not the one before has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_start_could_not_install_nobody_else_gets_before() {
    let (mut cluster, _leader, accepted) = failed_install().await;
    // (The header is whole.)
    let file = std::fs::File::options().write(true).open(&accepted).expect("the file");
    let bytes = file.metadata().expect("its length").len();
    file.set_len(bytes - 1).expect("cut off");
    cluster.stop(2).await;
    cluster.start(2).await;
    assert!(accepted.exists() && cluster.group(2).failed().is_some());
    nobody_else_gets_its_keys_before(&cluster).await;
}

/// Snapshots that are begun until it is certain that more than one of them was refused.
const ATTEMPTS: usize = 4;

/// After [`failed_install`]: they are what its snapshot was to bring, and [`NEIGHBOUR`] gets them when its replica is gone.
async fn nobody_else_gets_its_keys_before(cluster: &Cluster) {
    cluster.multi(1).create_group(sole(NEIGHBOUR)).await.expect("create");
    cluster.claim(NEIGHBOUR, Some(private_keys(ELSEWHERE)));
    cluster.multi(2).create_replica(NEIGHBOUR, SECOND).await.expect("create");
    let neighbour = |node: u64| cluster.multi(node).group(NEIGHBOUR).expect("the neighbour");
    eventually("it is led", || neighbour(1).leads().is_some()).await;
    neighbour(1).add_learner(SECOND, NodeId(2)).await.expect("add");
    // (The next one begins when the one before has been answered.)
    let refused =
        || cluster.snapshots_begun(1, NEIGHBOUR) >= ATTEMPTS || neighbour(2).status().applied.is_some();
    eventually("its snapshot is refused some times, or taken", refused).await;
    assert_eq!(neighbour(2).status().applied, None);
    cluster.multi(2).remove_replica(GROUP, SECOND).await.expect("remove");
    eventually("it gets its snapshot", || neighbour(2).status().applied.is_some()).await;
}

/// Openraft takes the position that it finds for what a replica has applied, and never asks for what lies below. A blank
/// replica that was made over the remains of another one (which wrote on after its removal, say) lacked rows for good, and knew
/// nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blank_replica_starts_from_nothing() {
    let mut cluster = one().await;
    cluster.start(2).await;
    let leader = cluster.group(1);
    cluster.multi(2).create_replica(GROUP, SECOND).await.expect("create");
    leader.add_learner(SECOND, NodeId(2)).await.expect("add");
    eventually("it has the state", || cluster.get(2, "a").as_deref() == Some("1")).await;
    let mut remains = cluster.rows(2);
    leader.remove(SECOND).await.expect("a change of members");
    cluster.multi(2).remove_replica(GROUP, SECOND).await.expect("remove");
    // All of it but the row.
    let row = private_key(GROUP, b"a");
    remains.retain(|(key, _)| *key != row);
    cluster.put_rows(2, &remains);

    let group = cluster.multi(2).create_replica(GROUP, THIRD).await.expect("create");
    assert_eq!((group.replica(), group.status().applied), (THIRD, None));
    drop(group);
    leader.add_learner(THIRD, NodeId(2)).await.expect("add");
    eventually("it has the state", || cluster.get(2, "a").as_deref() == Some("1")).await;

    // What no removal explains is not touched.
    cluster.start(3).await;
    cluster.put_rows(3, &remains);
    let refused = cluster.multi(3).create_replica(GROUP, ReplicaId(4)).await;
    assert!(matches!(refused, Err(Error::Open { .. })), "{refused:?}");
    assert_eq!(cluster.rows(3), remains);
}
