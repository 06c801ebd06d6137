//! Provisional writes of transactions that are not decided yet: user key → [`Intent`] in [`Cf::Intents`].
//!
//! At most one intent stands on a key. Whether it may be placed, what a reader does about it, and how its
//! transaction's fate is found is the transaction layer's business.

use bytes::Bytes;
use prost::Message;

use crate::Error;
use crate::engine::{Batch, Cf, Snapshot};
use crate::ids::{KeyRange, Timestamp, TxnId};
use crate::mvcc::Limits;

/// A provisional write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Whose.
    pub txn: TxnId,
    /// The key whose intent decides the transaction's fate.
    pub primary: Bytes,
    /// The transaction's snapshot.
    pub read_at: Timestamp,
    /// The new value; `None` deletes the row.
    pub value: Option<Bytes>,
    /// The transaction layer's own.
    pub context: Bytes,
}

/// Places an intent, in place of any other.
pub fn put_intent(batch: &mut Batch, key: &[u8], intent: &Intent) {
    let message = proto::storage::Intent {
        txn: Bytes::copy_from_slice(&intent.txn.0.to_be_bytes()),
        primary: intent.primary.clone(),
        read_at: intent.read_at.0,
        value: intent.value.clone(),
        context: intent.context.clone(),
    };
    batch.put(Cf::Intents, key, &message.encode_to_vec());
}

/// Removes the intent on a key.
pub fn remove_intent(batch: &mut Batch, key: &[u8]) {
    batch.delete(Cf::Intents, key);
}

/// The intent on a key.
pub fn get_intent(snapshot: &Snapshot, key: &[u8]) -> Result<Option<Intent>, Error> {
    snapshot.get(Cf::Intents, key)?.map(|stored| decode(snapshot, stored)).transpose()
}

/// A page of intents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntentPage {
    /// In key order.
    pub intents: Vec<(Bytes, Intent)>,
    /// What is left of the range; `None` when it is exhausted.
    pub rest: Option<KeyRange>,
}

/// The intents in a range, in key order.
pub fn scan_intents(snapshot: &Snapshot, range: &KeyRange, limits: Limits) -> Result<IntentPage, Error> {
    let mut page = IntentPage::default();
    if range.is_empty() {
        return Ok(page);
    }
    let mut iter = snapshot.iter(Cf::Intents, range);
    let mut bytes = 0;
    iter.seek_to_first();
    while let Some((key, stored)) = iter.item() {
        if !page.intents.is_empty() && (page.intents.len() >= limits.rows || bytes >= limits.bytes) {
            page.rest = Some(KeyRange { start: Bytes::copy_from_slice(key), end: range.end.clone() });
            return Ok(page);
        }
        bytes += key.len() + stored.len();
        let intent = decode(snapshot, Bytes::copy_from_slice(stored))?;
        page.intents.push((Bytes::copy_from_slice(key), intent));
        iter.next();
    }
    iter.check()?;
    Ok(page)
}

fn decode(snapshot: &Snapshot, stored: Bytes) -> Result<Intent, Error> {
    let corrupt = || Error::corrupt(snapshot.dir(), "an intent does not decode".to_owned());
    let message = proto::storage::Intent::decode(stored).map_err(|_| corrupt())?;
    let txn: [u8; 16] = message.txn[..].try_into().map_err(|_| corrupt())?;
    Ok(Intent {
        txn: TxnId(u128::from_be_bytes(txn)),
        primary: message.primary,
        read_at: Timestamp(message.read_at),
        value: message.value,
        context: message.context,
    })
}
