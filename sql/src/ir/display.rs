//! The representation as text: what EXPLAIN shows and golden scripts compare.
//!
//! One node a line, inputs indented below it. `name#2` is column 2 of the node's input; with as many `^` in front as
//! there are subqueries between.

use std::fmt::Write;

use super::{
    AggregateCall, CallKind, Ddl, Expr, FrameBound, FrameUnits, JoinKind, NewForeignKey, OnConflict,
    OutputColumn, Plan, Returning, Rivals, SetOp, SortKey, Statement, SubqueryKind, WindowCall,
    WindowFunctionRef,
};
use crate::bind::shown_lock;
use crate::types::{ColumnType, Datum, TimeZone, Type, format_type, io};

impl Statement {
    /// The statement as an indented tree.
    pub fn explain(&self) -> String {
        let mut text = Text { out: String::new(), rows: Vec::new() };
        text.statement(self, 0);
        text.out
    }
}

impl Plan {
    /// The plan as an indented tree.
    pub fn explain(&self) -> String {
        let mut text = Text { out: String::new(), rows: Vec::new() };
        text.plan(self, 0);
        text.out
    }
}

struct Text {
    out: String,
    /// The rows of the queries around, innermost last.
    rows: Vec<Vec<String>>,
}

fn names(columns: &[OutputColumn]) -> Vec<String> {
    columns.iter().map(|c| c.name.clone()).collect()
}

impl Text {
    fn line(&mut self, depth: usize, line: &str) {
        for _ in 0..depth {
            self.out.push_str("  ");
        }
        self.out.push_str(line);
        self.out.push('\n');
    }

    fn statement(&mut self, statement: &Statement, depth: usize) {
        match statement {
            Statement::Query(plan) | Statement::QueryLocked { plan, .. } => self.plan(plan, depth),
            Statement::SelectLocked(select) => {
                self.line(
                    depth,
                    &format!("Lock {} {:?} {:?}", select.table.name, select.mode, select.rivals),
                );
                self.plan(&select.source, depth + 1);
            }
            Statement::Insert(insert) => {
                self.line(depth, &format!("Insert {}", insert.table.name));
                let row: Vec<String> = insert.table.columns.iter().map(|c| c.name.clone()).collect();
                if insert.arbiters.iter().any(|&at| at > 0) {
                    self.line(depth + 1, &format!("arbiters {:?}", insert.arbiters));
                }
                match &insert.on_conflict {
                    None => {}
                    Some(OnConflict::Nothing) => self.line(depth + 1, "on conflict do nothing"),
                    Some(OnConflict::Update { assignments, filter }) => {
                        let mut both = row.clone();
                        both.extend(row.iter().map(|name| format!("excluded.{name}")));
                        let sets: Vec<String> = assignments
                            .iter()
                            .map(|(i, expr)| format!("{} = {}", row[*i], self.expr(expr, &both, depth)))
                            .collect();
                        let mut line = format!("on conflict do update set {}", sets.join(", "));
                        if let Some(filter) = filter {
                            let _ = write!(line, " where {}", self.expr(filter, &both, depth));
                        }
                        self.line(depth + 1, &line);
                    }
                }
                self.returning(insert.returning.as_ref(), row, depth);
                self.plan(&insert.source, depth + 1);
            }
            Statement::Update(update) => {
                let columns: Vec<&str> =
                    update.assigned.iter().map(|i| update.table.columns[*i].name.as_str()).collect();
                self.line(depth, &format!("Update {} set {}", update.table.name, columns.join(", ")));
                let mut row: Vec<String> = update.table.columns.iter().map(|c| c.name.clone()).collect();
                let skipped = row.len() + 1 + update.assigned.len();
                row.extend(update.source.columns().iter().skip(skipped).map(|c| c.name.clone()));
                self.returning(update.returning.as_ref(), row, depth);
                self.plan(&update.source, depth + 1);
            }
            Statement::Delete(delete) => {
                self.line(depth, &format!("Delete {}", delete.table.name));
                let mut row: Vec<String> = delete.table.columns.iter().map(|c| c.name.clone()).collect();
                let skipped = row.len() + 1;
                row.extend(delete.source.columns().iter().skip(skipped).map(|c| c.name.clone()));
                self.returning(delete.returning.as_ref(), row, depth);
                self.plan(&delete.source, depth + 1);
            }
            Statement::CopyFrom(copy) => {
                let columns: Vec<&str> =
                    copy.columns.iter().map(|i| copy.table.columns[*i].name.as_str()).collect();
                let defaults: Vec<String> = copy
                    .defaults
                    .iter()
                    .map(|(i, e)| format!("{} = {}", copy.table.columns[*i].name, self.expr(e, &[], depth)))
                    .collect();
                let mut line =
                    format!("CopyFrom {} ({}) {:?}", copy.table.name, columns.join(", "), copy.options);
                if !defaults.is_empty() {
                    let _ = write!(line, " defaults {}", defaults.join(", "));
                }
                self.line(depth, &line);
            }
            Statement::CopyTo(copy) => {
                self.line(depth, &format!("CopyTo {:?}", copy.options));
                self.plan(&copy.source, depth + 1);
            }
            Statement::Explain { statement, analyze } => {
                self.line(depth, if *analyze { "Explain analyze" } else { "Explain" });
                self.statement(statement, depth + 1);
            }
            Statement::Ddl(ddl) => self.ddl(ddl, depth),
        }
    }

    fn returning(&mut self, returning: Option<&Returning>, row: Vec<String>, depth: usize) {
        if let Some(Returning { exprs, columns }) = returning {
            let list = self.named(exprs, columns, &row, depth);
            self.line(depth + 1, &format!("returning {list}"));
        }
    }

    fn foreign_key(&mut self, depth: usize, what: &str, key: &NewForeignKey) {
        let parent = key.parent.as_ref().map_or("itself", |parent| parent.name.as_str());
        let full = if key.full { " match full" } else { "" };
        let line = format!(
            "{what} {} {:?} to {parent} {:?}{full} on delete {:?} on update {:?}",
            key.name, key.columns, key.parent_columns, key.on_delete, key.on_update
        );
        self.line(depth, &line);
    }

    fn ddl(&mut self, ddl: &Ddl, depth: usize) {
        match ddl {
            Ddl::CreateTable {
                schema,
                name,
                if_not_exists,
                columns,
                primary_key,
                unique,
                checks,
                foreign_keys,
                sharding,
                placement,
                source,
            } => {
                let exists = if *if_not_exists { " if not exists" } else { "" };
                self.line(depth, &format!("CreateTable {schema}.{name}{exists} {sharding:?}"));
                if !placement.is_default() {
                    self.line(depth + 1, &format!("{placement:?}"));
                }
                let row: Vec<String> = columns.iter().map(|c| c.name.clone()).collect();
                for column in columns {
                    let mut line = format!("{} {}", column.name, format_type(column.ty));
                    if column.not_null {
                        line.push_str(" not null");
                    }
                    if let Some((text, expr)) = &column.default {
                        let _ = write!(line, " default [{text}] {}", self.expr(expr, &[], depth));
                    }
                    self.line(depth + 1, &line);
                }
                if let Some((key, name)) = primary_key {
                    self.line(depth + 1, &format!("primary key {name} {key:?}"));
                }
                for (key, name) in unique {
                    self.line(depth + 1, &format!("unique {name} {key:?}"));
                }
                for (name, text, expr) in checks {
                    let expr = self.expr(expr, &row, depth);
                    self.line(depth + 1, &format!("check {name} [{text}] {expr}"));
                }
                for key in foreign_keys {
                    self.foreign_key(depth + 1, "foreign key", key);
                }
                if let Some(source) = source {
                    self.plan(source, depth + 1);
                }
            }
            Ddl::AddUnique { table, columns, name, index_only } => {
                let what = if *index_only { "AddUniqueIndex" } else { "AddUnique" };
                self.line(depth, &format!("{what} {} {name} {columns:?}", table.name));
            }
            Ddl::DropUnique { table, at, tag: _, cascade: _ } => {
                self.line(depth, &format!("DropUnique {} {}", table.name, table.unique[*at].name));
            }
            Ddl::SplitAt { table, points } => {
                let points: Vec<String> =
                    points.iter().map(|point| format!("({})", self.list(point, &[], depth))).collect();
                self.line(depth, &format!("SplitAt {} {}", table.name, points.join(", ")));
            }
            Ddl::SetPlacement { table, placement } => {
                self.line(depth, &format!("SetPlacement {} {placement:?}", table.name));
            }
            Ddl::AddForeignKey { table, key } => {
                self.foreign_key(depth, &format!("AddForeignKey {}", table.name), key);
            }
            Ddl::DropForeignKey(key) => {
                self.line(depth, &format!("DropForeignKey {} {}", key.table.name, key.name));
            }
            Ddl::DropTable { tables, cascade: _ } | Ddl::Truncate { tables, notices: _ } => {
                let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
                let verb = if matches!(ddl, Ddl::Truncate { .. }) { "Truncate" } else { "DropTable" };
                self.line(depth, &format!("{verb} {}", names.join(", ")));
            }
            Ddl::AddPrimaryKey { table, columns, name } => {
                self.line(depth, &format!("AddPrimaryKey {} {columns:?} {name:?}", table.name));
            }
            Ddl::AddColumn { table, column, if_not_exists: _ } => {
                let ty = format_type(column.ty);
                let default = match &column.default {
                    Some((_, expr)) => format!(" default {}", self.expr(expr, &[], depth)),
                    None => String::new(),
                };
                let null = if column.not_null { " not null" } else { "" };
                self.line(depth, &format!("AddColumn {} {} {ty}{null}{default}", table.name, column.name));
            }
            Ddl::DropColumn { table, column, cascade: _ } => {
                self.line(depth, &format!("DropColumn {} {}", table.name, table.columns[*column].name));
            }
            Ddl::RenameColumn { table, column, to } => {
                let from = &table.columns[*column].name;
                self.line(depth, &format!("RenameColumn {} {from} to {to}", table.name));
            }
            Ddl::RenameTable { table, to } => {
                self.line(depth, &format!("RenameTable {} to {to}", table.name))
            }
            Ddl::CreateDatabase { .. }
            | Ddl::DropDatabase { .. }
            | Ddl::CreateSchema { .. }
            | Ddl::DropSchema { .. }
            | Ddl::Nothing { .. } => self.line(depth, &format!("{ddl:?}")),
        }
    }

    fn plan(&mut self, plan: &Plan, depth: usize) {
        match plan {
            Plan::Values { rows, columns } => {
                if columns.is_empty() {
                    return self.line(depth, &format!("Rows {}", rows.len()));
                }
                self.line(depth, &format!("Values [{}]", types(columns)));
                for row in rows {
                    let row = self.list(row, &[], depth + 1);
                    self.line(depth + 1, &format!("({row})"));
                }
            }
            Plan::Scan(scan) => {
                let key = if scan.with_key { " with key" } else { "" };
                let mut line = format!("Scan {}{key}", scan.table.name);
                if !scan.filters.is_empty() {
                    let row = names(&scan.columns);
                    let filters: Vec<String> =
                        scan.filters.iter().map(|f| self.expr(f, &row, depth)).collect();
                    let _ = write!(line, " where {}", filters.join(" and "));
                }
                self.line(depth, &line);
            }
            Plan::VirtualScan { name, columns: _ } => {
                self.line(depth, &format!("VirtualScan {}.{}", name.0, name.1));
            }
            Plan::Series { args, columns } => {
                let args = self.list(args, &[], depth);
                self.line(depth, &format!("Series ({args}) as {}", types(columns)));
            }
            Plan::CteScan { id, columns: _ } => self.line(depth, &format!("CteScan {id}")),
            Plan::With { ctes, body } => {
                self.line(depth, "With");
                for cte in ctes {
                    let kind = match &cte.recursive {
                        None => "",
                        Some((_, true)) => " recursive distinct",
                        Some((_, false)) => " recursive",
                    };
                    self.line(depth + 1, &format!("Cte {} {}{kind}", cte.id, cte.name));
                    self.plan(&cte.plan, depth + 2);
                    if let Some((step, _)) = &cte.recursive {
                        self.plan(step, depth + 2);
                    }
                }
                self.plan(body, depth + 1);
            }
            Plan::Project { input, exprs, columns } => {
                let list = self.named(exprs, columns, &names(input.columns()), depth);
                self.line(depth, &format!("Project {list}"));
                self.plan(input, depth + 1);
            }
            Plan::Filter { input, predicate } => {
                let predicate = self.expr(predicate, &names(input.columns()), depth);
                self.line(depth, &format!("Filter {predicate}"));
                self.plan(input, depth + 1);
            }
            Plan::Join { kind, left, right, on, columns: _ } => {
                let kind = match kind {
                    JoinKind::Inner => "Inner",
                    JoinKind::Left => "Left",
                    JoinKind::Right => "Right",
                    JoinKind::Full => "Full",
                    JoinKind::Semi => "Semi",
                    JoinKind::Anti => "Anti",
                };
                let mut row = names(left.columns());
                row.extend(names(right.columns()));
                let on = match on {
                    Some(on) => format!(" on {}", self.expr(on, &row, depth)),
                    None => String::new(),
                };
                self.line(depth, &format!("Join {kind}{on}"));
                self.plan(left, depth + 1);
                self.plan(right, depth + 1);
            }
            Plan::Aggregate { input, group_by, aggregates, columns: _ } => {
                let row = names(input.columns());
                let keys = self.list(group_by, &row, depth);
                let calls: Vec<String> = aggregates.iter().map(|a| self.aggregate(a, &row, depth)).collect();
                self.line(depth, &format!("Aggregate by [{keys}] [{}]", calls.join(", ")));
                self.plan(input, depth + 1);
            }
            Plan::Window { input, calls, columns: _ } => {
                let row = names(input.columns());
                let calls: Vec<String> = calls.iter().map(|c| self.window(c, &row, depth)).collect();
                self.line(depth, &format!("Window [{}]", calls.join(", ")));
                self.plan(input, depth + 1);
            }
            Plan::Sort { input, keys } => {
                let keys = self.keys(keys, &names(input.columns()), depth);
                self.line(depth, &format!("Sort {keys}"));
                self.plan(input, depth + 1);
            }
            Plan::Limit { input, limit, offset } => {
                let mut line = "Limit".to_owned();
                if let Some(limit) = limit {
                    let _ = write!(line, " {}", self.expr(limit, &[], depth));
                }
                if let Some(offset) = offset {
                    let _ = write!(line, " offset {}", self.expr(offset, &[], depth));
                }
                self.line(depth, &line);
                self.plan(input, depth + 1);
            }
            Plan::LockRows(node) => {
                let targets = node.targets.iter().map(|target| {
                    let rivals = match target.lock.rivals {
                        Rivals::Wait => "",
                        Rivals::Fail => " nowait",
                        Rivals::Skip => " skip locked",
                    };
                    format!("{} {}{rivals}", target.table.name, shown_lock(target.lock.mode))
                });
                let targets: Vec<String> = targets.collect();
                self.line(depth, &format!("LockRows [{}]", targets.join(", ")));
                self.plan(&node.input, depth + 1);
            }
            Plan::Distinct { input } => {
                self.line(depth, "Distinct");
                self.plan(input, depth + 1);
            }
            Plan::DistinctOn { input, keys } => {
                let keys = self.list(keys, &names(input.columns()), depth);
                self.line(depth, &format!("DistinctOn {keys}"));
                self.plan(input, depth + 1);
            }
            Plan::SetOp { op, all, left, right, columns } => {
                let op = match op {
                    SetOp::Union => "Union",
                    SetOp::Intersect => "Intersect",
                    SetOp::Except => "Except",
                };
                let all = if *all { " all" } else { "" };
                self.line(depth, &format!("{op}{all} [{}]", types(columns)));
                self.plan(left, depth + 1);
                self.plan(right, depth + 1);
            }
        }
    }

    fn named(&mut self, exprs: &[Expr], columns: &[OutputColumn], row: &[String], depth: usize) -> String {
        let list: Vec<String> = exprs
            .iter()
            .zip(columns)
            .map(|(expr, column)| match expr {
                Expr::Column(i, _) if row.get(*i) == Some(&column.name) => self.expr(expr, row, depth),
                _ => format!("{} as {}", self.expr(expr, row, depth), column.name),
            })
            .collect();
        list.join(", ")
    }

    fn list(&mut self, exprs: &[Expr], row: &[String], depth: usize) -> String {
        exprs.iter().map(|e| self.expr(e, row, depth)).collect::<Vec<_>>().join(", ")
    }

    fn keys(&mut self, keys: &[SortKey], row: &[String], depth: usize) -> String {
        let keys: Vec<String> = keys
            .iter()
            .map(|key| {
                let mut text = self.expr(&key.expr, row, depth);
                if key.descending {
                    text.push_str(" desc");
                }
                if key.nulls_first != key.descending {
                    text.push_str(if key.nulls_first { " nulls first" } else { " nulls last" });
                }
                text
            })
            .collect();
        keys.join(", ")
    }

    fn aggregate(&mut self, call: &AggregateCall, row: &[String], depth: usize) -> String {
        let mut text = String::from(call.function.name);
        text.push('(');
        if call.distinct {
            text.push_str("distinct ");
        }
        text.push_str(&if call.args.is_empty() { "*".to_owned() } else { self.list(&call.args, row, depth) });
        if !call.order_by.is_empty() {
            let _ = write!(text, " order by {}", self.keys(&call.order_by, row, depth));
        }
        text.push(')');
        if let Some(filter) = &call.filter {
            let _ = write!(text, " filter {}", self.expr(filter, row, depth));
        }
        text
    }

    fn window(&mut self, call: &WindowCall, row: &[String], depth: usize) -> String {
        let name = match call.function {
            WindowFunctionRef::Window(function) => function.name,
            WindowFunctionRef::Aggregate(function) => function.name,
        };
        let args = self.list(&call.args, row, depth);
        let mut text = format!("{name}({args})");
        if let Some(filter) = &call.filter {
            let _ = write!(text, " filter {}", self.expr(filter, row, depth));
        }
        text.push_str(" over (");
        if !call.partition_by.is_empty() {
            let _ = write!(text, "partition by {} ", self.list(&call.partition_by, row, depth));
        }
        if !call.order_by.is_empty() {
            let _ = write!(text, "order by {} ", self.keys(&call.order_by, row, depth));
        }
        let units = match call.frame.units {
            FrameUnits::Rows => "rows",
            FrameUnits::Range => "range",
            FrameUnits::Groups => "groups",
        };
        let start = self.bound(&call.frame.start, row, depth);
        let end = self.bound(&call.frame.end, row, depth);
        let _ = write!(text, "{units} {start}..{end})");
        text
    }

    fn bound(&mut self, bound: &FrameBound, row: &[String], depth: usize) -> String {
        match bound {
            FrameBound::UnboundedPreceding | FrameBound::UnboundedFollowing => "unbounded".into(),
            FrameBound::CurrentRow => "current".into(),
            FrameBound::Preceding(offset) => format!("-{}", self.expr(offset, row, depth)),
            FrameBound::Following(offset) => format!("+{}", self.expr(offset, row, depth)),
        }
    }

    fn expr(&mut self, expr: &Expr, row: &[String], depth: usize) -> String {
        match expr {
            Expr::Const(datum, ty) => constant(datum, *ty),
            Expr::Column(i, _) => match row.get(*i) {
                Some(name) => format!("{name}#{i}"),
                None => format!("#{i}"),
            },
            Expr::Outer { depth: level, index, .. } => {
                let name = self
                    .rows
                    .len()
                    .checked_sub(*level)
                    .and_then(|at| self.rows.get(at)?.get(*index))
                    .map_or("", String::as_str);
                format!("{}{name}#{index}", "^".repeat(*level))
            }
            Expr::Param(n, _) => format!("${}", n + 1),
            Expr::Call { function, kind, args, .. } => match (kind, args.as_slice()) {
                (CallKind::Operator, [l, r]) => {
                    format!("({} {} {})", self.expr(l, row, depth), function.name, self.expr(r, row, depth))
                }
                (CallKind::Operator, [x]) => format!("({}{})", function.name, self.expr(x, row, depth)),
                (CallKind::Cast | CallKind::Implicit, [x]) => {
                    format!("{}::{}", self.expr(x, row, depth), function.returns.internal_name())
                }
                _ => format!("{}({})", function.name, self.list(args, row, depth)),
            },
            Expr::Coerce { input, ty, explicit } => {
                let mark = if *explicit { "::" } else { ":" };
                format!("{}{mark}{}", self.expr(input, row, depth), format_type(*ty))
            }
            Expr::And(operands) => self.infix(operands, " and ", row, depth),
            Expr::Or(operands) => self.infix(operands, " or ", row, depth),
            Expr::Not(input) => format!("not {}", self.expr(input, row, depth)),
            Expr::IsNull { input, negated } => {
                let not = if *negated { " not" } else { "" };
                format!("({} is{not} null)", self.expr(input, row, depth))
            }
            Expr::IsDistinct { left, right, negated, equals: _ } => {
                let not = if *negated { " not" } else { "" };
                let (left, right) = (self.expr(left, row, depth), self.expr(right, row, depth));
                format!("({left} is{not} distinct from {right})")
            }
            Expr::Case { branches, otherwise, .. } => {
                let mut text = String::from("case");
                for (condition, value) in branches {
                    let (condition, value) = (self.expr(condition, row, depth), self.expr(value, row, depth));
                    let _ = write!(text, " when {condition} then {value}");
                }
                let otherwise = self.expr(otherwise, row, depth);
                let _ = write!(text, " else {otherwise} end");
                text
            }
            Expr::Coalesce(args, _) => format!("coalesce({})", self.list(args, row, depth)),
            Expr::Extreme { args, greatest, .. } => {
                let name = if *greatest { "greatest" } else { "least" };
                format!("{name}({})", self.list(args, row, depth))
            }
            Expr::InList { input, list, negated, equals: _ } => {
                let not = if *negated { " not" } else { "" };
                let (input, list) = (self.expr(input, row, depth), self.list(list, row, depth));
                format!("({input}{not} in ({list}))")
            }
            Expr::Subquery { kind, plan, .. } => self.subquery(kind, plan, row, depth),
        }
    }

    fn infix(&mut self, operands: &[Expr], word: &str, row: &[String], depth: usize) -> String {
        let operands: Vec<String> = operands.iter().map(|o| self.expr(o, row, depth)).collect();
        format!("({})", operands.join(word))
    }

    fn subquery(&mut self, kind: &SubqueryKind, plan: &Plan, row: &[String], depth: usize) -> String {
        let head = match kind {
            SubqueryKind::Scalar => "scalar".to_owned(),
            SubqueryKind::Exists => "exists".to_owned(),
            SubqueryKind::Quantified { left, compare, all } => {
                let values = self.list(left, row, depth);
                let mut both: Vec<String> = vec!["left".into(); left.len()];
                both.extend(names(plan.columns()));
                let compare = self.expr(compare, &both, depth);
                format!("[{values}] {} {compare}", if *all { "all" } else { "any" })
            }
        };
        self.rows.push(row.to_vec());
        let around = std::mem::take(&mut self.out);
        self.plan(plan, depth + 2);
        let inner = std::mem::replace(&mut self.out, around);
        self.rows.pop();
        format!("{head} {{\n{inner}{}}}", "  ".repeat(depth + 1))
    }
}

fn types(columns: &[OutputColumn]) -> String {
    let columns: Vec<String> = columns.iter().map(|c| format!("{} {}", c.name, format_type(c.ty))).collect();
    columns.join(", ")
}

fn constant(datum: &Datum, ty: ColumnType) -> String {
    match datum {
        Datum::Null => format!("null::{}", ty.ty.internal_name()),
        Datum::Bool(b) => b.to_string(),
        Datum::Int4(n) => n.to_string(),
        datum => {
            let text = io::format(datum, ty, &TimeZone::default());
            let ty = if ty.typmod == -1 { ty.ty.internal_name().to_owned() } else { format_type(ty) };
            debug_assert_ne!(ty, Type::Unknown.internal_name(), "every literal has a type in the end");
            format!("'{text}'::{ty}")
        }
    }
}
