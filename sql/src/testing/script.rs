//! Golden scripts in SQL: `testscripts/sql/`.
//!
//! Each line `> statement` runs in auto-commit mode unless BEGIN came before; a prefix (`a: > BEGIN`) names a session. COPY's
//! data follows after `<<<`, with `→` for a tab and `¶` for a newline.
//!
//! Beside SQL there are `@advance SECONDS` (of the catalog's clock), `@sweep` (one round of the sweeper), `@restart` (the
//! sweeper forgets what it has seen), `@keys` (how many keys the tables have, visible or not), `@placed` (of how many tables'
//! replicas something is wanted), `@inspect [TABLE …]` (what `flotilla admin check` would say), `@unguarded STATEMENT` (which
//! knows of no constraint, index or foreign key: it breaks them), `@unnamed TABLE` (its name is lost), `@torn TABLE` (so are
//! the values of all its rows) and `@garbled TABLE` (so is its descriptor).

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use goldenscript::{Command, Context, Runner};
use txn::api::{Expect, ScanRequest, Write};

use super::{TestCluster, TestTransaction, collect, eval_context};
use crate::bind::{self, Bindable, ParsedStatement, Transaction};
use crate::catalog::{TableDescriptor, layout};
use crate::error::{Result, SqlError};
use crate::exec::inspect::{Finding, Options, Report, Step, inspect};
use crate::exec::{self, Outcome, key};
use crate::ir::Statement;
use crate::types::{Datum, TimeZone, io};

/// Runs a script; each has a cluster of its own.
pub struct Script {
    runtime: tokio::runtime::Runtime,
    cluster: Arc<TestCluster>,
    sessions: HashMap<String, TestTransaction>,
}

impl Script {
    /// A fresh cluster.
    pub fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        let cluster = Arc::new(runtime.block_on(TestCluster::new()));
        Self { runtime, cluster, sessions: HashMap::new() }
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        let session = context.prefix.clone().unwrap_or_default();
        let result =
            self.runtime.block_on(statements(&self.cluster, &mut self.sessions, session, &command.name));
        Ok(match result {
            Ok(output) => output,
            Err(error) => describe(&error),
        })
    }
}

fn describe(error: &SqlError) -> String {
    let mut out = format!("ERROR {}: {}", error.state.0, error.message);
    let more = [("DETAIL", &error.detail), ("HINT", &error.hint), ("CONTEXT", &error.context)];
    for (name, text) in more {
        if let Some(text) = text {
            let _ = write!(out, "\n{name}: {text}");
        }
    }
    out
}

async fn statements(
    cluster: &TestCluster,
    sessions: &mut HashMap<String, TestTransaction>,
    session: String,
    sql: &str,
) -> Result<String> {
    let mut out = Vec::new();
    if let Some(word) = sql.strip_prefix('@') {
        return apart(cluster, word).await;
    }
    let (sql, data) = sql.split_once(" <<< ").map_or((sql, None), |(sql, data)| (sql, Some(data)));
    let data = data.map(|data| data.replace('→', "\t").replace('¶', "\n")).unwrap_or_default();
    for statement in bind::parse(sql)? {
        out.push(match statement {
            ParsedStatement::Transaction(Transaction::Begin(_)) => {
                sessions.insert(session.clone(), cluster.begin().await);
                "BEGIN".to_owned()
            }
            ParsedStatement::Transaction(Transaction::Commit { .. }) => {
                let Some(open) = sessions.remove(&session) else { continue };
                commit(&open).await?;
                "COMMIT".to_owned()
            }
            ParsedStatement::Transaction(Transaction::Rollback { .. }) => {
                sessions.remove(&session);
                "ROLLBACK".to_owned()
            }
            ParsedStatement::Bindable(bindable) => match sessions.get(&session) {
                Some(open) => run(open, &bindable, false, &data).await?,
                None => {
                    let alone = cluster.begin().await;
                    let output = run(&alone, &bindable, true, &data).await?;
                    commit(&alone).await?;
                    output
                }
            },
            _ => return Err(SqlError::unsupported("this statement in a script")),
        });
    }
    Ok(out.join("\n"))
}

async fn apart(cluster: &TestCluster, word: &str) -> Result<String> {
    match word.split_once(' ') {
        Some(("advance", seconds)) => {
            let seconds = seconds.parse().map_err(|_| SqlError::internal("@advance of what?"))?;
            cluster.clock.advance(Duration::from_secs(seconds));
        }
        Some(("unguarded", sql)) => {
            let alone = cluster.begin_unguarded().await;
            let Some(ParsedStatement::Bindable(bindable)) = bind::parse(sql)?.into_iter().next() else {
                return Err(SqlError::internal("@unguarded of what?"));
            };
            let output = run(&alone, &bindable, true, "").await?;
            commit(&alone).await?;
            return Ok(output);
        }
        Some(("unnamed", table)) => {
            let alone = cluster.begin().await;
            let database = layout::DEFAULT_DATABASE;
            let write = Write {
                key: layout::table_name_key(database, "public", table),
                value: None,
                expect: Expect::Any,
            };
            alone.transaction.write(vec![write], &[]).await?;
            commit(&alone).await?;
        }
        Some(("torn", table)) => {
            let alone = cluster.begin().await;
            let range = table_of(cluster, table).await?.storage_range();
            let page =
                alone.transaction.scan(ScanRequest { range, reverse: false, rows_max: 100 }, &[]).await?;
            let value = Some(Bytes::from_static(b"?"));
            let torn = |(key, _)| Write { key, value: value.clone(), expect: Expect::Any };
            alone.transaction.write(page.rows.into_iter().map(torn).collect(), &[]).await?;
            commit(&alone).await?;
        }
        Some(("garbled", table)) => {
            let alone = cluster.begin().await;
            let table = table_of(cluster, table).await?;
            let key = layout::table_key(table.database, table.id);
            let write = Write { key, value: Some(Bytes::new()), expect: Expect::Any };
            alone.transaction.write(vec![write], &[]).await?;
            commit(&alone).await?;
        }
        Some(("inspect", tables)) => return inspected(cluster, tables.split(' ')).await,
        _ if word == "inspect" => return inspected(cluster, std::iter::empty()).await,
        _ if word == "sweep" => cluster.catalog.sweep(&mut *cluster.seen.lock().await).await?,
        _ if word == "restart" => *cluster.seen.lock().await = Default::default(),
        _ if word == "placed" => return Ok(cluster.database.placed_tables().to_string()),
        _ if word == "keys" => return Ok(cluster.database.table_keys().to_string()),
        _ => return Err(SqlError::internal("an unknown @word")),
    }
    Ok("ok".into())
}

async fn table_of(cluster: &TestCluster, name: &str) -> Result<Arc<TableDescriptor>> {
    let image = cluster.catalog.refresh("postgres").await?;
    image.table("public", name).cloned().ok_or_else(|| SqlError::internal("@ of what table?"))
}

async fn inspected(cluster: &TestCluster, tables: impl Iterator<Item = &str>) -> Result<String> {
    let tables = tables.map(str::to_owned).collect();
    let options = Options { bytes_per_second: 64 << 20, tables };
    let (steps, mut taken) = tokio::sync::mpsc::channel(1);
    let mut out = Vec::new();
    let (ended, ()) = futures::join!(inspect(&cluster.catalog, &options, steps), async {
        while let Some(step) = taken.recv().await {
            let Step::Done(report) = step else { continue };
            let Report { database, schema, table, rows, entries, constraints, found, .. } = &report;
            out.push(format!(
                "{database}.{schema}.{table}: {rows} rows, {entries} entries, {constraints} constraints, {found} findings{}{}",
                if report.gone { ", gone" } else { "" },
                report.trouble.as_ref().map(|trouble| format!(", {trouble}")).unwrap_or_default(),
            ));
            let finding = |Finding { kind, constraint, text }: &Finding| {
                let kind = format!("{kind:?}").to_lowercase();
                format!("  {kind} {constraint}: {text}")
            };
            out.extend(report.findings.iter().map(finding));
        }
    });
    // Row ids are different each time.
    ended.map(|()| out.iter().map(|line| masked(line)).collect::<Vec<_>>().join("\n"))
}

fn masked(line: &str) -> String {
    let is_id = |word: &str| word.len() > 36 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let masked = |word| if is_id(str::trim_end_matches(word, ',')) { "…" } else { word };
    line.split(' ').map(masked).collect::<Vec<_>>().join(" ")
}

async fn commit(open: &TestTransaction) -> Result<()> {
    let result = open.transaction.commit().await;
    open.catalog.committed();
    result.map(|_| ()).map_err(|error| key::explain(error, &open.catalog.image()))
}

async fn run(open: &TestTransaction, bindable: &Bindable, alone: bool, data: &str) -> Result<String> {
    let bound = bind::bind(bindable, &*open.view(), bind::ParamTypes::Fixed(&[]), &eval_context())?;
    let ctx = open.context(alone, Vec::new());
    if let Statement::CopyFrom(copy) = &bound.statement {
        let mut sink = exec::copy_from(copy, ctx).await?;
        for piece in data.as_bytes().chunks(7) {
            sink.push(piece).await?;
        }
        return Ok(format!("COPY {}", sink.finish().await?));
    }
    if let Statement::CopyTo(copy) = &bound.statement {
        let mut source = exec::copy_to(copy, ctx).await?;
        let mut out = String::new();
        while let Some((lines, _)) = source.next().await? {
            out.push_str(&String::from_utf8_lossy(&lines));
        }
        return Ok(out.trim_end().to_owned());
    }
    match exec::execute(&bound.statement, ctx).await? {
        Outcome::Done { tag, notices } => {
            let mut out: Vec<String> = notices.into_iter().map(|n| format!("NOTICE: {n}")).collect();
            out.push(tag);
            Ok(out.join("\n"))
        }
        Outcome::Rows { columns, rows, tag } => {
            let rows = collect(rows).await?;
            let zone = TimeZone::default();
            let mut out: Vec<String> = Vec::new();
            for row in &rows {
                let show = |(datum, column): (&Datum, &crate::ir::OutputColumn)| match datum {
                    Datum::Null => "NULL".to_owned(),
                    datum => io::format(datum, column.ty, &zone).into_owned(),
                };
                out.push(row.iter().zip(&columns).map(show).collect::<Vec<_>>().join(" | "));
            }
            out.push(exec::tag(tag, rows.len() as u64));
            Ok(out.join("\n"))
        }
    }
}

macro_rules! scripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let path = concat!("testscripts/sql/", stringify!($name));
            goldenscript::run(&mut Script::new(), path).expect(path);
        }
    )*};
}

scripts! {
    insert_update_delete
    constraints
    foreign_keys
    indexes
    schema_changes
    sharded_tables
    access_paths
    transactions
    copy
    sweeper
    system_views
    inspection
}
