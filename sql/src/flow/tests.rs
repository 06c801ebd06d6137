//! Queries against the answers of a PostgreSQL 15, which `testscripts/flow/record` wrote down.

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
    Ok(bind::bind(&statement, &*on.view(), &[], &eval_context())?.statement)
}

async fn set_up() -> TestTransaction {
    let cluster = TestCluster::new().await;
    let on = cluster.begin().await;
    for sql in SETUP.split(';').map(str::trim).filter(|sql| !sql.is_empty()) {
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
async fn script(recorded: &str) {
    let on = set_up().await;
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
            wrong.push(format!("{sql}\nexpected:\n{}\nbut got:\n{actual}\n", expected.trim_end()));
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n\n{}", wrong.len(), wrong.join("\n"));
}

macro_rules! scripts {
    ($($name:ident),*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            script(include_str!(concat!("../../testscripts/flow/", stringify!($name), ".out"))).await;
        }
    )*};
}

scripts!(joins, aggregates, windows, set_ops, subqueries, recursive);
