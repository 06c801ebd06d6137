//! Golden scripts: SQL against the plan or the error that comes of it.
//!
//! ```text
//! > select a from t             the plan, then the parameters' types where there are any
//! int4_text: > …                with declared parameter types
//! columns: > select …           the output columns' names, types and origins
//! parse: > begin; set x = 1     what the session is given
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;

use super::*;
use crate::catalog::{CheckConstraint, ColumnDescriptor, PrimaryKey};
use crate::ir::Sharding;
use crate::types::{TimeZone, format_type};

/// A catalog of a few tables.
struct Tables {
    tables: BTreeMap<String, Arc<TableDescriptor>>,
    path: Vec<String>,
}

fn table(
    id: u32,
    name: &str,
    columns: &[(&str, ColumnType, bool, Option<&str>)],
    key: &[usize],
) -> TableDescriptor {
    TableDescriptor {
        id,
        database: 2,
        schema: "public".into(),
        name: name.into(),
        version: 1,
        columns: columns
            .iter()
            .enumerate()
            .map(|(i, (name, ty, not_null, default))| ColumnDescriptor {
                id: i as u32 + 1,
                name: (*name).into(),
                ty: *ty,
                not_null: *not_null,
                default: default.map(Into::into),
                missing: None,
            })
            .collect(),
        storage_id: id,
        primary_key: (!key.is_empty())
            .then(|| PrimaryKey { name: format!("{name}_pkey"), columns: key.to_vec() }),
        unique: Vec::new(),
        checks: Vec::<CheckConstraint>::new(),
        foreign_keys: Vec::new(),
        sharding: Sharding::Range,
        placement: Default::default(),
        next_column_id: columns.len() as u32 + 1,
    }
}

impl Tables {
    fn new() -> Self {
        let of = ColumnType::plain;
        let varchar = ColumnType { ty: Type::Varchar, typmod: 14 };
        let numeric = ColumnType { ty: Type::Numeric, typmod: (8 << 16 | 2) + 4 };
        let tables = [
            table(
                101,
                "t",
                &[
                    ("a", of(Type::Int4), true, None),
                    ("b", of(Type::Text), false, Some("'none'")),
                    ("c", of(Type::Float8), false, None),
                ],
                &[0],
            ),
            table(
                102,
                "u",
                &[
                    ("a", of(Type::Int8), false, None),
                    ("d", varchar, false, None),
                    ("e", numeric, false, Some("1 + 1")),
                    ("ts", of(Type::Timestamp), false, None),
                ],
                &[],
            ),
            table(
                103,
                "pair",
                &[
                    ("x", of(Type::Int4), true, None),
                    ("y", of(Type::Int4), true, None),
                    ("z", of(Type::Text), false, None),
                ],
                &[0, 1],
            ),
        ];
        Self {
            tables: tables.into_iter().map(|t| (t.name.clone(), Arc::new(t))).collect(),
            path: vec!["public".into()],
        }
    }
}

impl CatalogReader for Tables {
    fn table(&self, schema: Option<&str>, name: &str) -> Option<Arc<TableDescriptor>> {
        self.tables.get(name).filter(|_| schema.is_none_or(|s| s == "public")).cloned()
    }

    fn indexed_by(&self, schema: Option<&str>, name: &str) -> Vec<Arc<TableDescriptor>> {
        let here = schema.is_none_or(|s| s == "public");
        let tables = self.tables.values().filter(|t| here && t.keys().any(|key| key.name == name));
        tables.cloned().collect()
    }

    fn has_schema(&self, name: &str) -> bool {
        matches!(name, "public" | "pg_catalog" | "information_schema")
    }

    fn virtual_table(&self, schema: Option<&str>, name: &str) -> Option<(String, Vec<(String, ColumnType)>)> {
        let here = schema.is_none_or(|s| s == "pg_catalog") && name == "pg_class";
        here.then(|| {
            let columns = vec![
                ("oid".to_owned(), ColumnType::plain(Type::Oid)),
                ("relname".to_owned(), ColumnType::plain(Type::Name)),
            ];
            ("pg_catalog".to_owned(), columns)
        })
    }

    fn database(&self) -> &str {
        "db"
    }

    fn search_path(&self) -> &[String] {
        &self.path
    }
}

pub(super) fn eval_context() -> EvalContext {
    EvalContext {
        transaction_time: 0,
        statement_time: 0,
        time_zone: TimeZone::default(),
        user: "user".into(),
        database: "db".into(),
        schema: "public".into(),
        pid: 1,
        performer: None,
        seams: txn::seam::Seams::real(),
    }
}

struct Runner {
    tables: Tables,
    eval: EvalContext,
}

fn error_text(e: &SqlError) -> String {
    let mut out = format!("ERROR {} {}", e.state.0, e.message);
    if let Some(p) = e.position {
        let _ = write!(out, " @{p}");
    }
    if let Some(detail) = &e.detail {
        let _ = write!(out, "\n  detail: {detail}");
    }
    if let Some(hint) = &e.hint {
        let _ = write!(out, "\n  hint: {hint}");
    }
    out.push('\n');
    out
}

impl Runner {
    fn bound(&self, sql: &str, types: &[Type]) -> Result<Vec<Bound>> {
        parse(sql)?
            .iter()
            .map(|statement| match statement {
                ParsedStatement::Bindable(bindable) => {
                    bind(bindable, &self.tables, ParamTypes::Inferred(types), &self.eval)
                }
                _ => Err(SqlError::internal("not bindable")),
            })
            .collect()
    }
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        context: &goldenscript::Context,
    ) -> std::result::Result<String, Box<dyn Error>> {
        let mode = context.prefix.as_deref().unwrap_or_default();
        let sql = &command.name;
        let types: Vec<Type> = mode
            .split('_')
            .filter_map(|t| crate::types::by_name(t, &[]).ok().flatten())
            .map(|t| t.ty)
            .collect();
        let mut out = String::new();
        match mode {
            "columns" => match self.bound(sql, &types) {
                Err(e) => out = error_text(&e),
                Ok(all) => {
                    for column in all.iter().flat_map(|b| b.statement.columns().unwrap_or_default()) {
                        writeln!(out, "{} {} {:?}", column.name, format_type(column.ty), column.origin)?;
                    }
                }
            },
            "parse" => match parse(sql) {
                Err(e) => out = error_text(&e),
                Ok(all) => {
                    for statement in all {
                        match statement {
                            ParsedStatement::Bindable(b) => writeln!(out, "Bindable [{}]", b.text())?,
                            ParsedStatement::Utility(Utility::Prepare { name, types, statement }) => {
                                writeln!(out, "Prepare {name} {types:?} [{}]", statement.text())?;
                            }
                            ParsedStatement::Utility(Utility::Declare { name, query, hold, .. }) => {
                                writeln!(out, "Declare {name} hold={hold} [{}]", query.text())?;
                            }
                            ParsedStatement::Utility(Utility::Execute { name, arguments }) => {
                                writeln!(out, "Execute {name} of {}", arguments.exprs.len())?;
                            }
                            other => writeln!(out, "{other:?}")?,
                        }
                    }
                }
            },
            _ => match self.bound(sql, &types) {
                Err(e) => out = error_text(&e),
                Ok(all) => {
                    for bound in all {
                        out.push_str(&bound.statement.explain());
                        if !bound.params.is_empty() {
                            let types: Vec<&str> = bound.params.iter().map(|t| t.name()).collect();
                            writeln!(out, "params: {}", types.join(", "))?;
                        }
                    }
                }
            },
        }
        Ok(out)
    }
}

#[test]
fn scripts() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bind/testscripts");
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(!names.is_empty(), "scripts in {dir}");
    for path in names {
        let mut runner = Runner { tables: Tables::new(), eval: eval_context() };
        goldenscript::run(&mut runner, &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// However a statement nests or chains, it is bound or refused, on the stack of a worker thread.
#[test]
fn deep_statements_are_refused_not_overflown() {
    let runner = Runner { tables: Tables::new(), eval: eval_context() };
    let n = 10_000;
    let refused = [
        format!("select {}1{}", "(".repeat(n), ")".repeat(n)),
        format!("select 1{}", " + 1".repeat(n)),
        format!("select {}1", "- ".repeat(n)),
        format!("select {}true", "not ".repeat(n)),
        format!("select 1{}", " union select 1".repeat(n)),
        format!("select {}1{}", "case when true then ".repeat(n), " end".repeat(n)),
        format!("select * from {}t{}", "(select * from ".repeat(n), ") x".repeat(n)),
        format!("select 1{}", "::int".repeat(n)),
    ];
    for sql in refused {
        let error = runner.bound(&sql, &[]).err();
        let state = error.as_ref().map(|e| e.state);
        assert!(
            matches!(state, Some(SqlState::STATEMENT_TOO_COMPLEX | SqlState::SYNTAX_ERROR)),
            "{error:?} for {}",
            &sql[..40]
        );
    }
    let chained = format!("select 1 from t where a = 1{}", " or a = 2".repeat(5000));
    assert!(runner.bound(&chained, &[]).is_ok());
    let listed = format!("select 1 from t where a in (1{})", ", 2".repeat(50_000));
    assert!(runner.bound(&listed, &[]).is_ok());
}
