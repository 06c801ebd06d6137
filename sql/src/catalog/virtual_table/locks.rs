//! Locks of the whole cluster: `flotilla.locks`, and `pg_locks` in PostgreSQL's columns.

use std::collections::HashMap;

use txn::LockMode;
use txn::api::{Activity, LockInfo};
use txn::ids::{KeyRange, TxnId};

use super::{Source, VirtualTable, or_null, text};
use crate::catalog::layout;
use crate::error::Result;
use crate::exec::key::KeyOf;
use crate::exec::{Row, StatementContext};
use crate::function::effect::AdvisoryKey;
use crate::session::describe_advisory;
use crate::types::{Datum, Type};

/// Locks shown of one shard.
const SHARD_ROWS_MAX: u32 = 10_000;

pub(super) const FLOTILLA: VirtualTable = VirtualTable {
    schema: "flotilla",
    name: "locks",
    columns: &[
        ("kind", Type::Text),
        ("database_name", Type::Text),
        ("table_name", Type::Text),
        ("key", Type::Text),
        ("mode", Type::Text),
        ("granted", Type::Bool),
        ("since", Type::Timestamptz),
        ("node_id", Type::Int8),
        ("pid", Type::Int4),
        ("transaction_id", Type::Text),
        ("blocked_by", Type::Text),
        ("application_name", Type::Text),
        ("statement", Type::Text),
    ],
    rows: flotilla,
};

pub(super) const PG_LOCKS: VirtualTable = VirtualTable {
    schema: "pg_catalog",
    name: "pg_locks",
    columns: &[
        ("locktype", Type::Text),
        ("database", Type::Oid),
        ("relation", Type::Oid),
        ("page", Type::Int4),
        ("tuple", Type::Int2),
        ("virtualxid", Type::Text),
        ("transactionid", Type::Text),
        ("classid", Type::Oid),
        ("objid", Type::Oid),
        ("objsubid", Type::Int2),
        ("virtualtransaction", Type::Text),
        ("pid", Type::Int4),
        ("mode", Type::Text),
        ("granted", Type::Bool),
        ("fastpath", Type::Bool),
        ("waitstart", Type::Timestamptz),
    ],
    rows: pg_locks,
};

/// The cluster's locks, and what is known of those who hold or want them.
#[derive(Default)]
pub(super) struct Locks {
    list: Vec<LockInfo>,
    known: HashMap<TxnId, Activity>,
    /// Microseconds since 2000-01-01.
    now: i64,
}

impl Locks {
    pub(super) async fn load(ctx: &StatementContext) -> Result<Self> {
        let mut list = ctx.database.locks(&KeyRange::all(), SHARD_ROWS_MAX).await?;
        list.sort_by(|a, b| (&a.key, !a.granted, b.age).cmp(&(&b.key, !b.granted, a.age)));
        let mut ids: Vec<TxnId> = list.iter().map(who).collect();
        ids.sort();
        ids.dedup();
        let known = ctx.database.describe(&ids).await;
        let known = ids.into_iter().zip(known).filter_map(|(id, known)| Some((id, known?))).collect();
        let micros_since_1970 = ctx.eval.seams.clock.wall_ms() as i64 * 1000;
        Ok(Self { list, known, now: micros_since_1970 - 946_684_800_000_000 })
    }

    fn since(&self, lock: &LockInfo) -> Datum {
        Datum::Timestamptz(self.now - lock.age.as_micros() as i64)
    }

    /// Who keeps `lock` from being granted, as `node/pid`.
    fn blockers(&self, lock: &LockInfo) -> Option<String> {
        if lock.granted {
            return None;
        }
        let same_key = self.list.iter().filter(|other| other.key == lock.key && other.owner != lock.owner);
        let before = same_key.filter(|other| other.granted || other.age > lock.age);
        let rivals = before.filter(|other| other.mode.conflicts(lock.mode));
        let names: Vec<String> = rivals.map(name_of).collect();
        Some(names.join(", "))
    }
}

/// By whom a lock is asked about.
fn who(lock: &LockInfo) -> TxnId {
    lock.session.map_or(lock.owner, |session| session.as_owner())
}

fn name_of(lock: &LockInfo) -> String {
    match lock.session {
        Some(session) => format!("{}/{}", session.node().0, session.pid()),
        None => lock.owner.to_string(),
    }
}

fn flotilla(source: &Source<'_>) -> Vec<Row> {
    let image = source.image;
    let row = |lock: &LockInfo| {
        let advisory = layout::parse_advisory_key(&lock.key);
        let database = lock.key.first_chunk::<4>().map(|id| u32::from_be_bytes(*id));
        let database = database.and_then(|id| image.databases().iter().find(|d| d.id == id));
        let table = layout::parse_table_key(&lock.key)
            .filter(|&(database, _)| advisory.is_none() && database == image.database().id)
            .and_then(|(_, table)| image.table_by_id(table));
        let key = match (advisory, table) {
            (Some((_, key)), _) => describe_advisory(key),
            (None, Some(table)) => KeyOf::read(table, &lock.key)
                .map_or_else(|| lock.key.escape_ascii().to_string(), |key| key.describe(table)),
            (None, None) => lock.key.escape_ascii().to_string(),
        };
        let mode = match (advisory.is_some(), lock.mode) {
            (true, LockMode::Update) => "exclusive",
            (true, _) => "shared",
            (false, LockMode::Update) => "FOR UPDATE",
            (false, LockMode::NoKeyUpdate) => "FOR NO KEY UPDATE",
            (false, LockMode::Share) => "FOR SHARE",
            (false, LockMode::KeyShare) => "FOR KEY SHARE",
        };
        let known = source.locks.known.get(&who(lock));
        let node = lock.session.map_or_else(|| txn::node_of(lock.owner), |session| session.node());
        let transaction = match advisory {
            Some(_) => known.and_then(|known| known.txn),
            None => Some(lock.owner),
        };
        vec![
            text(if advisory.is_some() { "advisory" } else { "row" }),
            or_null(database, |d| text(&d.name)),
            or_null(table, |t| text(&t.name)),
            text(key),
            text(mode),
            Datum::Bool(lock.granted),
            source.locks.since(lock),
            Datum::Int8(node.0 as i64),
            or_null(lock.session, |session| Datum::Int4(session.pid())),
            or_null(transaction, |txn| text(txn.to_string())),
            or_null(source.locks.blockers(lock), text),
            or_null(known, |known| text(&known.application)),
            or_null(known, |known| text(&known.statement)),
        ]
    };
    source.locks.list.iter().map(row).collect()
}

fn pg_locks(source: &Source<'_>) -> Vec<Row> {
    let row = |lock: &LockInfo| {
        let advisory = layout::parse_advisory_key(&lock.key);
        let table = layout::parse_table_key(&lock.key).filter(|_| advisory.is_none());
        let database = advisory.map(|(database, _)| database).or(table.map(|(database, _)| database));
        let object = advisory.map(|(_, key)| match key {
            AdvisoryKey::One(n) => ((n >> 32) as u32, n as u32, 1),
            AdvisoryKey::Two(a, b) => (a as u32, b as u32, 2),
        });
        // Those that PostgreSQL takes on a row for the four strengths, and for advisory locks.
        let mode = match (advisory.is_some(), lock.mode) {
            (true, LockMode::Update) => "ExclusiveLock",
            (true, _) => "ShareLock",
            (false, LockMode::Update) => "AccessExclusiveLock",
            (false, LockMode::NoKeyUpdate) => "ExclusiveLock",
            (false, LockMode::Share) => "RowShareLock",
            (false, LockMode::KeyShare) => "AccessShareLock",
        };
        vec![
            text(if advisory.is_some() { "advisory" } else { "tuple" }),
            or_null(database, Datum::Oid),
            or_null(table, |(_, table)| Datum::Oid(table)),
            Datum::Null,
            Datum::Null,
            Datum::Null,
            Datum::Null,
            or_null(object, |(class, _, _)| Datum::Oid(class)),
            or_null(object, |(_, object, _)| Datum::Oid(object)),
            or_null(object, |(_, _, sub)| Datum::Int2(sub)),
            text(lock.owner.to_string()),
            or_null(lock.session, |session| Datum::Int4(session.pid())),
            text(mode),
            Datum::Bool(lock.granted),
            Datum::Bool(false),
            if lock.granted { Datum::Null } else { source.locks.since(lock) },
        ]
    };
    source.locks.list.iter().map(row).collect()
}
