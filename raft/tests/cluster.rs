//! Clusters within one process: real stores in temporary directories, real gRPC over the loopback interface.
//!
//! No test asserts how long something takes; each waits, generously, until it has happened.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::FutureExt;
use harness::{Cluster, GROUP, eventually};
use raft::{ChangeError, NewGroup, NoView, ProposeError};
use storage::ids::{LogIndex, NodeId, ReplicaId, Term};

fn members(nodes: &[u64]) -> BTreeMap<ReplicaId, NodeId> {
    nodes.iter().map(|&n| (ReplicaId(n), NodeId(n))).collect()
}

/// The group on `node`.
fn new(node: u64, nodes: &[u64], campaign: bool) -> NewGroup {
    NewGroup { group: GROUP, me: ReplicaId(node), members: members(nodes), campaign }
}

/// Three members, the first one campaigning.
async fn three() -> Cluster {
    let mut cluster = Cluster::new();
    for node in 1..=3 {
        cluster.start(node).await;
    }
    for node in 1..=3 {
        let multi = cluster.multi(node);
        multi.create_group(new(node, &[1, 2, 3], node == 1)).await.expect("create");
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sole_member_leads_at_once_and_again_after_a_restart() {
    let mut cluster = Cluster::new();
    cluster.start(1).await;
    let multi = cluster.multi(1);
    multi.create_group(new(1, &[1], false)).await.expect("create");
    cluster.put("a", "1").await;
    let (_, term) = cluster.leader().await;
    assert!(cluster.group(1).lease(term).is_ok());
    assert!(cluster.group(1).confirm_quorum(term).await.is_ok());
    assert!(cluster.group(1).lease(Term(term.0 + 1)).is_err(), "a lease is of one term");
    // Idempotent.
    multi.create_group(new(1, &[1], false)).await.expect("create again");
    multi.create_group(new(2, &[2], false)).await.expect_err("another replica");
    drop(multi);

    cluster.stop(1).await;
    cluster.start(1).await;
    // (It rests until it is asked: see `tests/rest.rs`.)
    cluster.group(1).rouse(Duration::from_secs(10)).await;
    cluster.put("b", "2").await;
    assert_eq!(cluster.get(1, "a").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leader_is_replaced_and_catches_up_from_the_log() {
    let mut cluster = three().await;
    for i in 0..50 {
        cluster.put(&format!("k{i}"), "1").await;
    }
    cluster.converge(&[1, 2, 3]).await;

    let (leader, term) = cluster.leader().await;
    let stale = cluster.group(leader);
    cluster.multi(leader).abandon().await;
    match stale.propose(term, Bytes::from_static(b"x=y")).await {
        Err(ProposeError::Stopped(_)) => {}
        other => panic!("a stopped replica answered {other:?}"),
    }
    drop(stale);
    cluster.kill(leader).await;
    cluster.put("after", "2").await;
    let (second, later) = cluster.leader().await;
    assert!(second != leader && later > term);

    cluster.start(leader).await;
    cluster.converge(&[1, 2, 3]).await;
    assert_eq!(cluster.get(leader, "after").as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposal_of_another_term_is_refused() {
    let cluster = three().await;
    let (leader, term) = cluster.leader().await;
    let group = cluster.group(leader);
    for other in [Term(term.0 - 1), Term(term.0 + 1)] {
        match group.propose(other, Bytes::from_static(b"x=y")).await {
            Err(ProposeError::NotLeader(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    let follower = cluster.group(if leader == 1 { 2 } else { 1 });
    match follower.propose(term, Bytes::from_static(b"x=y")).await {
        Err(ProposeError::NotLeader(to)) => {
            eventually("the follower names the leader", || {
                follower.lease(term).unwrap_err().leader.is_some_and(|l| l.node == NodeId(leader))
            })
            .await;
            assert!(to.leader.is_none_or(|l| l.node == NodeId(leader)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.get(leader, "x"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomer_gets_a_snapshot_becomes_a_voter_and_takes_the_lead() {
    let mut cluster = three().await;
    // The initial state, which no log entry carries, and enough for several chunks.
    let large = "v".repeat(300 << 10);
    for i in 0..10 {
        cluster.put(&format!("large{i}"), &large).await;
    }
    let (leader, _) = cluster.leader().await;
    cluster.multi(leader).checkpoint().await.expect("checkpoint");

    // Created by the first message from the leader.
    cluster.start(4).await;
    let multi = cluster.multi(4);
    let weak = std::sync::Arc::downgrade(&multi);
    multi.on_unknown_replica(move |unknown| {
        let multi = weak.upgrade().expect("running");
        tokio::spawn(async move { multi.create_replica(unknown.group, unknown.replica).await });
    });
    drop(multi);
    let group = cluster.group(leader);
    group.add_learner(ReplicaId(4), NodeId(4)).await.expect("add");
    group.add_learner(ReplicaId(4), NodeId(4)).await.expect("add again");
    match group.add_learner(ReplicaId(4), NodeId(5)).await {
        Err(ChangeError::Refused(_)) => {}
        other => panic!("{other:?}"),
    }
    eventually("the learner catches up", || {
        group.status().progress.get(&ReplicaId(4)).is_some_and(|p| p.lag == 0 && p.matched.is_some())
    })
    .await;
    cluster.put("after", "2").await;

    let gone = [1, 2, 3].into_iter().find(|n| *n != leader).expect("a follower");
    let voters: BTreeSet<_> = [1, 2, 3, 4].into_iter().filter(|n| *n != gone).map(ReplicaId).collect();
    group.change_voters(voters.clone()).await.expect("change voters");
    let status = group.status();
    assert_eq!(status.members.keys().copied().collect::<BTreeSet<_>>(), voters);
    assert!(status.learners.is_empty() && !status.joint);
    match group.change_voters([ReplicaId(4)].into()).await {
        Err(ChangeError::Refused(_)) => {}
        other => panic!("a leader removed itself: {other:?}"),
    }

    group.transfer_leader(ReplicaId(4)).await.expect("transfer");
    drop(group);
    eventually("the newcomer leads", || cluster.group(4).leads().is_some()).await;
    cluster.put("last", "3").await;
    assert_eq!(cluster.get(4, "large9"), Some(large));
    assert_eq!(cluster.get(4, "last").as_deref(), Some("3"));

    assert!(!cluster.group(4).has_member(ReplicaId(gone)).await.expect("the leader knows"));
    assert!(cluster.group(4).has_member(ReplicaId(leader)).await.expect("the leader knows"));
    for _ in 0..2 {
        cluster.multi(gone).remove_replica(GROUP, ReplicaId(gone)).await.expect("remove");
    }
    assert_eq!(cluster.get(gone, "after"), None, "its data is gone");
    cluster.stop(gone).await;
    cluster.start(gone).await;
    assert!(cluster.multi(gone).group(GROUP).is_none(), "and it stays gone");
    let multi = cluster.multi(gone);
    match multi.create_replica(GROUP, ReplicaId(gone)).await {
        Err(raft::Error::Removed { .. }) => {}
        other => panic!("a removed replica came back: {other:?}"),
    }
    // Another one may come; and another one, after that was removed again. Both are done though nobody waits for them: who asked has lost its
    // connection.
    for (asked, replica) in [(true, 5), (false, 5), (true, 6)] {
        let replica = ReplicaId(replica);
        let work: Pin<Box<dyn Future<Output = ()>>> = match asked {
            true => Box::pin(async { drop(multi.create_replica(GROUP, replica).await) }),
            false => Box::pin(async { drop(multi.remove_replica(GROUP, replica).await) }),
        };
        assert!(work.now_or_never().is_none(), "it takes more than a moment");
        eventually("it is done", || {
            multi.group(GROUP).map(|group| group.replica()) == asked.then_some(replica)
        })
        .await;
    }
    let group = cluster.group(4);
    match group.add_learner(ReplicaId(gone), NodeId(gone)).await {
        Err(ChangeError::Refused(_)) => {}
        other => panic!("an old id was added: {other:?}"),
    }
    group.add_learner(ReplicaId(6), NodeId(gone)).await.expect("add");
    eventually("the new replica catches up", || cluster.get(gone, "last").as_deref() == Some("3")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_transfer_leaves_a_group_that_writes_again() {
    let mut cluster = three().await;
    cluster.put("a", "1").await;
    let (leader, term) = cluster.leader().await;
    let dead = [1, 2, 3].into_iter().find(|n| *n != leader).expect("a follower");
    cluster.kill(dead).await;
    let group = cluster.group(leader);
    // Whether the third one takes over by itself or is made to, or the silence was long enough to be noticed.
    let refused = match group.transfer_leader(ReplicaId(dead)).await {
        Ok(()) | Err(ChangeError::TimedOut(_)) => false,
        Err(ChangeError::Refused(_)) => true,
        other => panic!("{other:?}"),
    };
    cluster.put("b", "2").await;
    let (_, later) = cluster.leader().await;
    assert!(refused || later > term);
    // By now it is known to be silent.
    let (leader, term) = cluster.leader().await;
    drop(group);
    let group = cluster.group(leader);
    eventually("the silence is noticed", || {
        let progress = group.status().progress.get(&ReplicaId(dead)).copied();
        progress.is_none_or(|p| p.silent_for.is_none_or(|s| s.as_millis() > 300))
    })
    .await;
    match group.transfer_leader(ReplicaId(dead)).await {
        Err(ChangeError::Refused(_)) => assert!(group.leads() == Some(term), "nothing has changed"),
        other => panic!("{other:?}"),
    }
}

/// The harness lets 4 KiB be in flight: what is more waits, what is larger than that goes alone, and nothing is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_waits_its_turn() {
    let cluster = three().await;
    cluster.put("first", "1").await;
    let puts = (0..100).map(|i| {
        let (cluster, bytes) = (&cluster, if i % 10 == 0 { 10_000 } else { 1_000 });
        async move { cluster.put(&format!("bulk{i}"), &"x".repeat(bytes)).await }
    });
    futures::future::join_all(puts).await;
    cluster.converge(&[1, 2, 3]).await;
    for node in 1..=3 {
        assert!((0..100).all(|i| cluster.get(node, &format!("bulk{i}")).is_some()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashed_cluster_continues_from_its_last_flush_and_the_log() {
    let mut cluster = three().await;
    cluster.put("flushed", "1").await;
    cluster.converge(&[1, 2, 3]).await;
    for node in 1..=3 {
        cluster.multi(node).checkpoint().await.expect("checkpoint");
    }
    for i in 0..100 {
        cluster.put(&format!("unflushed{i}"), "2").await;
    }
    cluster.converge(&[1, 2, 3]).await;
    for node in 1..=3 {
        cluster.crash(node).await;
    }
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.put("later", "3").await;
    cluster.converge(&[1, 2, 3]).await;
    for node in 1..=3 {
        assert_eq!(cluster.get(node, "unflushed99").as_deref(), Some("2"));
        assert_eq!(cluster.get(node, "later").as_deref(), Some("3"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_far_behind_is_brought_back_by_a_snapshot() {
    let mut cluster = three().await;
    cluster.put("a", "1").await;
    let (leader, _) = cluster.leader().await;
    let away = [1, 2, 3].into_iter().find(|n| *n != leader).expect("a follower");
    cluster.kill(away).await;
    // The harness keeps only a few entries.
    for i in 0..40 {
        cluster.put(&format!("k{i}"), "1").await;
    }
    for node in [1, 2, 3].into_iter().filter(|n| *n != away) {
        let multi = cluster.multi(node);
        multi.checkpoint().await.expect("checkpoint");
        let group = cluster.group(node);
        eventually("the log is purged", || group.status().purged.is_some_and(|i| i.0 > 20)).await;
    }
    cluster.start(away).await;
    cluster.converge(&[1, 2, 3]).await;
    assert_eq!(cluster.get(away, "k39").as_deref(), Some("1"));
    assert!(cluster.group(away).status().flushed.is_some_and(|i| i.0 > 20), "by a snapshot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_concurrent_proposals_are_all_applied_once() {
    let cluster = three().await;
    let (leader, term) = cluster.leader().await;
    let group = cluster.group(leader);
    let mut tasks = Vec::new();
    for task in 0..32 {
        let group = group.clone();
        tasks.push(tokio::spawn(async move {
            for i in 0..50 {
                let command = format!("t{task}-{i}=1");
                group.propose(term, command.into()).await.expect("propose");
            }
        }));
    }
    for task in tasks {
        task.await.expect("task");
    }
    cluster.converge(&[1, 2, 3]).await;
    for node in 1..=3 {
        assert_eq!(cluster.applied_commands(node), 32 * 50);
    }
}

/// CPU time of this process so far, in milliseconds.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) * 10
}

/// `cargo nextest run -p raft --run-ignored only --no-capture measure`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_proposals_idle_cost_and_failover() {
    let mut cluster = three().await;
    cluster.put("warm", "1").await;
    for callers in [1, 8, 32, 256] {
        let (leader, term) = cluster.leader().await;
        let group = cluster.group(leader);
        let (start, cpu) = (std::time::Instant::now(), cpu_ms());
        let until = start + std::time::Duration::from_secs(3);
        let mut tasks = Vec::new();
        for caller in 0..callers {
            let group = group.clone();
            let command = bytes::Bytes::from(format!("c{caller}={}", "v".repeat(256)));
            tasks.push(tokio::spawn(async move {
                let mut count = 0u64;
                while std::time::Instant::now() < until {
                    group.propose(term, command.clone()).await.expect("propose");
                    count += 1;
                }
                count
            }));
        }
        let mut count = 0;
        for task in tasks {
            count += task.await.expect("task");
        }
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_ms() - cpu);
        println!(
            "{callers} callers: {:.0} entries/s, {:.0} µs of CPU per entry (three replicas and the callers)",
            count as f64 / seconds,
            cpu as f64 * 1000.0 / count as f64
        );
    }
    let cpu = cpu_ms();
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    println!("idle: {:.1} ms of CPU per second (three replicas)", (cpu_ms() - cpu) as f64 / 5.0);
    for _ in 0..3 {
        let (leader, _) = cluster.leader().await;
        let start = std::time::Instant::now();
        cluster.multi(leader).abandon().await;
        let killed = start.elapsed();
        cluster.kill(leader).await;
        cluster.put("failover", "1").await;
        println!("failover: {:?} (of which the kill took {killed:?})", start.elapsed());
        cluster.start(leader).await;
        cluster.converge(&[1, 2, 3]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_at_one_index_are_equal_and_show_a_replica_that_differs() {
    let cluster = three().await;
    for i in 0..20 {
        cluster.put(&format!("k{i}"), "1").await;
    }
    // While somebody writes, and with barriers in between.
    let digests = async || {
        let (leader, _) = cluster.leader().await;
        let last = cluster.group(leader).status().last.expect("a log").0;
        let index = LogIndex(last + 10);
        let views: Vec<_> =
            (1..=3).map(|node| (node, cluster.group(node).view_at(index).expect("a view"))).collect();
        let writing = async {
            for i in 0..5 {
                cluster.put(&format!("k{i}"), &format!("{last}")).await;
            }
        };
        let advancing = cluster.group(leader);
        let (advanced, ()) = futures::join!(advancing.advance(index), writing);
        advanced.expect("advance");
        let mut digests = Vec::new();
        for (node, view) in views {
            digests.push(cluster.digest(node, view).await);
        }
        let missed = cluster.group(leader).view_at(index);
        assert!(matches!(missed, Err(NoView::Missed { .. })), "{missed:?}");
        digests
    };
    let found = digests().await;
    assert_eq!(found[0], found[1]);
    assert_eq!(found[1], found[2]);
    assert_eq!(found[0].iter().map(|digest| digest.rows).sum::<u64>(), 20);

    cluster.corrupt(2, "k7", "another");
    let found = digests().await;
    assert_eq!(found[0], found[2]);
    assert_ne!(found[0], found[1]);
}
