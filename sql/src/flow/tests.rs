//! Queries against the answers of a PostgreSQL 15, which `testscripts/flow/record` wrote down.

use std::sync::Arc;

use crate::bind;
use crate::exec::{self, Outcome};
use crate::ir::Statement;
use crate::testing::{TestCluster, TestTransaction, collect, eval_context};
use crate::types::{Datum, TimeZone, io};
use crate::{Result, SqlError};

const SETUP: &str = include_str!("../../testscripts/flow/setup.sql");

async fn bound(sql: &str, on: &TestTransaction) -> Result<Statement> {
    let parsed = bind::parse(sql)?.pop();
    let Some(bind::ParsedStatement::Bindable(statement)) = parsed else {
        return Err(SqlError::internal("nothing to bind"));
    };
    Ok(bind::bind(&statement, &*on.view(), bind::ParamTypes::Fixed(&[]), &eval_context())?.statement)
}

/// The tables, each in one shard or spread over several: then operators have several partitions.
async fn set_up(spread: bool) -> TestTransaction {
    let cluster = TestCluster::new().await;
    let on = cluster.begin().await;
    for sql in SETUP.split(';').map(str::trim).filter(|sql| !sql.is_empty()) {
        let spread = match sql {
            create if !spread || !create.starts_with("CREATE") => "",
            keyed if keyed.contains("PRIMARY KEY") => " WITH (sharding = 'hash', shards = 4)",
            _ => " WITH (sharding = 'round_robin', shards = 3)",
        };
        let sql = &format!("{sql}{spread}");
        let statement = bound(sql, &on).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        match exec::execute(&statement, on.context(false, Vec::new())).await {
            Ok(Outcome::Done { .. }) => {}
            Ok(Outcome::Rows { rows, .. }) => drop(collect(rows).await),
            Err(e) => panic!("{sql}: {e}"),
        }
    }
    on
}

async fn answer(sql: &str, on: &TestTransaction) -> Result<String> {
    let Statement::Query(plan) = bound(sql, on).await? else {
        return Err(SqlError::internal("not a query"));
    };
    let types: Vec<_> = plan.columns().iter().map(|c| c.ty).collect();
    let rows = collect(super::run(&plan, on.context(false, Vec::new())).await?).await?;
    let zone = TimeZone::default();
    let lines = rows.iter().map(|row| {
        let values = row.iter().zip(&types).map(|(datum, ty)| match datum {
            Datum::Null => "NULL".to_owned(),
            datum => io::format(datum, *ty, &zone).into_owned(),
        });
        values.collect::<Vec<_>>().join("|")
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Runs the queries of one script; all differences are told at once.
async fn script(recorded: &str, spread: bool) {
    let on = set_up(spread).await;
    let mut wrong = Vec::new();
    for case in recorded.split("\n> ") {
        let case = case.trim_start_matches("> ");
        let (sql, expected) = case.split_once('\n').unwrap_or((case, ""));
        let actual = match answer(sql.trim_end_matches(';'), &on).await {
            Ok(rows) => rows,
            Err(e) if e.state.0 == "XX000" || e.state.0 == "0A000" => format!("error {e}"),
            Err(e) => format!("error {}", e.state.0),
        };
        if actual.trim_end() != expected.trim_end() {
            wrong.push(format!(
                "{sql} (spread: {spread})\nexpected:\n{}\nbut got:\n{actual}\n",
                expected.trim_end()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n\n{}", wrong.len(), wrong.join("\n"));
}

/// Runs a script from elsewhere, e.g. random queries whose answers were recorded just now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants FLOW_SCRIPT, the path of a recorded script"]
async fn recorded_elsewhere() {
    let path = std::env::var("FLOW_SCRIPT").expect("FLOW_SCRIPT");
    let recorded = std::fs::read_to_string(path).expect("readable");
    script(&recorded, false).await;
    script(&recorded, true).await;
}

/// A statement that would hold more than it may fails, and says so.
#[tokio::test]
async fn memory_exhausted_fails_the_statement() {
    let on = set_up(false).await;
    for sql in [
        "SELECT x FROM generate_series(1, 10000000) g(x) ORDER BY x DESC",
        "SELECT x, count(*) FROM generate_series(1, 10000000) g(x) GROUP BY x",
        "SELECT DISTINCT x FROM generate_series(1, 10000000) g(x)",
        "SELECT count(*) FROM emp e JOIN generate_series(1, 10000000) g(x) ON e.id = g.x",
        "SELECT row_number() OVER () FROM generate_series(1, 10000000) g(x)",
        "SELECT id FROM emp WHERE id NOT IN (SELECT x FROM generate_series(1, 10000000) g(x))",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION SELECT n + 1 FROM t) SELECT count(*) FROM t",
    ] {
        let Ok(Statement::Query(plan)) = bound(sql, &on).await else { panic!("{sql}") };
        let mut ctx = on.context(false, Vec::new());
        let limited = Arc::get_mut(&mut ctx).expect("nobody else has it");
        limited.memory_bytes_max = 1 << 20;
        let rows = match super::run(&plan, ctx).await {
            Ok(rows) => collect(rows).await,
            Err(error) => Err(error),
        };
        assert_eq!(rows.map(|rows| rows.len()).map_err(|e| e.state.0), Err("53200"), "{sql}");
    }
}

/// A canceled statement ends, whatever it is doing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_ends_the_statement() {
    let on = set_up(false).await;
    for sql in [
        "SELECT count(*) FROM generate_series(1, 1000000000000) g(x)",
        "SELECT count(*) FROM generate_series(1, 1000000) g(x), generate_series(1, 1000000) h(y) WHERE x + y < 0",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n FROM t) SELECT count(*) FROM t",
        "SELECT count(*) FROM generate_series(1, 1000000) g(x) WHERE x = (SELECT count(*) FROM emp WHERE id < x)",
    ] {
        let Ok(Statement::Query(plan)) = bound(sql, &on).await else { panic!("{sql}") };
        let ctx = on.context(false, Vec::new());
        let cancel = ctx.cancel.clone();
        #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
        let running = tokio::spawn(async move { collect(super::run(&plan, ctx).await?).await });
        tokio::task::yield_now().await;
        cancel.cancel();
        let ended = running.await.expect("no panic");
        assert_eq!(ended.map(|rows| rows.len()).map_err(|e| e.state.0), Err("57014"), "{sql}");
    }
}

macro_rules! scripts {
    ($($name:ident),*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let recorded = include_str!(concat!("../../testscripts/flow/", stringify!($name), ".out"));
            script(recorded, false).await;
            script(recorded, true).await;
        }
    )*};
}

scripts!(joins, aggregates, windows, set_ops, subqueries, recursive);
