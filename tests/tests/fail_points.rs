//! Nodes that die at every fail point there is (`storage::fail_point`), and at hundreds of random passages of any of them, while clients
//! write: what was acknowledged is there afterwards, no transaction by half, and all replicas are equal.
//!
//! They run in the build that breaks on demand (`cluster-scripts/test` makes it). `FLOTILLA_CRASHES` says how often nodes die at random.

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::fail_point::FailPoint::{self, *};
use tests::doomed::{Doomed, STEPS};
use tests::pairs::check;

/// How often nodes die at random, unless it is said.
const CRASHES: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_dies_at_every_fail_point_and_nothing_is_lost() -> Result<()> {
    let mut doomed = Doomed::start(4).await?;
    // By clients' writes alone, and by the checkpointer: on nodes that have the shards that are written. One of the four may have none,
    // as a table's shards are pieces of its database's.
    for (round, point) in [LogUnwritten, LogWritten, ApplyWritten, CheckpointFlushed].into_iter().enumerate()
    {
        let (shard, _) = doomed.to_cut(1).await?;
        let n = doomed.holder(&shard, round).await?;
        doomed.die(n, point, &[]).await?;
    }
    // By a split: on one of the nodes that have the shard.
    for (round, point) in
        [SplitApplied, GroupFlushed, GroupBallot, LogPurged, GroupLogged, VoteSaved].into_iter().enumerate()
    {
        let (shard, key) = doomed.to_cut(1).await?;
        let n = doomed.holder(&shard, round).await?;
        doomed.die(n, point, &["split", &shard, "--at", &key]).await?;
        doomed.split(n).await?;
        doomed.merge(n, &shard).await?;
    }
    // By a merge.
    for (round, point) in [FreezeApplied, AbsorbApplied, AbsorbedFlushed].into_iter().enumerate() {
        let shard = doomed.split(1).await?;
        doomed.cluster.admin(1, &["status", "--wait", "60"])?;
        let n = doomed.holder(&shard, round).await?;
        doomed.die(n, point, &["merge", &shard, "--timeout", "20"]).await?;
        // It may have been called off.
        if doomed.is_cut(&shard).await? {
            doomed.merge(n, &shard).await?;
        }
    }
    // By a move: on the node that a replica goes to, or on the one that it leaves.
    let comes = [
        ReplicaBallot,
        SnapshotSpooled,
        SnapshotRenamed,
        ImportBuilt,
        ImportMarked,
        ImportCleared,
        ImportIngested,
        ImportFilled,
        ImportFinished,
    ];
    let goes = [RemovalBallot, RemovalWiped, RemovalDone];
    for point in comes.into_iter().chain(goes) {
        let (shard, from, to) = doomed.to_move().await?;
        let n = if goes.contains(&point) { from } else { to };
        let (from, to) = (doomed.cluster.name(from)?, doomed.cluster.name(to)?);
        doomed.die(n, point, &["move", &shard, "--from", &from, "--to", &to, "--timeout", "5"]).await?;
        // A move to a node that is down is given up.
        doomed.until_moved(&shard, &from, &to).await?;
    }
    let never: Vec<&str> = FailPoint::ALL
        .iter()
        .filter(|(_, point)| !STEPS.contains(point))
        .map(|(name, _)| *name)
        .filter(|name| !doomed.died.contains_key(*name))
        .collect();
    ensure!(never.is_empty(), "nobody has died at {never:?}, but at {:?}", doomed.died);
    for n in 1..=4 {
        check(&doomed.cluster, n, &doomed.acknowledged).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_die_at_random_passages_and_nothing_is_lost() -> Result<()> {
    let crashes = std::env::var("FLOTILLA_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(CRASHES);
    let seed = std::env::var("FLOTILLA_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut random = StdRng::seed_from_u64(seed);
    let mut doomed = Doomed::start(3).await?;
    let mut writer = doomed.write();
    for crash in 1..=crashes {
        let n = random.random_range(1..=3);
        // Few passages are soon; many are somewhere in the load.
        let number = 1 << random.random_range(0..8);
        let died = doomed.doom(n, "any", random.random_range(number..2 * number))?;
        if random.random_bool(0.2) {
            let asked = n % 3 + 1;
            let shard = doomed
                .split(asked)
                .await
                .with_context(|| format!("crash {crash} of node {n}\n{}", doomed.cluster.logs()))?;
            let _ = doomed.merge(asked, &shard).await;
        }
        doomed.outlive(n, &died).await.with_context(|| format!("crash {crash}"))?;
        if crash % 10 == 0 || crash == crashes {
            let acknowledged = writer.finish().await?;
            ensure!(!acknowledged.is_empty(), "nothing was written\n{}", doomed.cluster.logs());
            doomed.acknowledged.extend(acknowledged);
            for n in 1..=3 {
                doomed.all_is_well(n).await.with_context(|| format!("after crash {crash}"))?;
            }
            eprintln!("{crash} crashes, {} transactions: {:?}", doomed.acknowledged.len(), doomed.died);
            writer = doomed.write();
        }
    }
    writer.finish().await?;
    Ok(())
}
