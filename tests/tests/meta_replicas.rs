//! The meta-group's own replicas: one that differs from the others is replaced like any shard's, and one that can't be opened does
//! not keep its node from starting.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use storage::ids::KeyRange;
use storage::seam::Seams;
use storage::{Cf, Engine, Store, StoreOptions};
use tests::{Cluster, pause, text};

const META_GROUP: u64 = 1;
/// Where raft keeps how far a replica is, and where the state machine has the nodes.
const APPLIED: &[u8] = &[0x00];
const NODES: &[u8] = &[0x10, 2];

fn key(suffix: &[u8]) -> Vec<u8> {
    [&META_GROUP.to_be_bytes()[..], suffix].concat()
}

/// Works on the store of a stopped node.
fn alter(
    cluster: &Cluster,
    node: usize,
    work: impl FnOnce(&Engine, &mut storage::Batch) -> Result<()>,
) -> Result<()> {
    let path = cluster.node_dir(node).join("store");
    let store = Store::open(&path, StoreOptions::default(), Seams::real())?;
    let engine = store.engine();
    let mut batch = engine.batch();
    work(&engine, &mut batch)?;
    ensure!(batch.len() == 1, "{} changes", batch.len());
    engine.write(batch)?;
    Ok(store.close()?)
}

/// It can't be opened any more.
fn spoil(engine: &Engine, batch: &mut storage::Batch) -> Result<()> {
    ensure!(engine.get(Cf::Group, &key(APPLIED))?.is_some(), "no replica of the meta-group");
    batch.put(Cf::Group, &key(APPLIED), &[0xff; 5]);
    Ok(())
}

/// Another identity of the first node's store, which nobody asks for: the second field of its record, 16 bytes.
fn differ(engine: &Engine, batch: &mut storage::Batch) -> Result<()> {
    const INSTANCE: &[u8] = &[(2 << 3) | 2, 16];
    let view = engine.snapshot();
    let mut rows = view.iter(Cf::Group, &KeyRange::prefix(&key(NODES)));
    rows.seek_to_first();
    let (found, value) = rows.item().context("a node")?;
    let at = value.windows(INSTANCE.len()).position(|part| part == INSTANCE).context("its identity")?;
    let mut altered = value.to_vec();
    altered[at + INSTANCE.len()] ^= 0x40;
    batch.put(Cf::Group, found, &altered);
    Ok(())
}

/// Waits until the meta-group has three replicas, and all are equal.
async fn whole(cluster: &Cluster) -> Result<()> {
    for _ in 0..360 {
        let output = cluster.check(&["meta", "--json"])?;
        if let Ok(said) = serde_json::from_slice::<Json>(&output.stdout) {
            let groups = said["groups"].as_array().into_iter().flatten();
            let replicas: Vec<&Json> =
                groups.flat_map(|group| group["replicas"].as_array()).flatten().collect();
            if replicas.len() == 3 && replicas.iter().all(|replica| replica["state"] == "equal") {
                return Ok(());
            }
        }
        pause(500).await;
    }
    bail!("{}\n{}", text(&cluster.check(&["meta"])?), cluster.logs())
}

/// Waits until a check finds that one of them differs. (Just after a start, it may not be able to look at all of them.)
async fn seen_to_differ(cluster: &Cluster) -> Result<()> {
    for _ in 0..360 {
        let output = cluster.check(&["meta"])?;
        if output.status.code() == Some(8) && text(&output).contains("1 differ") {
            return Ok(());
        }
        pause(500).await;
    }
    bail!("{}\n{}", text(&cluster.check(&["meta"])?), cluster.logs())
}

fn log(node: &Path) -> Result<String> {
    Ok(fs::read_to_string(node.join("log"))?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_differs_is_rebuilt() -> Result<()> {
    let cluster = Cluster::start(3)?;
    whole(&cluster).await?;
    cluster.script(&["stop", "3"])?;
    alter(&cluster, 3, differ)?;
    cluster.script(&["start", "3"])?;
    cluster.admin(1, &["status", "--wait", "60"])?;
    seen_to_differ(&cluster).await?;
    cluster.admin(1, &["settings", "set", "consistency_check_interval", "3s"])?;
    whole(&cluster).await?;
    let told = log(&cluster.node_dir(3))?;
    ensure!(told.contains("THIS REPLICA GOES INTO QUARANTINE"), "{told}");
    cluster.connect(3).await?.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_replica_cannot_be_opened_starts_and_it_is_rebuilt() -> Result<()> {
    let cluster = Cluster::start(3)?;
    whole(&cluster).await?;
    cluster.script(&["stop", "3"])?;
    alter(&cluster, 3, spoil)?;
    cluster.script(&["start", "3"])?;
    // It serves, while others lead the meta-group.
    cluster.connect(3).await?.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await?;
    let told = log(&cluster.node_dir(3))?;
    ensure!(told.contains("THIS REPLICA HAS FAILED") && told.contains("it cannot be opened"), "{told}");
    whole(&cluster).await
}
