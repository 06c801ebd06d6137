//! How the messages of all services are encoded: as protobuf, and behind that a CRC-32 of it.
//!
//! TCP has a checksum, which misses some of what is altered on the way, and of a message between nodes any bit counts: a term of raft's that
//! grew makes a log the newest of all, and its owner the leader, who truncates what was acknowledged; a row that a gateway sends
//! is proposed as it arrived. So the sum is made of all that is said, before the stream has any of it, and compared before
//! anything of it is read. What differs is not handed on: its stream breaks, and its sender tries again or says that it could not.
//!
//! ```text
//!   ┌───────────────────────┬────────────────┬──────────────┐
//!   │ the message, encoded  │ fd ff ff ff 0f │ CRC-32 (LE)  │
//!   └───────────────────────┴────────────────┴──────────────┘
//!                             the tag of a field: the last number there is, of four bytes
//! ```
//!
//! Whoever knows of no sums skips that field, as any that he doesn't know. What comes without one is refused like what is damaged: it can't
//! be told from what has lost its end.
//!
//! The message is encoded apart, into a buffer that is kept, and copied from there: tonic's can't be read. Received it is
//! where it was received.

use std::any::type_name;
use std::marker::PhantomData;

use prost::bytes::{Buf, BufMut, Bytes};
use prost::{EncodeError, Message};
use tonic::Status;
use tonic::codec::{self, DecodeBuf, EncodeBuf};

/// Before the sum.
const TAG: [u8; 5] = [0xfd, 0xff, 0xff, 0xff, 0x0f];
const TRAILER_BYTES: usize = TAG.len() + size_of::<u32>();
/// A larger buffer is not kept for the next message.
const KEPT_BYTES_MAX: usize = 2 << 20;

/// The codec of the service: it sends `T` and receives `U`.
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder { buffer: Vec::new(), sends: PhantomData }
    }

    fn decoder(&mut self) -> Decoder<U> {
        Decoder { receives: PhantomData }
    }
}

/// The sending end of a stream.
pub(crate) struct Encoder<T> {
    buffer: Vec<u8>,
    sends: PhantomData<T>,
}

impl<T: Message> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, stream: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.buffer.clear();
        seal(&message, &mut self.buffer).map_err(|error| Status::internal(error.to_string()))?;
        stream.reserve(self.buffer.len());
        stream.put_slice(&self.buffer);
        if self.buffer.capacity() > KEPT_BYTES_MAX {
            self.buffer = Vec::new();
        }
        Ok(())
    }
}

/// The receiving end of a stream.
pub(crate) struct Decoder<U> {
    receives: PhantomData<U>,
}

impl<U: Message + Default> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, stream: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // (Of what is contiguous already this copies nothing.)
        let bytes = stream.remaining();
        let received = stream.copy_to_bytes(bytes);
        let Some(message) = check(received) else {
            let kind = type_name::<U>();
            metrics::counter!("flotilla_messages_damaged_total").increment(1);
            tracing::error!(
                kind,
                "A MESSAGE ARRIVED DAMAGED: by its checksum it is not what was sent, and is refused"
            );
            return Err(Status::data_loss(format!(
                "{kind}: damaged on its way, by its checksum, or sent by a version of flotilla that makes none"
            )));
        };
        U::decode(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Appends the message and its sum.
fn seal(message: &impl Message, to: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = to.len();
    message.encode(to)?;
    let sum = crc32fast::hash(&to[start..]);
    to.extend_from_slice(&TAG);
    to.extend_from_slice(&sum.to_le_bytes());
    Ok(())
}

/// The message without its sum, if it is the one that was sent, as far as can be known.
fn check(mut received: Bytes) -> Option<Bytes> {
    let end = received.len().checked_sub(TRAILER_BYTES)?;
    let sum = crc32fast::hash(&received[..end]).to_le_bytes();
    let trailer = &received[end..];
    if trailer[..TAG.len()] != TAG || trailer[TAG.len()..] != sum {
        return None;
    }
    received.truncate(end);
    Some(received)
}

#[cfg(test)]
mod tests;
