//! Small conversions between messages and this crate's words.

use bytes::Bytes;
use proto::shard as pb;
use storage::ids::{Timestamp, TxnId};

use crate::Error;
use crate::api::Activity;
use crate::who::SessionId;

/// A transaction's id as 16 bytes.
pub fn txn_bytes(txn: TxnId) -> Bytes {
    Bytes::copy_from_slice(&txn.0.to_be_bytes())
}

/// A transaction's id from 16 bytes.
pub fn parse_txn(bytes: &[u8]) -> Result<TxnId, Error> {
    let bytes =
        bytes.try_into().map_err(|_| Error::Internal("a transaction id of the wrong length".to_owned()))?;
    Ok(TxnId(u128::from_be_bytes(bytes)))
}

/// A transaction's id, or none for no bytes.
pub fn parse_txn_opt(bytes: &[u8]) -> Result<Option<TxnId>, Error> {
    match bytes.is_empty() {
        true => Ok(None),
        false => parse_txn(bytes).map(Some),
    }
}

/// What is known of a session or a transaction, as a message; an empty one if nothing is.
pub fn activity_to_pb(activity: Option<Activity>) -> pb::Description {
    let Some(activity) = activity else { return pb::Description::default() };
    pb::Description {
        session: txn_bytes(activity.session.as_owner()),
        txn: activity.txn.map(txn_bytes).unwrap_or_default(),
        statement: activity.statement,
        application: activity.application,
    }
}

/// The same from a message.
pub fn activity_from_pb(description: pb::Description) -> Option<Activity> {
    Some(Activity {
        session: SessionId(parse_txn(&description.session).ok()?.0),
        txn: parse_txn(&description.txn).ok(),
        statement: description.statement,
        application: description.application,
    })
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Undecided; it will not commit at or below the timestamp.
    Pending(Timestamp),
    /// Committed at the timestamp.
    Committed(Timestamp),
    /// Aborted; its intents mean nothing.
    Aborted,
}

impl Fate {
    /// As a message.
    pub fn to_pb(self, txn: TxnId) -> pb::Fate {
        let (kind, at) = match self {
            Fate::Pending(at) => (pb::FateKind::FatePending, at),
            Fate::Committed(at) => (pb::FateKind::FateCommitted, at),
            Fate::Aborted => (pb::FateKind::FateAborted, Timestamp::ZERO),
        };
        pb::Fate { txn: txn_bytes(txn), kind: kind.into(), at: at.0 }
    }

    /// From a message.
    pub fn from_pb(fate: &pb::Fate) -> Result<(TxnId, Self), Error> {
        let at = Timestamp(fate.at);
        let kind = match fate.kind() {
            pb::FateKind::FatePending => Fate::Pending(at),
            pb::FateKind::FateCommitted => Fate::Committed(at),
            pb::FateKind::FateAborted => Fate::Aborted,
            pb::FateKind::FateUnspecified => return Err(Error::Internal("a fate without a kind".to_owned())),
        };
        Ok((parse_txn(&fate.txn)?, kind))
    }

    /// Whether it will not change any more.
    pub fn is_decided(self) -> bool {
        !matches!(self, Fate::Pending(_))
    }
}
