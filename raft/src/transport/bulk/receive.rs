//! The receiving end of a snapshot.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use proto::raft as wire;
use storage::Cf;
use storage::ids::{GroupId, KeyRange, NodeId, ReplicaId};
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

use super::super::server::{asleep, malformed, refusal, stopped};
use super::CHUNKS_AHEAD;
use crate::api::Peer;
use crate::arrivals::Turn;
use crate::group::Group;
use crate::multi::MultiRaft;
use crate::snapshot::{SnapshotData, spans_from_wire};
use crate::spool::{Spool, SpoolWriter};
use crate::types::{SnapshotMeta, Vote, meta_from_wire, vote_from_wire, vote_to_wire};

type Answer = Result<wire::SnapshotAnswer, Status>;

/// Receives a snapshot and has it installed.
pub(crate) async fn receive(multi: Arc<MultiRaft>, pieces: Streaming<wire::SnapshotPiece>) -> Answer {
    // In a task of its own: this one ends with the connection, and somebody has to keep what has arrived.
    let (done, answer) = oneshot::channel();
    let seams = multi.seams().clone();
    seams.spawn("receive-snapshot", async move {
        let _ = done.send(receive_apart(multi, pieces).await);
    });
    answer.await.unwrap_or_else(|_| Err(Status::unavailable("the node is stopping")))
}

/// From which chunk on this node lacks a snapshot. Whoever was sending it is told to stop: the sender knows that the
/// stream is broken.
pub(crate) async fn resume(multi: Arc<MultiRaft>, header: wire::SnapshotHeader) -> Answer {
    multi.check_sender(&header.cluster_id, header.to_node)?;
    let Admitted { group, meta, .. } = match admit(&multi, &header) {
        Ok(admitted) => admitted,
        Err(refusal) => return refused(refusal),
    };
    // Only the answer was lost.
    if group.shared().applied_index() >= meta.last_log_id.map(|id| id.index) {
        let core = match group.awake().await {
            Ok(core) => core,
            Err(reason) => return refused(asleep(reason)),
        };
        let vote = vote_to_wire(&core.metrics.borrow_watched().vote);
        return Ok(wire::SnapshotAnswer { vote: Some(vote), ..wire::SnapshotAnswer::default() });
    }
    let group = group.id();
    let turn = match multi.arrivals().enter(group, term(&header)).await {
        Ok(turn) => turn,
        Err(why) => return refused(refusal(wire::refusal::Reason::Starting, why)),
    };
    let arrivals = multi.arrivals().clone();
    let progress = move || arrivals.progress(&turn, &header);
    match multi.seams().blocking("spool-snapshot", progress).await.and_then(|progress| progress) {
        Ok((next_sequence, spooled_bytes)) => {
            Ok(wire::SnapshotAnswer { next_sequence, spooled_bytes, ..wire::SnapshotAnswer::default() })
        }
        Err(error) => {
            tracing::warn!(%group, %error, "cannot read what has arrived of a snapshot: it comes again");
            Ok(wire::SnapshotAnswer::default())
        }
    }
}

fn refused(refusal: wire::Refusal) -> Answer {
    Ok(wire::SnapshotAnswer { refusal: Some(refusal), ..wire::SnapshotAnswer::default() })
}

fn term(header: &wire::SnapshotHeader) -> u64 {
    header.vote.as_ref().map_or(0, |vote| vote.term)
}

/// What a header says.
struct Admitted {
    group: Arc<Group>,
    vote: Vote,
    meta: SnapshotMeta,
    spans: Vec<(Cf, KeyRange)>,
}

fn admit(multi: &Arc<MultiRaft>, header: &wire::SnapshotHeader) -> Result<Admitted, wire::Refusal> {
    let from = Peer { replica: ReplicaId(header.from_replica), node: NodeId(header.from_node) };
    let group = multi.addressed(GroupId(header.group), ReplicaId(header.to_replica), from)?;
    let vote = vote_from_wire(header.vote).map_err(malformed)?;
    let meta = meta_from_wire(header.meta.clone()).map_err(malformed)?;
    let spans = spans_from_wire(&header.spans).map_err(malformed)?;
    // (Now, to save the transfer, and again when it counts.)
    multi.refuse_overlap(group.id(), &spans)?;
    Ok(Admitted { group, vote, meta, spans })
}

async fn receive_apart(multi: Arc<MultiRaft>, mut pieces: Streaming<wire::SnapshotPiece>) -> Answer {
    let Some(wire::SnapshotPiece { piece: Some(wire::snapshot_piece::Piece::Header(header)) }) =
        pieces.message().await?
    else {
        return Err(Status::invalid_argument("a snapshot begins with its header"));
    };
    multi.check_sender(&header.cluster_id, header.to_node)?;
    let admitted = match admit(&multi, &header) {
        Ok(admitted) => admitted,
        Err(refusal) => return refused(refusal),
    };
    let group = admitted.group.id();
    let turn = match multi.arrivals().enter(group, term(&header)).await {
        Ok(turn) => Arc::new(turn),
        Err(why) => return refused(refusal(wire::refusal::Reason::Starting, why)),
    };
    let spool = match spool(&multi, &turn, header, pieces).await {
        Ok(Ok(spool)) => spool,
        Ok(Err(error)) => {
            tracing::warn!(%group, %error, "cannot receive a snapshot");
            return refused(refusal(wire::refusal::Reason::Malformed, error));
        }
        Err(broken) => return Err(broken),
    };
    // Until this is over, nobody else has a turn.
    install(&multi, admitted, spool).await
}

/// Spools a stream to a file. An outer error is a break, after which the stream can be gone on with.
async fn spool(
    multi: &Arc<MultiRaft>,
    turn: &Arc<Turn>,
    header: wire::SnapshotHeader,
    pieces: Streaming<wire::SnapshotPiece>,
) -> Result<io::Result<Spool>, Status> {
    let seams = multi.seams();
    let (arrivals, mine) = (multi.arrivals().clone(), turn.clone());
    let begin = move || arrivals.begin(&mine, &header);
    let writer = match seams.blocking("spool-snapshot", begin).await.and_then(|begun| begun) {
        Ok(Some(writer)) => writer,
        Ok(None) => {
            return Ok(Err(io::Error::other("what comes before the first chunk is not here any more")));
        }
        Err(error) => return Ok(Err(error)),
    };
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    // Both to their ends: a writer that is let go in the midst of a chunk is lost.
    let (written, arrived) =
        tokio::join!(write(multi, writer, receiver), arrive(multi, turn, pieces, sender));
    let writer = match written {
        Ok(writer) => writer,
        Err(error) => return Ok(Err(error)),
    };
    let broken = match arrived {
        Ok(()) if !writer.is_complete() => {
            writer.discard();
            return Ok(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot ended early")));
        }
        Ok(()) if turn.install() => None,
        Ok(()) => Some(superseded()),
        Err(broken) => Some(broken),
    };
    match broken {
        None => Ok(seams.blocking("spool-snapshot", move || writer.finish()).await.and_then(|spool| spool)),
        Some(broken) => {
            let (arrivals, mine) = (multi.arrivals().clone(), turn.clone());
            let _ = seams.blocking("spool-snapshot", move || arrivals.keep(&mine, writer)).await;
            Err(broken)
        }
    }
}

fn superseded() -> Status {
    Status::aborted("another stream has taken over")
}

/// What the network brings.
async fn arrive(
    multi: &Arc<MultiRaft>,
    turn: &Turn,
    mut pieces: Streaming<wire::SnapshotPiece>,
    writer: mpsc::Sender<Bytes>,
) -> Result<(), Status> {
    let mut taken_over = pin!(turn.stopped());
    let mut stopping = multi.hub().stopping();
    loop {
        let piece = tokio::select! {
            piece = pieces.message() => piece?,
            () = &mut taken_over => return Err(superseded()),
            _ = stopping.wait_for(|stop| *stop) => return Err(Status::unavailable("the node is stopping")),
        };
        let Some(piece) = piece else { return Ok(()) };
        let Some(wire::snapshot_piece::Piece::Chunk(chunk)) = piece.piece else {
            return Err(Status::invalid_argument("a second header in a snapshot"));
        };
        metrics::counter!("flotilla_raft_snapshot_bytes_total", "direction" => "received")
            .increment(chunk.len() as u64);
        if writer.send(chunk).await.is_err() {
            // The writer has failed and will say why.
            return Ok(());
        }
    }
}

/// … goes to the disk.
async fn write(
    multi: &Arc<MultiRaft>,
    mut writer: SpoolWriter,
    mut chunks: mpsc::Receiver<Bytes>,
) -> io::Result<SpoolWriter> {
    while let Some(chunk) = chunks.recv().await {
        let push = move || writer.push(&chunk).map(|()| writer);
        writer = multi.seams().blocking("spool-snapshot", push).await??;
    }
    Ok(writer)
}

/// Hands a complete snapshot to openraft.
async fn install(multi: &Arc<MultiRaft>, admitted: Admitted, spool: Spool) -> Answer {
    let Admitted { group, vote, meta, spans } = admitted;
    let installing = {
        // Others wait for the claim, and not for the install.
        let _alone = multi.territory.lock().await;
        if let Err(refusal) = multi.refuse_overlap(group.id(), &spans) {
            return refused(refusal);
        }
        // It may have been removed meanwhile, or have failed: what it has accepted then counts still.
        if let Some(reason) = group.shared().fault.get() {
            return refused(stopped(reason));
        }
        multi.claims.begin(group.id(), spans)
    };
    let snapshot = openraft::Snapshot { meta, snapshot: SnapshotData::Spooled(spool) };
    // However many are awake: all of it has arrived, and would have to come again.
    let core = match group.awake_in_any_case().await {
        Ok(core) => core,
        Err(reason) => {
            installing.done();
            return refused(asleep(reason));
        }
    };
    let installed = core.raft.install_full_snapshot(vote, snapshot).await;
    if installed.is_err() {
        // Its core has ended, and what works on the state ends by itself.
        core.end().await;
    }
    // If it has failed, nobody else gets the keys before the replica is gone.
    match group.shared().fault.get() {
        None => installing.done(),
        Some(_) => drop(installing),
    }
    match installed {
        Ok(response) => Ok(wire::SnapshotAnswer {
            vote: Some(vote_to_wire(&response.vote)),
            ..wire::SnapshotAnswer::default()
        }),
        Err(error) => refused(stopped(error)),
    }
}
