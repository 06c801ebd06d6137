//! The catalogue against PostgreSQL's recorded answers, and against itself.

use std::sync::Arc;

use txn::order::Order;

use super::effect::{Effect, Memo, Step};
use super::{EvalContext, all_functions, all_operators};
use crate::bind::{self, ParsedStatement};
use crate::catalog::{CatalogReader, TableDescriptor};
use crate::error::{Result, SqlState};
use crate::eval::{Env, eval};
use crate::ir::{Expr, Plan, Statement};
use crate::types::{ColumnType, TimeZone, by_name, io};

/// A database without tables.
struct Empty;

impl CatalogReader for Empty {
    fn table(&self, _: Option<&str>, _: &str) -> Option<Arc<TableDescriptor>> {
        None
    }
    fn has_schema(&self, name: &str) -> bool {
        name == "public"
    }
    fn virtual_table(&self, _: Option<&str>, _: &str) -> Option<(String, Vec<(String, ColumnType)>)> {
        None
    }
    fn database(&self) -> &str {
        "db"
    }
    fn search_path(&self) -> &[String] {
        &[]
    }
}

fn context() -> EvalContext {
    EvalContext {
        transaction_time: 762_000_000_000_000,
        statement_time: 762_000_000_000_000,
        time_zone: TimeZone::by_name("America/New_York").expect("a zone"),
        user: "u".into(),
        database: "db".into(),
        schema: "public".into(),
        pid: 1,
        performer: None,
        seams: txn::seam::Seams::real(),
    }
}

/// The one expression of a plan without FROM.
fn expression(plan: Plan) -> Expr {
    match plan {
        Plan::Project { exprs, .. } => exprs.into_iter().next().expect("a column"),
        Plan::Values { rows, .. } => rows.into_iter().flatten().next().expect("a column"),
        other => panic!("not a plain SELECT: {other:?}"),
    }
}

fn answer(text: &str, ctx: &EvalContext) -> Result<String> {
    let mut statements = bind::parse(&format!("SELECT {text}"))?;
    let ParsedStatement::Bindable(statement) = statements.remove(0) else { panic!("not a query") };
    let bound = bind::bind(&statement, &Empty, bind::ParamTypes::Fixed(&[]), ctx)?;
    let Statement::Query(plan) = bound.statement else { panic!("not a query") };
    let expr = expression(plan);
    let value = eval(&expr, &[], &Env { ctx, params: &[], outer: &[] })?;
    if value.is_null() {
        return Ok("NULL".into());
    }
    let shown = io::format(&value, expr.ty(), &ctx.time_zone);
    Ok(shown.replace('\\', "\\\\").replace('\n', "\\n"))
}

/// Runs a script of alternating questions and answers, and lists where they differ.
fn compare(script: &str, answer: impl Fn(&str) -> Result<String>) {
    let mut lines = script.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut wrong = Vec::new();
    let mut count = 0;
    while let (Some(question), Some(expected)) = (lines.next(), lines.next()) {
        count += 1;
        let found = match answer(question) {
            Ok(value) => format!("= {value}"),
            Err(error) => format!("! {}: {}", error.state.0, error.message),
        };
        if found.trim() != expected.trim() {
            wrong.push(format!(
                "{question}\n    expected {}\n    found    {}",
                expected.trim(),
                found.trim()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// `testdata/expressions.txt` says how it is written.
#[test]
fn expressions_answer_as_postgresql() {
    let ctx = context();
    compare(include_str!("../../testdata/expressions.txt"), |text| answer(text, &ctx));
}

/// An aggregate over values, given as `name type: value; value`.
fn aggregate_answer(question: &str, ctx: &EvalContext) -> Result<String> {
    let (head, values) = question.split_once(':').expect("a colon");
    let (name, ty) = head.split_once(' ').expect("an aggregate and a type");
    let ty = by_name(ty, &[])?.expect("a type");
    let resolved = super::resolve::aggregate(name, &[ty.ty])?;
    let mut state = (resolved.function.new)();
    for text in values.split(';').map(str::trim).filter(|text| !text.is_empty()) {
        if text != "null" {
            state.update(&[io::parse(text, ty, ctx)?])?;
        }
    }
    let value = state.finish()?;
    if value.is_null() {
        return Ok("NULL".into());
    }
    Ok(io::format_plain(&value, &ctx.time_zone).into_owned())
}

#[test]
fn aggregates_answer_as_postgresql() {
    let ctx = context();
    compare(include_str!("../../testdata/aggregates.txt"), |text| aggregate_answer(text, &ctx));
}

/// What a call of one of the operators' functions wants done.
fn order(text: &str) -> Order {
    let ctx = context();
    let mut statements = bind::parse(&format!("SELECT {text}")).expect("a statement");
    let ParsedStatement::Bindable(statement) = statements.remove(0) else { panic!("not a query") };
    let bound = bind::bind(&statement, &Empty, bind::ParamTypes::Fixed(&[]), &ctx).expect(text);
    let Statement::Query(plan) = bound.statement else { panic!("not a query") };
    let expr = expression(plan);
    match Memo::default().step(|| eval(&expr, &[], &Env { ctx: &ctx, params: &[], outer: &[] })) {
        Step::Wants(Effect::Order(order)) => order,
        _ => panic!("{text} wants nothing done"),
    }
}

#[test]
fn operators_functions_take_names_and_numbers() {
    let shard = || "3".to_owned();
    let moved = Order::Move { shard: "g3".into(), from: "n1".into(), to: "127.0.0.1:7402".into() };
    assert_eq!(order("flotilla.move('g3', 'n1', '127.0.0.1:7402')"), moved);
    let moved = Order::Move { shard: shard(), from: "1".into(), to: "2".into() };
    assert_eq!(order("flotilla.move(3, 1, 2)"), moved);
    let key = Some(bytes::Bytes::from_static(b"\x00\x02"));
    assert_eq!(order("flotilla.split(3)"), Order::Split { shard: shard(), key: None });
    assert_eq!(order("flotilla.split('3', '\\x0002')"), Order::Split { shard: shard(), key: key.clone() });
    assert_eq!(order("flotilla.split(3, '\\x0002'::bytea)"), Order::Split { shard: shard(), key });
    let kept = Order::Decommission { node: "n4".into(), force: false };
    assert_eq!(order("flotilla.decommission('n4')"), kept);
    assert_eq!(
        order("flotilla.decommission(4, true)"),
        Order::Decommission { node: "4".into(), force: true }
    );
    assert_eq!(order("flotilla.repair()"), Order::Repair { node: None });
    assert_eq!(order("flotilla.repair(2)"), Order::Repair { node: Some("2".into()) });
    let to = Some("n5".to_owned());
    assert_eq!(order("flotilla.meta_remove('n1', 'n5')"), Order::MetaRemove { node: "n1".into(), to });
    let reset = Order::Set { name: "rebalance".into(), value: None };
    assert_eq!(order("flotilla.reset_setting('rebalance')"), reset);
}

#[test]
fn operators_functions_are_found_in_their_schema_only() {
    let ctx = context();
    for text in ["drain('n1')", "pg_catalog.drain('n1')"] {
        assert_eq!(answer(text, &ctx).expect_err(text).state, SqlState::UNDEFINED_FUNCTION, "{text}");
    }
}

#[test]
fn operators_functions_stand_in_the_outermost_select_list_only() {
    let ctx = context();
    let bound = |text: &str| {
        let mut statements = bind::parse(text).expect(text);
        let ParsedStatement::Bindable(statement) = statements.remove(0) else { panic!("{text}") };
        bind::bind(&statement, &Empty, bind::ParamTypes::Fixed(&[]), &ctx).map(|bound| bound.statement)
    };
    for text in [
        "SELECT flotilla.drain('n1')",
        "SELECT upper(flotilla.drain(n)) FROM (SELECT 1 AS n UNION SELECT 2) s ORDER BY n LIMIT 1",
        "WITH s AS (SELECT 1 AS n) SELECT flotilla.drain(n) FROM s",
    ] {
        assert!(matches!(bound(text), Ok(Statement::Query(plan)) if plan.has_order()), "{text}");
    }
    assert!(matches!(bound("SELECT pg_sleep(1)"), Ok(Statement::Query(plan)) if !plan.has_order()));
    for text in [
        "SELECT 1 WHERE flotilla.drain('n1') = ''",
        "SELECT 1 ORDER BY flotilla.drain('n1')",
        "SELECT max(flotilla.drain('n1'))",
        "SELECT (SELECT flotilla.drain('n1'))",
        "SELECT * FROM (SELECT flotilla.drain('n1')) s",
        "SELECT * FROM flotilla.drain('n1')",
        "WITH s AS (SELECT flotilla.drain('n1')) SELECT * FROM s",
        "SELECT flotilla.drain('n1') UNION SELECT ''",
        "VALUES (flotilla.drain('n1'))",
        "COPY (SELECT flotilla.drain('n1')) TO STDOUT",
        "CREATE TABLE public.t AS SELECT flotilla.drain('n1')",
        "CREATE TABLE public.t (a text DEFAULT flotilla.drain('n1'))",
        "CREATE TABLE public.t (a text CHECK (a = flotilla.drain('n1')))",
    ] {
        let refused = bound(text).map(|_| ()).expect_err(text);
        assert_eq!(refused.state, SqlState::FEATURE_NOT_SUPPORTED, "{text}: {refused:?}");
        assert!(refused.message.contains("an operator's function"), "{text}: {refused:?}");
    }
}

/// Two functions of one name with the same arguments would make a call ambiguous for ever.
#[test]
fn overloads_are_distinct() {
    for list in [all_functions().collect::<Vec<_>>(), all_operators().collect()] {
        for (i, f) in list.iter().enumerate() {
            let twin = list[..i].iter().find(|g| {
                g.name == f.name && g.args == f.args && g.variadic.is_some() == f.variadic.is_some()
            });
            assert!(twin.is_none(), "{}({:?}) is registered twice", f.name, f.args);
        }
    }
}
