//! An acknowledgement waits for those of later requests that it would be taken for.
//!
//! openraft notes for each append when it was sent and up to where it reaches, and takes the answer "I have the log up to m" for
//! the answer to *every* append under way that reaches no further. An append without entries, which only tells of a commit, reaches no
//! further than the one with the entries before it. So the answer to that one, however old, counts as an answer to
//! both, and the leader believes that it was heard when it sent the second: it has a lease, and a quorum for its reads, from
//! followers that may have elected another one since. (A leader that sleeps between the two, and wakes to find the first
//! answer waiting, is all it takes.)
//!
//! Therefore an answer is passed on only when all later requests that openraft would take it for are answered, too. That is so at the latest
//! when one is answered that reaches further: what it reaches never decreases from one request to the next.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{Stream, StreamExt, unfold};
use parking_lot::Mutex;

/// Up to where the requests reach that are not answered, in their order, and whether a later one goes out in their place.
pub(crate) struct Sent<L>(Arc<Mutex<VecDeque<(L, bool)>>>);

impl<L> Clone for Sent<L> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<L: PartialOrd + Copy> Sent<L> {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// openraft has made a request, which takes it for sent.
    pub fn push(&self, last: L) {
        self.0.lock().push_back((last, false));
    }

    /// The last one stays here, and the next one goes out in its place. An answer to an earlier one would still be taken for its.
    pub fn supersede(&self) {
        if let Some((_, superseded)) = self.0.lock().back_mut() {
            *superseded = true;
        }
    }

    /// The first one that went out is answered, and those that it superseded: up to where it reaches, and whether its answer would be
    /// taken for the next one's.
    fn answered(&self) -> (Option<L>, bool) {
        let mut sent = self.0.lock();
        while let Some((first, superseded)) = sent.pop_front() {
            if !superseded {
                return (Some(first), matches!(sent.front(), Some((next, _)) if *next <= first));
            }
        }
        (None, false)
    }
}

/// Answers, in the order of their requests; `acknowledges` tells those that count for earlier and later ones.
pub(crate) fn in_step<'s, L, A>(
    answers: impl Stream<Item = A> + Send + Unpin + 's,
    sent: Sent<L>,
    acknowledges: impl Fn(&A) -> bool + Send + 's,
) -> impl Stream<Item = A> + Send + 's
where
    L: PartialOrd + Copy + Send + 's,
    A: Send + 's,
{
    // What is held, and up to where it reaches.
    let state = (answers, sent, acknowledges, VecDeque::new(), None, VecDeque::new());
    unfold(state, |(mut answers, sent, acknowledges, mut held, mut reach, mut ready)| async move {
        loop {
            if let Some(answer) = ready.pop_front() {
                return Some((answer, (answers, sent, acknowledges, held, reach, ready)));
            }
            let answer = answers.next().await?;
            let (last, early) = sent.answered();
            if !acknowledges(&answer) {
                // What is held would still be taken for the request that has failed, or was refused.
                held.clear();
                ready.push_back(answer);
            } else {
                if last > reach {
                    ready.append(&mut held);
                }
                held.push_back(answer);
                reach = last;
                if !early {
                    ready.append(&mut held);
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::channel::mpsc;

    use super::*;

    type Answer = Result<u64, &'static str>;

    struct Pipe {
        sent: Sent<u64>,
        answers: mpsc::UnboundedSender<Answer>,
        seen: std::pin::Pin<Box<dyn Stream<Item = Answer> + Send>>,
    }

    fn pipe() -> Pipe {
        let (answers, answered) = mpsc::unbounded();
        let sent = Sent::new();
        let seen = Box::pin(in_step(answered, sent.clone(), |answer: &Answer| answer.is_ok()));
        Pipe { sent, answers, seen }
    }

    impl Pipe {
        fn answer(&mut self, answer: Answer) -> Vec<Answer> {
            self.answers.unbounded_send(answer).expect("open");
            std::iter::from_fn(|| self.seen.next().now_or_never().flatten()).collect()
        }
    }

    #[test]
    fn an_answer_is_not_taken_for_a_later_request_without_entries() {
        let mut pipe = pipe();
        pipe.sent.push(5);
        pipe.sent.push(5);
        pipe.sent.push(7);
        assert_eq!(pipe.answer(Ok(5)), [], "the second request, up to 5 as well, is not answered");
        assert_eq!(pipe.answer(Ok(5)), [Ok(5), Ok(5)]);
        assert_eq!(pipe.answer(Ok(7)), [Ok(7)]);
    }

    #[test]
    fn answers_to_requests_with_entries_wait_for_nothing() {
        let mut pipe = pipe();
        (1..=3).for_each(|last| pipe.sent.push(last));
        assert_eq!(pipe.answer(Ok(1)), [Ok(1)]);
        assert_eq!(pipe.answer(Ok(2)), [Ok(2)]);
    }

    #[test]
    fn an_answer_is_not_taken_for_a_request_that_a_later_one_supersedes() {
        let mut pipe = pipe();
        pipe.sent.push(5);
        pipe.sent.push(5);
        pipe.sent.supersede();
        pipe.sent.push(7);
        assert_eq!(pipe.answer(Ok(5)), [], "the second request is not answered");
        pipe.sent.push(7);
        pipe.sent.supersede();
        pipe.sent.push(9);
        assert_eq!(pipe.answer(Ok(7)), [Ok(5)], "now it is; but not the second that reaches up to 7");
        assert_eq!(pipe.answer(Ok(9)), [Ok(7), Ok(9)]);
        pipe.sent.push(11);
        assert_eq!(pipe.answer(Ok(11)), [Ok(11)]);
    }

    #[test]
    fn of_one_that_is_always_behind_no_more_than_one_answer_is_held() {
        let mut pipe = pipe();
        pipe.sent.push(1);
        for last in 2..100 {
            pipe.sent.push(last - 1);
            pipe.sent.supersede();
            pipe.sent.push(last);
            let passed: Vec<Answer> = (last > 2).then(|| Ok(last - 2)).into_iter().collect();
            assert_eq!(pipe.answer(Ok(last - 1)), passed);
        }
    }

    #[test]
    fn what_is_held_is_lost_with_the_request_that_it_was_held_for() {
        let mut pipe = pipe();
        pipe.sent.push(5);
        pipe.sent.push(5);
        assert_eq!(pipe.answer(Ok(5)), []);
        assert_eq!(pipe.answer(Err("refused")), [Err("refused")]);
    }
}
