//! The schema `flotilla`: the cluster.

use txn::api::{OperationInfo, SettingInfo};
use txn::ids::NodeId;

use super::{Source, VirtualTable, or_null, text};
use crate::catalog::layout;
use crate::exec::Row;
use crate::types::{Datum, Type};

/// The schema's name.
pub(super) const SCHEMA: &str = "flotilla";

pub(super) const TABLES: &[VirtualTable] = &[
    VirtualTable {
        schema: SCHEMA,
        name: "nodes",
        columns: &[
            ("node_id", Type::Int8),
            ("sql_address", Type::Text),
            ("rpc_address", Type::Text),
            ("alive", Type::Bool),
            ("leaders", Type::Int8),
            ("replicas", Type::Int8),
            ("duty", Type::Text),
            ("sessions", Type::Int8),
            ("locality", Type::Text),
            ("disk_bytes", Type::Int8),
            ("disk_used_bytes", Type::Int8),
        ],
        rows: nodes,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "shards",
        columns: &[
            ("group_id", Type::Int8),
            ("database_name", Type::Text),
            ("table_name", Type::Text),
            ("start_key", Type::Bytea),
            ("end_key", Type::Bytea),
            ("epoch", Type::Int8),
            ("replicas", Type::Text),
            ("leader", Type::Int8),
            ("closed", Type::Text),
            ("bytes", Type::Int8),
            ("reads_per_second", Type::Int8),
            ("writes_per_second", Type::Int8),
            ("voters", Type::Text),
            ("lag", Type::Int8),
            ("unreachable", Type::Text),
        ],
        rows: shards,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "operations",
        columns: &[
            ("operation_id", Type::Text),
            ("kind", Type::Text),
            ("subject", Type::Text),
            ("state", Type::Text),
        ],
        rows: operations,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "settings",
        columns: &[
            ("name", Type::Text),
            ("value", Type::Text),
            ("default_value", Type::Text),
            ("description", Type::Text),
        ],
        rows: settings,
    },
    // What pg_table_is_visible asks.
    VirtualTable {
        schema: SCHEMA,
        name: "visible_relations",
        columns: &[("oid", Type::Oid)],
        rows: super::pg_catalog::visible_relations,
    },
];

fn int8(n: u64) -> Datum {
    Datum::Int8(i64::try_from(n).unwrap_or(i64::MAX))
}

fn list(nodes: &[NodeId]) -> Datum {
    let names: Vec<String> = nodes.iter().map(|node| node.to_string()).collect();
    text(names.join(","))
}

fn nodes(source: &Source<'_>) -> Vec<Row> {
    source
        .nodes
        .iter()
        .map(|node| {
            let leaders = source.shards.iter().filter(|s| s.leader == Some(node.id)).count();
            let replicas = source.shards.iter().filter(|s| s.replicas.contains(&node.id)).count();
            let facts = source.observed.nodes.get(&node.id);
            vec![
                int8(node.id.0),
                text(&node.sql_address),
                text(&node.rpc_address),
                Datum::Bool(node.alive),
                int8(leaders as u64),
                int8(replicas as u64),
                text(node.duty),
                or_null(facts, |facts| int8(facts.sessions)),
                or_null(facts, |facts| text(&facts.locality)),
                or_null(facts.and_then(|facts| facts.disk_bytes), int8),
                or_null(facts.and_then(|facts| facts.disk_used_bytes), int8),
            ]
        })
        .collect()
}

/// `operation_id` is what `flotilla admin operations cancel` takes; null if it can't be cancelled.
fn operations(source: &Source<'_>) -> Vec<Row> {
    let row = |o: &OperationInfo| {
        let id = Some(&o.id).filter(|id| !id.is_empty());
        vec![or_null(id, text), text(&o.kind), text(&o.subject), text(&o.state)]
    };
    source.operations.iter().map(row).collect()
}

fn settings(source: &Source<'_>) -> Vec<Row> {
    let row = |s: &SettingInfo| vec![text(&s.name), text(&s.value), text(&s.default), text(&s.description)];
    source.settings.iter().map(row).collect()
}

/// `table_name` is the table that the shard's first key lies in, if that is one of this database. `closed` is up to where this node's replica answers
/// reads of the past itself, as AS OF SYSTEM TIME takes it. What comes after is the leader's word, of a second ago; `lag` is that of the replica which is
/// furthest behind.
fn shards(source: &Source<'_>) -> Vec<Row> {
    source
        .shards
        .iter()
        .map(|shard| {
            let start = &shard.range.start[..];
            let database = start
                .get(..4)
                .and_then(|b| b.try_into().ok())
                .map(u32::from_be_bytes)
                .and_then(|id| source.image.databases().iter().find(|d| d.id == id));
            let table = layout::parse_table_key(start)
                .filter(|&(database, _)| database == source.image.database().id)
                .and_then(|(_, table)| source.image.table_by_id(table));
            let facts = source.observed.groups.get(&shard.group);
            vec![
                int8(shard.group.0),
                or_null(database, |d| text(&d.name)),
                or_null(table, |t| text(&t.name)),
                Datum::Bytea(shard.range.start.clone()),
                Datum::Bytea(shard.range.end.clone()),
                int8(shard.epoch.0),
                list(&shard.replicas),
                or_null(shard.leader, |n| int8(n.0)),
                or_null(shard.closed, |at| text(at.to_string())),
                or_null(facts.and_then(|facts| facts.bytes), int8),
                or_null(facts.and_then(|facts| facts.reads_per_second), |n| int8(n.into())),
                or_null(facts.and_then(|facts| facts.writes_per_second), |n| int8(n.into())),
                or_null(facts, |facts| list(&facts.voters)),
                or_null(facts.and_then(|facts| facts.lag), int8),
                or_null(facts, |facts| list(&facts.unreachable)),
            ]
        })
        .collect()
}
