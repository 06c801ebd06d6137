//! Advisory locks (PostgreSQL 15, table 9.102), and `pg_sleep`.

use std::time::Duration;

use super::define::{Args, f};
use super::effect::{AdvisoryKey, Effect, call};
use super::{EvalContext, Function, Kernel};
use crate::error::Result;
use crate::types::{Datum, Type};

/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn key(args: &[Datum]) -> Result<AdvisoryKey> {
    Ok(match args.len() {
        1 => AdvisoryKey::One(args.int8(0)?),
        _ => AdvisoryKey::Two(args.int4(0)?, args.int4(1)?),
    })
}

fn lock<const SHARED: bool, const TRANSACTION: bool, const WAIT: bool>(
    ctx: &EvalContext,
    args: &[Datum],
) -> Result<Datum> {
    let effect = Effect::Lock { key: key(args)?, shared: SHARED, transaction: TRANSACTION, wait: WAIT };
    let taken = call(ctx, effect)?;
    Ok(if WAIT { Datum::text("") } else { taken })
}

fn unlock<const SHARED: bool>(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    call(ctx, Effect::Unlock { key: key(args)?, shared: SHARED })
}

const ONE: &[Type] = &[Type::Int8];
const TWO: &[Type] = &[Type::Int4, Type::Int4];

const fn waits(name: &'static str, args: &'static [Type], kernel: Kernel) -> Function {
    f(name, args, Type::Void, kernel).effect()
}

const fn tries(name: &'static str, args: &'static [Type], kernel: Kernel) -> Function {
    f(name, args, Type::Bool, kernel).effect()
}

pub(super) static FUNCTIONS: &[Function] = &[
    waits("pg_advisory_lock", ONE, lock::<false, false, true>),
    waits("pg_advisory_lock", TWO, lock::<false, false, true>),
    waits("pg_advisory_lock_shared", ONE, lock::<true, false, true>),
    waits("pg_advisory_lock_shared", TWO, lock::<true, false, true>),
    waits("pg_advisory_xact_lock", ONE, lock::<false, true, true>),
    waits("pg_advisory_xact_lock", TWO, lock::<false, true, true>),
    waits("pg_advisory_xact_lock_shared", ONE, lock::<true, true, true>),
    waits("pg_advisory_xact_lock_shared", TWO, lock::<true, true, true>),
    tries("pg_try_advisory_lock", ONE, lock::<false, false, false>),
    tries("pg_try_advisory_lock", TWO, lock::<false, false, false>),
    tries("pg_try_advisory_lock_shared", ONE, lock::<true, false, false>),
    tries("pg_try_advisory_lock_shared", TWO, lock::<true, false, false>),
    tries("pg_try_advisory_xact_lock", ONE, lock::<false, true, false>),
    tries("pg_try_advisory_xact_lock", TWO, lock::<false, true, false>),
    tries("pg_try_advisory_xact_lock_shared", ONE, lock::<true, true, false>),
    tries("pg_try_advisory_xact_lock_shared", TWO, lock::<true, true, false>),
    tries("pg_advisory_unlock", ONE, unlock::<false>),
    tries("pg_advisory_unlock", TWO, unlock::<false>),
    tries("pg_advisory_unlock_shared", ONE, unlock::<true>),
    tries("pg_advisory_unlock_shared", TWO, unlock::<true>),
    waits("pg_advisory_unlock_all", &[], |c, _| {
        call(c, Effect::UnlockAll)?;
        Ok(Datum::text(""))
    }),
    waits("pg_sleep", &[Type::Float8], |c, a| {
        let seconds = a.float8(0)?;
        if seconds > 0.0 {
            let length = Duration::try_from_secs_f64(seconds).unwrap_or(SLEEP_MAX);
            call(c, Effect::Sleep(length.min(SLEEP_MAX)))?;
        }
        Ok(Datum::text(""))
    }),
];
