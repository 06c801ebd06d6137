//! Intents of a range, from either end.

use bytes::Bytes;
use prost::Message;
use proto::shard as pb;
use storage::ids::{KeyRange, Timestamp, TxnId};
use storage::intents::Intent;
use storage::{Cf, Snapshot};

use crate::Error;
use crate::wire::parse_txn;

/// Some intents of a range.
pub struct IntentsPage {
    /// In the order of the scan.
    pub intents: Vec<(Bytes, Intent)>,
    /// Where it stopped: this key's intent is the first that is not in the page.
    pub stopped_at: Option<Bytes>,
}

/// The intents of a range, at most `rows_max` with about `bytes_max`, in the given order.
pub fn intents_in(
    snapshot: &Snapshot,
    range: &KeyRange,
    reverse: bool,
    rows_max: usize,
    bytes_max: usize,
) -> Result<IntentsPage, Error> {
    let mut page = IntentsPage { intents: Vec::new(), stopped_at: None };
    if range.is_empty() {
        return Ok(page);
    }
    let mut iter = snapshot.iter(Cf::Intents, range);
    match reverse {
        false => iter.seek_to_first(),
        true => iter.seek_to_last(),
    }
    let mut bytes = 0;
    while let Some((key, stored)) = iter.item() {
        let key = Bytes::copy_from_slice(key);
        if !page.intents.is_empty() && (page.intents.len() >= rows_max || bytes >= bytes_max) {
            page.stopped_at = Some(key);
            return Ok(page);
        }
        bytes += key.len() + stored.len();
        page.intents.push((key, decode(stored)?));
        match reverse {
            false => iter.next(),
            true => iter.prev(),
        }
    }
    iter.check()?;
    Ok(page)
}

/// What an intent carries beside its value.
pub fn context(intent: &Intent) -> Result<pb::IntentContext, Error> {
    pb::IntentContext::decode(intent.context.clone())
        .map_err(|e| Error::Corruption(format!("an intent's context does not decode: {e}")))
}

fn decode(stored: &[u8]) -> Result<Intent, Error> {
    let message = proto::storage::Intent::decode(Bytes::copy_from_slice(stored))
        .map_err(|e| Error::Corruption(format!("an intent does not decode: {e}")))?;
    let txn: TxnId =
        parse_txn(&message.txn).map_err(|_| Error::Corruption("an intent without an owner".to_owned()))?;
    Ok(Intent {
        txn,
        primary: message.primary,
        read_at: Timestamp(message.read_at),
        value: message.value,
        context: message.context,
    })
}
