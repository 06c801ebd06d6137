//! A coordinator says that it is alive. Kept in the leader's memory only: a new leader gives everyone a fresh period of
//! grace.

use proto::shard as pb;
use proto::shard::response::Body as Answer;

use super::decide::{ended, load_record};
use super::{Context, Outcome};

use crate::wire::parse_txn;

pub async fn heartbeat(cx: &Context<'_>, request: pb::Heartbeat) -> Outcome {
    let txn = parse_txn(&request.txn)?;
    cx.must_hold_key(&request.primary)?;
    let view = cx.view()?;
    let record = load_record(&view.snapshot, &request.primary, txn)?;
    cx.confirm().await?;
    match record {
        Some(record) if record.kind() == pb::FateKind::FateAborted => Err(ended().into()),
        Some(_) => Ok(Answer::Done(0)),
        None => {
            cx.leadership.heard(txn, cx.server.seams().clock.now());
            Ok(Answer::Done(0))
        }
    }
}
