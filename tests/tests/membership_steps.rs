//! Each party to a move of a replica dies at each step of it, while clients write: who leads the group, who follows, who comes, who goes,
//! and who leads the meta-group, which takes the steps. What was acknowledged is there afterwards, all replicas are equal, and the replica
//! has moved.
//!
//! | | leader | a follower | comes | goes | meta-group's leader |
//! |---|---|---|---|---|---|
//! | the new replica has its id | | | | | here |
//! | … is there, and blank | | | `fail_points.rs` | | here |
//! | … gets a snapshot | here | | `fail_points.rs` | | |
//! | … is a learner | here | here | (it is in the snapshot) | here | here |
//! | the leadership is handed over | | | | | here |
//! | old and new voters vote together | here | here | here | (it may go before it applies that) | |
//! | the new ones vote | here | here | here | | here |
//! | the old replica goes | | | | `fail_points.rs` | |
//!
//! The build that breaks on demand is needed (`cluster-scripts/test` makes it).

use anyhow::{Context, Result, ensure};
use storage::fail_point::FailPoint::{self, *};
use tests::doomed::{Doomed, STEPS};

/// Who dies.
#[derive(Clone, Copy, Debug)]
enum Party {
    Leader,
    Follower,
    Comes,
    Goes,
    /// The leader of the meta-group.
    Conductor,
}

use Party::*;

const DEATHS: [(Party, FailPoint); 15] = [
    (Conductor, ReplicaAllotted),
    (Conductor, ReplicaMade),
    (Leader, SnapshotSending),
    (Leader, LearnerWritten),
    (Follower, LearnerWritten),
    (Goes, LearnerWritten),
    (Conductor, LearnerAdded),
    (Conductor, LeaderMoved),
    (Leader, JointWritten),
    (Follower, JointWritten),
    (Comes, JointWritten),
    (Leader, UniformWritten),
    (Follower, UniformWritten),
    (Comes, UniformWritten),
    (Conductor, VotersChanged),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_party_to_a_move_dies_at_each_step_and_the_replica_moves() -> Result<()> {
    let mut doomed = Doomed::start(4).await?;
    for (party, point) in DEATHS {
        doomed.cluster.admin(1, &["status", "--wait", "30"])?;
        let shard = doomed.third().await?;
        let mut followers = shard.nodes.iter().filter(|node| **node != shard.leader);
        let (gives, stays) =
            (*followers.next().context("a follower")?, *followers.next().context("another")?);
        // A leadership is handed over only if it is in the way.
        let from = if point == LeaderMoved { shard.leader } else { gives };
        let to = (1..=4).find(|node| !shard.nodes.contains(node)).context("a node without it")?;
        let n = match party {
            Leader => doomed.cluster.number(shard.leader)?,
            Follower => doomed.cluster.number(stays)?,
            Comes => doomed.cluster.number(to)?,
            Goes => doomed.cluster.number(from)?,
            Conductor => doomed.cluster.meta_leader(1)?,
        };
        let (from, to) = (format!("n{from}"), format!("n{to}"));
        let moving = ["move", shard.name.as_str(), "--from", &from, "--to", &to, "--timeout", "5"];
        doomed.die(n, point, &moving).await.with_context(|| format!("{party:?}"))?;
        doomed
            .until_moved(&shard.name, &from, &to)
            .await
            .with_context(|| format!("{party:?} at {point:?}"))?;
        eprintln!("{party:?} has died at {point:?}");
    }
    let never: Vec<_> = STEPS.iter().filter(|point| !doomed.died.contains_key(point.name())).collect();
    ensure!(never.is_empty(), "nobody has died at {never:?}, but at {:?}", doomed.died);
    Ok(())
}
