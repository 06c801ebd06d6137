//! What is closed, and who reads it.

use bytes::Bytes;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::Timestamp;

use super::World;
use crate::command::past;
use crate::latch::{Mode, Span};

impl World {
    /// `Close`, if no latch is in its way: up to `behind` below the present, said along with the next command, or in one of its own.
    pub fn close(&mut self, shard: usize, behind: u64) {
        let present = self.draw();
        let at = Timestamp(present.0.saturating_sub(behind));
        let leadership = self.leadership(shard);
        // (Whatever lies in the shard, of other cases, too: nobody latches that.)
        if self.wait(shard, &[(Span::Range(self.all_in(shard)), Mode::Shared)]).is_err() {
            return;
        }
        if behind == 0 {
            leadership.closing.want(self.now);
        }
        if leadership.closing.closable(at, present, self.now) {
            leadership.closing.said(at);
            self.send(shard, pb::Command { effect: None, closed: at.0 }, None);
        }
    }

    /// Whether and what a replica that need not lead answers, of the rows of these keys, or of all of a shard.
    pub fn read_past(
        &self,
        shard: usize,
        at: Timestamp,
        keys: Option<&[Bytes]>,
    ) -> Option<Vec<pb::KeyValue>> {
        let ask = match keys {
            Some(keys) => Ask::Read(pb::Read { at: at.0, keys: keys.to_vec(), ..pb::Read::default() }),
            None => {
                let range = Some(crate::descriptor::range_to_pb(&self.all_in(shard)));
                Ask::Scan(pb::Scan {
                    at: at.0,
                    range,
                    rows_max: 100,
                    bytes_max: 1 << 20,
                    ..pb::Scan::default()
                })
            }
        };
        match past::evaluate(&self.shards[shard], at, &ask) {
            past::Found::Outcome(Ok(Answer::Page(page))) => Some(page.rows),
            past::Found::Outcome(Ok(Answer::Values(found))) => {
                let rows = keys?.iter().zip(found.values);
                Some(
                    rows.filter_map(|(key, v)| Some(pb::KeyValue { key: key.clone(), value: v.value? }))
                        .collect(),
                )
            }
            past::Found::Open | past::Found::Undecided => None,
            other => panic!("the past is refused: {other:?}"),
        }
    }
}
