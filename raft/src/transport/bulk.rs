//! Snapshots: a connection of their own each, so that they don't stand in the way of heartbeats.

use std::sync::Arc;

use prost::Message;
use proto::raft as wire;
use storage::ids::{GroupId, NodeId, ReplicaId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::server::{malformed, refusal, stopped};
use super::{Hub, chain};
use crate::api::Peer;
use crate::multi::MultiRaft;
use crate::snapshot::{SnapshotData, SpoolWriter, spans_from_wire, spans_to_wire};
use crate::types::{TypeConfig, Vote, meta_from_wire, meta_to_wire, vote_from_wire, vote_to_wire};

/// Chunks (of about 1 MiB) between the disk and the network.
const CHUNKS_AHEAD: usize = 4;

/// From whom to whom.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    pub group: GroupId,
    pub from: ReplicaId,
    pub to: ReplicaId,
    pub node: NodeId,
}

/// Sends a snapshot; answers the receiver's vote when it is installed.
pub(crate) async fn send(
    hub: &Arc<Hub>,
    route: Route,
    vote: Vote,
    snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotData>,
) -> Result<Vote, String> {
    let SnapshotData::View { engine, view, spans } = snapshot.snapshot else {
        return Err("this snapshot has no content".to_owned());
    };
    let header = wire::SnapshotHeader {
        cluster_id: hub.cluster.clone(),
        from_node: hub.me.0,
        to_node: route.node.0,
        group: route.group.0,
        from_replica: route.from.0,
        to_replica: route.to.0,
        vote: Some(vote_to_wire(&vote)),
        meta: Some(meta_to_wire(&snapshot.meta)),
        spans: spans_to_wire(&spans),
    };
    let mut client = hub.connect(route.node).await?;
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let group = route.group;
    let mut chunks = engine.export(Arc::new(view), &spans);
    let (seams, paced) = (hub.seams.clone(), hub.clone());
    hub.seams.spawn("send-snapshot", async move {
        let piece = |piece| wire::SnapshotPiece { piece: Some(piece) };
        let mut next = wire::snapshot_piece::Piece::Header(header);
        while sender.send(piece(next)).await.is_ok() {
            let read = seams.blocking("read-snapshot", move || (chunks.next(), chunks)).await;
            let chunk = match read {
                Ok((Some(Ok(chunk)), rest)) => {
                    chunks = rest;
                    chunk.encode_to_vec()
                }
                Ok((None, _)) => return,
                // The stream ends without its last chunk, so the receiver refuses it.
                Ok((Some(Err(error)), _)) => {
                    tracing::error!(%group, %error, "cannot read a snapshot");
                    return;
                }
                Err(error) => {
                    tracing::error!(%group, %error, "cannot read a snapshot");
                    return;
                }
            };
            paced.pace.pass(chunk.len(), &seams).await;
            metrics::counter!("flotilla_raft_snapshot_bytes_total", "direction" => "sent")
                .increment(chunk.len() as u64);
            next = wire::snapshot_piece::Piece::Chunk(chunk.into());
        }
    });
    tracing::info!(group = %route.group, to = %route.to, node = %route.node, "sending a snapshot");
    let response = client.install_snapshot(ReceiverStream::new(receiver)).await;
    let answer = response.map_err(|status| chain(&status))?.into_inner();
    if let Some(refusal) = answer.refusal {
        return Err(format!("refused: {} {}", refusal.reason().as_str_name(), refusal.detail));
    }
    vote_from_wire(answer.vote).map_err(|e| e.to_string())
}

/// Receives a snapshot and has it installed.
pub(crate) async fn receive(
    multi: Arc<MultiRaft>,
    mut pieces: Streaming<wire::SnapshotPiece>,
) -> Result<wire::SnapshotAnswer, Status> {
    let Some(wire::SnapshotPiece { piece: Some(wire::snapshot_piece::Piece::Header(header)) }) =
        pieces.message().await?
    else {
        return Err(Status::invalid_argument("a snapshot begins with its header"));
    };
    multi.check_sender(&header.cluster_id, header.to_node)?;
    let refused = |refusal| Ok(wire::SnapshotAnswer { vote: None, refusal: Some(refusal) });
    let from = Peer { replica: ReplicaId(header.from_replica), node: NodeId(header.from_node) };
    let group = match multi.addressed(GroupId(header.group), ReplicaId(header.to_replica), from) {
        Ok(group) => group,
        Err(refusal) => return refused(refusal),
    };
    let (vote, meta) = match (vote_from_wire(header.vote), meta_from_wire(header.meta.clone())) {
        (Ok(vote), Ok(meta)) => (vote, meta),
        (Err(error), _) | (_, Err(error)) => return refused(malformed(error)),
    };

    let spans = match spans_from_wire(&header.spans) {
        Ok(spans) => spans,
        Err(error) => return refused(malformed(error)),
    };
    // (Now, to save the transfer, and again when it counts.)
    if let Err(refusal) = multi.refuse_overlap(group.id(), &spans) {
        return refused(refusal);
    }

    let (sender, mut receiver) = mpsc::channel(CHUNKS_AHEAD);
    let (dir, unique) = (multi.spool_dir().to_owned(), multi.seams().random_u64());
    let seams = multi.seams().clone();
    let spooling = async move {
        let create = move || SpoolWriter::create(&dir, unique, &header);
        let mut writer = seams.blocking("spool-snapshot", create).await??;
        while let Some(chunk) = receiver.recv().await {
            let push = move || writer.push(&chunk).map(|()| writer);
            writer = seams.blocking("spool-snapshot", push).await??;
        }
        seams.blocking("spool-snapshot", move || writer.finish()).await?
    };
    let receiving = async move {
        while let Some(piece) = pieces.message().await? {
            let Some(wire::snapshot_piece::Piece::Chunk(chunk)) = piece.piece else {
                return Err(Status::invalid_argument("a second header in a snapshot"));
            };
            metrics::counter!("flotilla_raft_snapshot_bytes_total", "direction" => "received")
                .increment(chunk.len() as u64);
            if sender.send(chunk).await.is_err() {
                // The writer has failed and will say why.
                break;
            }
        }
        Ok::<(), Status>(())
    };
    let (spooled, received) = tokio::join!(spooling, receiving);
    received?;
    let spool = match spooled {
        Ok(spool) => spool,
        Err(error) => {
            tracing::warn!(group = %group.id(), %error, "cannot receive a snapshot");
            return refused(refusal(wire::refusal::Reason::Malformed, error));
        }
    };
    let _alone = multi.territory.lock().await;
    if let Err(refusal) = multi.refuse_overlap(group.id(), &spans) {
        return refused(refusal);
    }
    let snapshot = openraft::Snapshot { meta, snapshot: SnapshotData::Spooled(spool) };
    let core = match group.awake().await {
        Ok(core) => core,
        Err(reason) => return refused(stopped(reason)),
    };
    match core.raft.install_full_snapshot(vote, snapshot).await {
        Ok(response) => Ok(wire::SnapshotAnswer { vote: Some(vote_to_wire(&response.vote)), refusal: None }),
        Err(error) => refused(stopped(error)),
    }
}
