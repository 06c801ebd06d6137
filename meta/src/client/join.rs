//! A node that belongs to no cluster yet asks to be taken in.

use std::time::{Duration, Instant};

use proto::meta as pb;
use storage::seam::Seams;
use tracing::info;

use super::calls::{ATTEMPT_LIMIT, rpc};
use crate::Error;
use crate::rpc::{Channels, within};

/// Between two log lines while no member of a cluster answers.
const JOIN_LOG_EVERY: Duration = Duration::from_secs(5);
/// Between two rounds over the join targets.
const JOIN_PAUSE: Duration = Duration::from_millis(100);

/// Asks the targets in turn to take this node in, until one does. Says so in the log while nobody answers. The caller
/// drops the future when the node is initialised otherwise.
pub async fn join(
    targets: &[String],
    request: &pb::JoinRequest,
    seams: &Seams,
) -> Result<pb::JoinResponse, Error> {
    let channels = Channels::new(seams);
    let mut logged: Option<Instant> = None;
    let mut queue: Vec<String> = Vec::new();
    loop {
        let mut failure = String::new();
        queue.extend(targets.iter().rev().cloned());
        let mut hops = 0;
        while let Some(target) = queue.pop() {
            let mut rpc = rpc(&channels, &target)?;
            match within(seams, ATTEMPT_LIMIT, rpc.join(request.clone())).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(Error::NotLeader(redirect)) if hops < 8 => {
                    hops += 1;
                    queue.extend(redirect.members);
                    queue.extend((!redirect.leader.is_empty()).then_some(redirect.leader));
                }
                Err(Error::Rejected(why)) => {
                    return Err(Error::Rejected(format!("{target} refuses this node: {why}")));
                }
                Err(error) => failure = format!("{target}: {error}"),
            }
        }
        let now = seams.clock.now();
        if logged.is_none_or(|at| now - at >= JOIN_LOG_EVERY) {
            info!("waiting for a cluster to join, or for `flotilla init` on this node ({failure})");
            logged = Some(now);
        }
        seams.sleep(JOIN_PAUSE).await;
    }
}
