//! Functions with an effect: advisory locks, sleeping, and what operators want. They have to wait, and a kernel can't.
//!
//! Such a kernel calls [`call`]. Where an expression is evaluated by an operator that can wait (`exec::effect`), the evaluation is
//! *suspended*: it fails, the operator carries the effect out, and evaluates the expression of that row again, with the result at
//! hand. (What comes before in the expression is evaluated twice; a `random()` there may differ.) Everywhere else the
//! thread waits, which few may do at a time.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::{Handle, RuntimeFlavor};
use txn::order::Order;

use super::EvalContext;
use crate::error::{Result, SqlError, SqlState};
use crate::types::Datum;

/// Threads that may wait within an expression.
const BLOCKED_MAX: usize = 64;
static BLOCKED: AtomicUsize = AtomicUsize::new(0);

/// What an advisory lock is taken on: PostgreSQL's two spaces of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdvisoryKey {
    /// One `bigint`.
    One(i64),
    /// Two `integer`s.
    Two(i32, i32),
}

/// What an expression wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Take an advisory lock: whether it was taken.
    Lock {
        /// On what.
        key: AdvisoryKey,
        /// With others.
        shared: bool,
        /// Until the transaction ends, instead of the session.
        transaction: bool,
        /// Until it is free.
        wait: bool,
    },
    /// Give a session's advisory lock back: whether it was held.
    Unlock {
        /// On what.
        key: AdvisoryKey,
        /// The shared one.
        shared: bool,
    },
    /// Give all of a session's advisory locks back.
    UnlockAll,
    /// Wait for a while.
    Sleep(Duration),
    /// Have the cluster do something: what was begun, in words.
    Order(Order),
}

/// Who carries effects out: the session.
#[async_trait]
pub trait Performer: Send + Sync + std::fmt::Debug {
    /// Carries one out.
    async fn perform(&self, effect: Effect) -> Result<Datum>;
}

/// The results of one row's effects, in the order in which the expression asks for them.
#[derive(Debug, Default)]
pub struct Memo {
    done: Vec<Datum>,
    next: usize,
    wanted: Option<Effect>,
}

/// How far an evaluation came.
pub enum Step<T> {
    /// To its end.
    Done(Result<T>),
    /// To an effect.
    Wants(Effect),
}

thread_local! {
    static CURRENT: RefCell<Option<Memo>> = const { RefCell::new(None) };
}

impl Memo {
    /// Evaluates, up to the first effect whose result isn't known.
    pub fn step<T>(&mut self, evaluate: impl FnOnce() -> Result<T>) -> Step<T> {
        self.next = 0;
        CURRENT.set(Some(std::mem::take(self)));
        let result = evaluate();
        *self = CURRENT.take().unwrap_or_default();
        match self.wanted.take() {
            Some(effect) => Step::Wants(effect),
            None => Step::Done(result),
        }
    }

    /// An effect has been carried out.
    pub fn push(&mut self, result: Datum) {
        self.done.push(result);
    }

    /// Forgets the row. Whether there was any effect.
    pub fn finish(&mut self) -> bool {
        let any = !self.done.is_empty();
        self.done.clear();
        any
    }
}

/// What a kernel with an effect does.
pub fn call(ctx: &EvalContext, effect: Effect) -> Result<Datum> {
    let suspended = CURRENT.with_borrow_mut(|current| {
        let memo = current.as_mut()?;
        let known = memo.done.get(memo.next).cloned();
        memo.next += 1;
        if known.is_none() {
            memo.wanted = Some(effect.clone());
        }
        Some(known.ok_or_else(|| SqlError::internal("an effect is not carried out yet")))
    });
    suspended.unwrap_or_else(|| block_on(ctx, effect))
}

struct Blocked;

impl Drop for Blocked {
    fn drop(&mut self) {
        BLOCKED.fetch_sub(1, Ordering::AcqRel);
    }
}

fn block_on(ctx: &EvalContext, effect: Effect) -> Result<Datum> {
    let unsupported = || SqlError::unsupported("a function that waits here");
    let performer = ctx.performer.as_ref().ok_or_else(unsupported)?;
    let runtime = Handle::try_current().map_err(|_| unsupported())?;
    if runtime.runtime_flavor() != RuntimeFlavor::MultiThread {
        return Err(unsupported());
    }
    let before = BLOCKED.fetch_add(1, Ordering::AcqRel);
    let _blocked = Blocked;
    if before >= BLOCKED_MAX {
        return Err(SqlError::new(
            SqlState::INSUFFICIENT_RESOURCES,
            "too many expressions wait for an advisory lock",
        )
        .hint("Take advisory locks in the select list or the WHERE of the outermost query."));
    }
    tokio::task::block_in_place(|| runtime.block_on(performer.perform(effect)))
}
