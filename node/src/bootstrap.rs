//! How a store becomes the first of a cluster, or a member of one.
//!
//! A store without an identity belongs to no cluster. It gets one in one of two ways, whichever comes first: a member
//! from the join list takes the node in, or somebody says `init` (or the node was started as a single node).
//!
//! `init` has several durable steps, so its beginning is noted in a file of the store and its end removes the note; a
//! node that finds the note at start goes on from wherever it was cut off. Every step can be repeated.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use meta::{
    DEFAULT_DATABASE_START, DEFAULT_GROUP, FIRST_NODE, FIRST_REPLICA, MetaServer, SYSTEM_GROUP, client,
};
use proto::meta as pb;
use proto::meta::command::Command;
use raft::{MultiRaft, NewGroup};
use storage::ids::{Epoch, GroupId, KeyRange, META_GROUP, ReplicaId};
use storage::seam::Seams;
use storage::store::Identity;
use storage::{Engine, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;
use txn::ShardDescriptor;

use crate::exit::Failure;
use crate::local::LocalFiles;
use crate::service::admin::InitWish;

/// A node's place in a cluster.
pub struct Place {
    /// Cluster and node.
    pub identity: Identity,
    /// What the cluster looked like when it took this node in, if that was now.
    pub map: Option<pb::ClusterMap>,
    /// The initialisation to carry out, or to go on with.
    pub founding: Option<Founding>,
}

/// An initialisation that is not finished.
pub struct Founding {
    /// Voters per group.
    pub replication_factor: u32,
    /// Who waits for it.
    pub wish: Option<InitWish>,
}

/// What a node looks for its place with.
pub struct Seeker<'a> {
    /// Its store.
    pub store: &'a Store,
    /// Its own files.
    pub files: &'a LocalFiles,
    /// It is to be a cluster of one.
    pub single_node: bool,
    /// Whom to ask.
    pub join: &'a [String],
    /// Where it is reached.
    pub addresses: &'a pb::Addresses,
    /// Time and randomness.
    pub seams: &'a Seams,
}

/// Finds this node's place: in the store, or by joining, or by founding. Returns `None` when stopped before that.
pub async fn find_place(
    seeker: Seeker<'_>,
    wishes: &mut mpsc::Receiver<InitWish>,
    stop: &CancellationToken,
) -> Result<Option<Place>, Failure> {
    let Seeker { store, files, single_node, join, addresses, seams } = seeker;
    if let Some((cluster_id, replication_factor)) = files.bootstrap()? {
        let identity = Identity { cluster_id, node_id: FIRST_NODE };
        store.set_identity(identity).map_err(Failure::Store)?;
        info!("going on with the initialisation of cluster {cluster_id:032x}");
        return Ok(Some(Place {
            identity,
            map: None,
            founding: Some(Founding { replication_factor, wish: None }),
        }));
    }
    if let Some(identity) = store.identity() {
        return Ok(Some(Place { identity, map: None, founding: None }));
    }
    if single_node {
        return found(store, files, seams, Founding { replication_factor: 1, wish: None }).map(Some);
    }

    let instance = files.instance(seams.random_u128())?;
    let request = pb::JoinRequest {
        instance: instance.to_be_bytes().to_vec().into(),
        addresses: Some(addresses.clone()),
        protocol: meta::PROTOCOL,
    };
    // Asking oneself would only ever answer "not initialised".
    let targets: Vec<String> = join.iter().filter(|target| **target != addresses.rpc).cloned().collect();
    if targets.is_empty() {
        info!("not initialised: waiting for `flotilla init --host {}`", addresses.rpc);
    }
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        joined = client::join(&targets, &request, seams) => {
            let joined = joined.map_err(|error| Failure::Refused(error.to_string()))?;
            let cluster_id = joined.cluster_id[..].try_into().map(u128::from_be_bytes);
            let cluster_id = cluster_id.map_err(|_| Failure::Other("the cluster's id is malformed".into()))?;
            let identity = Identity { cluster_id, node_id: storage::ids::NodeId(joined.node) };
            store.set_identity(identity).map_err(Failure::Store)?;
            info!("joined cluster {cluster_id:032x} as {}", identity.node_id);
            Ok(Some(Place { identity, map: joined.map, founding: None }))
        }
        Some(wish) = wishes.recv() => {
            let replication_factor = wish.replication_factor;
            found(store, files, seams, Founding { replication_factor, wish: Some(wish) }).map(Some)
        }
    }
}

fn found(store: &Store, files: &LocalFiles, seams: &Seams, founding: Founding) -> Result<Place, Failure> {
    files.instance(seams.random_u128())?;
    let identity = Identity { cluster_id: seams.random_u128(), node_id: FIRST_NODE };
    files.begin_bootstrap(identity.cluster_id, founding.replication_factor)?;
    store.set_identity(identity).map_err(Failure::Store)?;
    Ok(Place { identity, map: None, founding: Some(founding) })
}

/// The rooms that take part at a cluster's beginning.
pub struct Rooms<'a> {
    /// The node's own files.
    pub files: &'a LocalFiles,
    /// Where the node is reached.
    pub addresses: &'a pb::Addresses,
    /// Its groups.
    pub multi: &'a MultiRaft,
    /// Its part of the meta-group.
    pub meta: &'a MetaServer,
    /// Its state.
    pub engine: &'a Arc<Engine>,
    /// Time and randomness.
    pub seams: &'a Seams,
}

/// Makes the cluster: the meta-group, what it knows first, and the first shards. Everything is durable at the end.
pub async fn carry_out(founding: Founding, cluster_id: u128, rooms: Rooms<'_>) -> Result<(), Failure> {
    let result = steps(&founding, cluster_id, rooms).await;
    if let Some(wish) = founding.wish {
        // Whoever asked may have gone away; the cluster stands all the same.
        let _ = wish.answer.send(match &result {
            Ok(()) => Ok(cluster_id),
            Err(failure) => Err(failure.to_string()),
        });
    }
    result
}

async fn steps(founding: &Founding, cluster_id: u128, rooms: Rooms<'_>) -> Result<(), Failure> {
    let Rooms { files, addresses, multi, meta, engine, seams } = rooms;
    let alone =
        |group, me| NewGroup { group, me, members: BTreeMap::from([(me, FIRST_NODE)]), campaign: true };
    let group = multi.create_group(alone(META_GROUP, FIRST_REPLICA)).await.map_err(Failure::other)?;
    if let Some(reason) = group.failed() {
        return Err(Failure::Other(format!("the meta-group has failed: {reason}")));
    }
    let mut leading = meta.leading();
    leading.wait_for(Option::is_some).await.map_err(Failure::other)?;

    let instance = files.instance(seams.random_u128())?;
    let bootstrap = pb::Bootstrap {
        cluster_id: cluster_id.to_be_bytes().to_vec().into(),
        node: Some(pb::Node {
            id: FIRST_NODE.0,
            instance: instance.to_be_bytes().to_vec().into(),
            addresses: Some(addresses.clone()),
            ..Default::default()
        }),
        settings: Some(pb::Settings {
            replication_factor: founding.replication_factor,
            ..Default::default()
        }),
        shards: first_shards().iter().map(Into::into).collect(),
        next_group: DEFAULT_GROUP.0 + 1,
        next_replica: FIRST_REPLICA.0 + 1 + first_shards().len() as u64,
    };
    meta.propose(Command::Bootstrap(bootstrap)).await.map_err(Failure::other)?;

    for shard in first_shards() {
        if multi.group(shard.group).is_none() {
            txn::shard::found(engine, &shard).map_err(Failure::other)?;
        }
        for &replica in shard.replicas.keys() {
            multi.create_group(alone(shard.group, replica)).await.map_err(Failure::other)?;
        }
    }
    let flush = engine.clone();
    let flushed = seams.blocking("flush", move || flush.flush()).await.map_err(Failure::other)?;
    flushed.map_err(Failure::Store)?;
    files.end_bootstrap()?;
    info!("initialised cluster {cluster_id:032x}");
    Ok(())
}

/// The system's databases, and everything else until it is split.
fn first_shards() -> [ShardDescriptor; 2] {
    let boundary = Bytes::copy_from_slice(&DEFAULT_DATABASE_START);
    let shard = |group: GroupId, range: KeyRange| {
        // The first free replica ids after the meta-group's.
        let replica = ReplicaId(FIRST_REPLICA.0 + group.0 - META_GROUP.0);
        ShardDescriptor { group, range, epoch: Epoch(1), replicas: BTreeMap::from([(replica, FIRST_NODE)]) }
    };
    [
        shard(SYSTEM_GROUP, KeyRange::new(Bytes::new(), boundary.clone())),
        shard(DEFAULT_GROUP, KeyRange::new(boundary, Bytes::new())),
    ]
}
