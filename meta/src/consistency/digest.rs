//! A replica's side: waits for the view, reads it in steps, tells how far it is.

use std::time::Duration;

use proto::consistency as pb;
use proto::consistency::digest_answer::Step;
use raft::GroupView;
use storage::Cf;
use storage::digest::Digest;
use storage::ids::GroupId;
use storage::seam::Seams;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::conduct::chain;

/// The entry must be applied within this time: a replica that is behind for longer is not waited for.
const APPLY_LIMIT: Duration = Duration::from_secs(10);
/// Read at a time, by a thread that blocks on the disk.
const STEP_BYTES: u64 = 1 << 20;

type Sender = mpsc::Sender<Result<pb::DigestAnswer, Status>>;

/// Of what, and how fast.
pub struct Wanted {
    pub group: GroupId,
    pub view: oneshot::Receiver<GroupView>,
    pub bytes_per_second: u64,
}

/// Answers until the digest is made, or nobody wants it any more.
pub async fn make(wanted: Wanted, seams: &Seams, answers: Sender) {
    let failed = tokio::select! {
        made = digests(wanted, seams, &answers) => made.err(),
        () = answers.closed() => return,
    };
    if let Some(status) = failed {
        // If it has gone, it has gone.
        let _ = answers.send(Err(status)).await;
    }
}

async fn digests(wanted: Wanted, seams: &Seams, answers: &Sender) -> Result<(), Status> {
    let Wanted { group, view, bytes_per_second } = wanted;
    tell(answers, Step::Waiting(true)).await?;
    let view = tokio::select! {
        view = view => view.map_err(|_| Status::out_of_range("a snapshot has taken the entry's place"))?,
        () = seams.sleep(APPLY_LIMIT) => return Err(Status::deadline_exceeded("it does not apply the entry in time")),
    };
    let failed = |error: std::io::Error| Status::internal(error.to_string());
    let own = move || (txn::shard::descriptor_in(&view.snapshot, group), view);
    let (descriptor, view) = seams.blocking("descriptor", own).await.map_err(failed)?;
    let descriptor = descriptor.map_err(|error| Status::data_loss(chain(&error)))?;
    let begun = seams.clock.now();
    let mut digester = view.digester();
    let mut total = 0;
    loop {
        let step = move || (digester.step(STEP_BYTES), digester);
        let (read, rest) = seams.blocking("digest", step).await.map_err(failed)?;
        digester = rest;
        let read = read.map_err(|error| Status::data_loss(chain(&error)))?;
        let Some(read) = read else { break };
        total += read;
        tell(answers, Step::BytesRead(total)).await?;
        let due = begun + Duration::from_secs_f64(total as f64 / bytes_per_second as f64);
        seams.sleep(due.saturating_duration_since(seams.clock.now())).await;
    }
    let digests = digester.finish();
    let families = Cf::ALL.iter().zip(&digests).map(|(cf, digest)| family(*cf, digest)).collect();
    tell(answers, Step::Done(pb::Digests { families, descriptor: descriptor.as_ref().map(Into::into) })).await
}

fn family(cf: Cf, digest: &Digest) -> pb::FamilyDigest {
    let hash = bytes::Bytes::copy_from_slice(&digest.hash);
    pb::FamilyDigest { name: cf.name().to_owned(), rows: digest.rows, bytes: digest.bytes, hash }
}

async fn tell(answers: &Sender, step: Step) -> Result<(), Status> {
    let answer = pb::DigestAnswer { step: Some(step) };
    answers.send(Ok(answer)).await.map_err(|_| Status::cancelled("nobody waits for the digest"))
}
