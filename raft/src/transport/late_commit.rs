//! News of a commit wait a moment for company.
//!
//! When entries are committed openraft tells each follower so: with the next entries, or, if there are none yet, at
//! once by an append of nothing. A group that writes an entry now and then thus sends two messages for each, with two
//! answers, where the second says only what the next one will say, too. So an append of nothing is held for up to
//! [`HOLD`]; whatever comes after it in the meantime carries the newer commit, and goes out in its place.
//!
//! Held it is only while everything that was sent is committed. Otherwise somebody waits for the follower's answer to entries, which must not be passed on before
//! this request is answered ([`super::in_step`]).
//!
//! Else nothing waits for a follower to hear of a commit, but what reads at followers, and the children of a split, whose
//! replicas come into being when their node applies it: both are late by [`HOLD`] at most. A request that is superseded is
//! never answered by itself. openraft takes the answer to the later one for it, too, which is right: nothing that it asked for is
//! missing there. The answer to an *earlier* one it must not take for it, for leases are reckoned from when the request was made:
//! [`Sent`] is told of a request before it waits.

use std::time::Duration;

use futures::stream::{Stream, StreamExt, unfold};
use openraft::raft::AppendEntriesRequest;
use storage::seam::Seams;

use super::in_step::Sent;
use crate::types::{LogId, TypeConfig};

/// For how long an append of nothing waits for one with entries.
const HOLD: Duration = Duration::from_millis(10);

/// The requests of `input`, without those that a later one, soon after, makes needless.
pub(crate) fn late_commits<'s, S>(
    input: S,
    seams: &'s Seams,
    sent: Sent<Option<LogId>>,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 's
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 's,
{
    unfold((input, sent, false), move |(mut input, sent, ended)| async move {
        if ended {
            return None;
        }
        let mut request = input.next().await?;
        sent.push(last(&request));
        if !may_wait(&request) {
            return Some((request, (input, sent, false)));
        }
        let mut held = std::pin::pin!(seams.sleep(HOLD));
        loop {
            tokio::select! {
                biased;
                next = input.next() => match next {
                    Some(next) => {
                        sent.supersede();
                        sent.push(last(&next));
                        request = next;
                        if !may_wait(&request) {
                            return Some((request, (input, sent, false)));
                        }
                    }
                    // A probe: its stream ends with it, or with the replication itself.
                    None => return Some((request, (input, sent, true))),
                },
                () = &mut held => return Some((request, (input, sent, false))),
            }
        }
    })
}

/// It tells of a commit and no more, and nobody waits for anything that was sent before.
fn may_wait(request: &AppendEntriesRequest<TypeConfig>) -> bool {
    request.entries.is_empty() && request.leader_commit >= request.prev_log_id
}

/// Up to where the follower's log reaches that has taken it.
pub(crate) fn last(request: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
    use openraft::entry::RaftEntry;

    use super::*;
    use crate::types::{Entry, Vote, log_id};

    fn request(entries: u64, committed: u64) -> AppendEntriesRequest<TypeConfig> {
        let id = |index| log_id(1, index);
        let entries = (0..entries).map(|n| Entry::new_blank(id(10 + n))).collect();
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(id(9)),
            entries,
            leader_commit: Some(id(committed)),
        }
    }

    /// What comes out of these, which are all there at once; then the stream ends, or does not.
    async fn out(requests: &[(u64, u64)], ends: bool) -> Vec<(usize, u64)> {
        let (sender, receiver) = mpsc::unbounded();
        for (entries, committed) in requests {
            sender.unbounded_send(request(*entries, *committed)).expect("open");
        }
        let seams = Seams::real();
        let mut late = Box::pin(late_commits(receiver, &seams, Sent::new()));
        let mut out = Vec::new();
        let open = (!ends).then_some(sender);
        while let Some(request) = late.next().await {
            let committed = request.leader_commit.map_or(0, |id| id.index);
            out.push((request.entries.len(), committed));
            if open.is_some() && committed == requests.last().map_or(0, |(_, committed)| *committed) {
                break;
            }
        }
        out
    }

    #[tokio::test]
    async fn a_commit_is_told_with_the_next_entries_if_they_come_soon() {
        assert_eq!(out(&[(1, 8), (0, 9), (2, 9), (0, 11)], false).await, [(1, 8), (2, 9), (0, 11)]);
    }

    #[tokio::test]
    async fn only_the_newest_of_several_commits_is_told() {
        assert_eq!(out(&[(0, 9), (0, 10), (0, 11)], false).await, [(0, 11)]);
    }

    #[tokio::test]
    async fn a_commit_does_not_wait_while_entries_are_under_way_that_are_not_committed() {
        assert_eq!(out(&[(0, 8), (1, 9)], false).await, [(0, 8), (1, 9)]);
    }

    #[tokio::test]
    async fn a_stream_that_ends_takes_nothing_with_it() {
        assert_eq!(out(&[(0, 9)], true).await, [(0, 9)]);
        assert_eq!(out(&[], true).await, []);
    }
}
