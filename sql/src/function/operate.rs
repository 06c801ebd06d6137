//! What `flotilla admin` does, in SQL: functions of the schema `flotilla`. They begin, or do, and say so; what takes its time is seen
//! in `flotilla.operations`. None of it is a part of the transaction.
//!
//! They are called in the select list of the outermost query and nowhere else: anything else may be evaluated more often than it
//! seems, or in somebody else's statement. Transactions that are read-only refuse them.
//!
//! Nodes and shards are named as text, as operators do, or by the numbers that the views have.

use txn::order::Order;

use super::define::{Args, f};
use super::effect::{Effect, call};
use super::{EvalContext, Function, Kernel};
use crate::error::Result;
use crate::types::{Datum, Type};

/// The schema of these functions, which are known by both names.
pub const SCHEMA: &str = "flotilla";

const NAME: &[Type] = &[Type::Text];
const NUMBER: &[Type] = &[Type::Int8];
const TWO_NAMES: &[Type] = &[Type::Text, Type::Text];
const TWO_NUMBERS: &[Type] = &[Type::Int8, Type::Int8];
const THREE_NAMES: &[Type] = &[Type::Text, Type::Text, Type::Text];
const THREE_NUMBERS: &[Type] = &[Type::Int8, Type::Int8, Type::Int8];

/// A node or a shard.
fn name(args: &[Datum], i: usize) -> Result<String> {
    match args.get(i) {
        Some(Datum::Int8(number)) => Ok(number.to_string()),
        _ => args.text(i).map(str::to_owned),
    }
}

/// One that may be left out.
fn optional(args: &[Datum], i: usize) -> Result<Option<String>> {
    (i < args.len()).then(|| name(args, i)).transpose()
}

fn give(ctx: &EvalContext, order: Order) -> Result<Datum> {
    call(ctx, Effect::Order(order))
}

fn rebalance(ctx: &EvalContext, _: &[Datum]) -> Result<Datum> {
    give(ctx, Order::Rebalance)
}

fn r#move(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::Move { shard: name(args, 0)?, from: name(args, 1)?, to: name(args, 2)? })
}

fn split(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    let key = (args.len() > 1).then(|| args.bytea(1).cloned()).transpose()?;
    give(ctx, Order::Split { shard: name(args, 0)?, key })
}

fn merge(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::Merge { shard: name(args, 0)? })
}

fn transfer_leader(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::TransferLeader { shard: name(args, 0)?, node: name(args, 1)? })
}

fn drain(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::Drain { node: name(args, 0)? })
}

fn undrain(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::Undrain { node: name(args, 0)? })
}

fn decommission(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    let force = args.len() > 1 && args.boolean(1)?;
    give(ctx, Order::Decommission { node: name(args, 0)?, force })
}

fn recommission(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::Recommission { node: name(args, 0)? })
}

fn repair(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::Repair { node: optional(args, 0)? })
}

fn set_setting(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::Set { name: name(args, 0)?, value: Some(name(args, 1)?) })
}

fn reset_setting(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::Set { name: name(args, 0)?, value: None })
}

fn cancel(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::Cancel { operation: name(args, 0)? })
}

fn meta_add(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::MetaAdd { node: name(args, 0)?, replacing: optional(args, 1)? })
}

fn meta_remove(ctx: &EvalContext, args: &[Datum]) -> Result<Datum> {
    give(ctx, Order::MetaRemove { node: name(args, 0)?, to: optional(args, 1)? })
}

const fn order(name: &'static str, args: &'static [Type], kernel: Kernel) -> Function {
    f(name, args, Type::Text, kernel).order()
}

pub(super) static FUNCTIONS: &[Function] = &[
    order("flotilla.rebalance", &[], rebalance),
    order("flotilla.move", THREE_NAMES, r#move),
    order("flotilla.move", THREE_NUMBERS, r#move),
    order("flotilla.split", NAME, split),
    order("flotilla.split", NUMBER, split),
    order("flotilla.split", &[Type::Text, Type::Bytea], split),
    order("flotilla.split", &[Type::Int8, Type::Bytea], split),
    order("flotilla.merge", NAME, merge),
    order("flotilla.merge", NUMBER, merge),
    order("flotilla.transfer_leader", TWO_NAMES, transfer_leader),
    order("flotilla.transfer_leader", TWO_NUMBERS, transfer_leader),
    order("flotilla.drain", NAME, drain),
    order("flotilla.drain", NUMBER, drain),
    order("flotilla.undrain", NAME, undrain),
    order("flotilla.undrain", NUMBER, undrain),
    order("flotilla.decommission", NAME, decommission),
    order("flotilla.decommission", NUMBER, decommission),
    order("flotilla.decommission", &[Type::Text, Type::Bool], decommission),
    order("flotilla.decommission", &[Type::Int8, Type::Bool], decommission),
    order("flotilla.recommission", NAME, recommission),
    order("flotilla.recommission", NUMBER, recommission),
    order("flotilla.repair", &[], repair),
    order("flotilla.repair", NAME, repair),
    order("flotilla.repair", NUMBER, repair),
    order("flotilla.set_setting", TWO_NAMES, set_setting),
    order("flotilla.reset_setting", NAME, reset_setting),
    order("flotilla.cancel", NAME, cancel),
    order("flotilla.meta_add", NAME, meta_add),
    order("flotilla.meta_add", NUMBER, meta_add),
    order("flotilla.meta_add", TWO_NAMES, meta_add),
    order("flotilla.meta_add", TWO_NUMBERS, meta_add),
    order("flotilla.meta_remove", NAME, meta_remove),
    order("flotilla.meta_remove", NUMBER, meta_remove),
    order("flotilla.meta_remove", TWO_NAMES, meta_remove),
    order("flotilla.meta_remove", TWO_NUMBERS, meta_remove),
];
