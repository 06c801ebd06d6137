//! SELECT … FOR UPDATE, FOR NO KEY UPDATE, FOR SHARE, FOR KEY SHARE.
//!
//! Each scan of a table that a clause concerns is marked while FROM is bound. When the query is known, the storage keys of the
//! marked scans' rows are put behind its columns, all the way from the scans up, and a [`LockRows`] takes them off again: below
//! LIMIT, as in PostgreSQL. A clause that concerns a subquery in FROM is as if it stood in the subquery, too. (PostgreSQL locks
//! fewer rows where it can merge the subquery into the query around it.)

use sqlparser::ast::{self, SetExpr};
use txn::LockMode;

use super::scope::fold_part;
use super::{Binder, LevelKind};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{
    Expr, JoinKind, LockRows, LockTarget, OutputColumn, Plan, Rivals, RowLock, SelectLocked, Statement,
};
use crate::types::{ColumnType, Type};

/// Begins the name by which the parser is told of a clause that it can't read: see `parse::locking_clauses`. No user can
/// write it.
pub(super) const MARK: char = '\0';
pub(super) const NO_KEY_UPDATE: &str = "no key update";
pub(super) const KEY_SHARE: &str = "key share";

/// A locking clause.
#[derive(Clone, Debug)]
struct Clause {
    lock: RowLock,
    /// OF: the relations, and whether they were found. `None`: all.
    of: Option<Vec<(String, bool)>>,
    position: Option<u32>,
}

/// The locking clauses of a query whose FROM is bound.
#[derive(Clone, Debug, Default)]
pub(super) struct Locking(Vec<Clause>);

/// What a relation in FROM is, for who names it in OF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lockable {
    Table,
    Subquery,
    Other(&'static str),
}

pub(crate) fn shown(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Update => "FOR UPDATE",
        LockMode::NoKeyUpdate => "FOR NO KEY UPDATE",
        LockMode::Share => "FOR SHARE",
        LockMode::KeyShare => "FOR KEY SHARE",
    }
}

fn refused(mode: LockMode, with: &str) -> SqlError {
    SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, format!("{} is not allowed with {with}", shown(mode)))
}

fn not_for(mode: LockMode, what: &str) -> SqlError {
    SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, format!("{} cannot be applied to {what}", shown(mode)))
}

impl Locking {
    /// Everything, like this: for a subquery that a clause concerns.
    fn all(lock: RowLock) -> Self {
        Self(vec![Clause { lock, of: None, position: None }])
    }

    fn strongest(&self) -> Option<LockMode> {
        self.0.iter().map(|clause| clause.lock.mode).max()
    }

    /// How rows of a relation are to be locked.
    fn concerns(&mut self, name: &str, kind: Lockable) -> Result<Option<RowLock>> {
        let mut found: Option<RowLock> = None;
        for clause in &mut self.0 {
            match &mut clause.of {
                None if matches!(kind, Lockable::Other(_)) => continue,
                None => {}
                Some(of) => {
                    let Some((_, seen)) = of.iter_mut().find(|(of, _)| of == name) else { continue };
                    *seen = true;
                    if let Lockable::Other(what) = kind {
                        return Err(not_for(clause.lock.mode, what).at(clause.position));
                    }
                }
            }
            let lock = clause.lock;
            found = Some(found.map_or(lock, |other| RowLock {
                mode: other.mode.max(lock.mode),
                rivals: stricter(other.rivals, lock.rivals),
            }));
        }
        Ok(found)
    }

    /// `42P01` for a name in OF that nothing in FROM has.
    fn check_found(&self) -> Result<()> {
        for clause in &self.0 {
            if let Some((name, _)) = clause.of.iter().flatten().find(|(_, seen)| !seen) {
                let mode = shown(clause.lock.mode);
                let message = format!("relation \"{name}\" in {mode} clause not found in FROM clause");
                return Err(SqlError::new(SqlState::UNDEFINED_TABLE, message).at(clause.position));
            }
        }
        Ok(())
    }
}

/// NOWAIT before SKIP LOCKED before waiting.
fn stricter(a: Rivals, b: Rivals) -> Rivals {
    let rank = |rivals| match rivals {
        Rivals::Wait => 0,
        Rivals::Skip => 1,
        Rivals::Fail => 2,
    };
    if rank(a) >= rank(b) { a } else { b }
}

impl Binder<'_> {
    /// A query's own locking clauses.
    pub(super) fn locking_clauses(&self, locks: &[ast::LockClause]) -> Result<Locking> {
        locks.iter().map(|lock| self.locking_clause(lock)).collect::<Result<_>>().map(Locking)
    }

    fn locking_clause(&self, clause: &ast::LockClause) -> Result<Clause> {
        let mut mode = match clause.lock_type {
            ast::LockType::Update => LockMode::Update,
            ast::LockType::Share => LockMode::Share,
        };
        let rivals = match clause.nonblock {
            None => Rivals::Wait,
            Some(ast::NonBlock::Nowait) => Rivals::Fail,
            Some(ast::NonBlock::SkipLocked) => Rivals::Skip,
        };
        let position = clause.of.as_ref().and_then(|of| self.position(of));
        let of = match &clause.of {
            None => None,
            Some(name) => match name.0.as_slice() {
                [ast::ObjectNamePart::Identifier(ident)] if ident.value.starts_with(MARK) => {
                    let mut parts = ident.value.split(MARK).skip(1);
                    mode = match parts.next() {
                        Some(NO_KEY_UPDATE) => LockMode::NoKeyUpdate,
                        Some(KEY_SHARE) => LockMode::KeyShare,
                        _ => mode,
                    };
                    let names: Vec<String> = parts.map(str::to_owned).collect();
                    (!names.is_empty()).then_some(names)
                }
                [part] => Some(vec![fold_part(part)?]),
                _ => {
                    let message = format!("{} must specify unqualified relation names", shown(mode));
                    return Err(SqlError::new(SqlState::SYNTAX_ERROR, message).at(position));
                }
            },
        };
        let of = of.map(|names| names.into_iter().map(|name| (name, false)).collect());
        Ok(Clause { lock: RowLock { mode, rivals }, of, position })
    }

    /// How the rows of a relation in FROM are to be locked.
    pub(super) fn locked_as(&mut self, name: &str, kind: Lockable) -> Result<Option<RowLock>> {
        match self.locking.last_mut() {
            Some(locking) => locking.concerns(name, kind),
            None => Ok(None),
        }
    }

    /// Binds a subquery in FROM, which is locked like this by the query around it.
    pub(super) fn locked_subquery(&mut self, query: &ast::Query, lock: Option<RowLock>) -> Result<Plan> {
        self.inherited = lock;
        let plan = self.query(query, LevelKind::Derived);
        self.inherited = None;
        plan
    }

    /// The clauses that hold while a query's body is bound: its own, and what it inherits.
    pub(super) fn enter_locking(
        &mut self,
        locks: &[ast::LockClause],
        inherited: Option<RowLock>,
    ) -> Result<()> {
        let mut locking = self.locking_clauses(locks)?;
        if let Some(lock) = inherited {
            locking.0.extend(Locking::all(lock).0);
        }
        self.locking.push(locking);
        Ok(())
    }

    /// The body is bound: locks the rows that it puts out.
    pub(super) fn leave_locking(&mut self, body: &SetExpr, plan: Result<Plan>) -> Result<Plan> {
        let locking = self.locking.pop().unwrap_or_default();
        let plan = plan?;
        let Some(mode) = locking.strongest() else { return Ok(plan) };
        check_body(body, &plan, mode)?;
        locking.check_found()?;
        let columns = plan.columns().to_vec();
        let (input, targets) = keyed(plan, mode)?;
        if targets.is_empty() {
            return Ok(input);
        }
        let (limit, offset) = (None, None);
        let node = LockRows { input: Box::new(input), targets, columns, limit, offset };
        Ok(Plan::LockRows(Box::new(node)))
    }

    /// A query that is a statement, as a whole: those that lock rows of one table, row by row, have a way of their own.
    pub(super) fn query_statement(&mut self, query: &ast::Query) -> Result<Statement> {
        let plan = self.query(query, LevelKind::Root)?;
        let mode = locks_in(&plan);
        let Some(mode) = mode else { return Ok(Statement::Query(plan)) };
        // A row that had changed before it was locked is computed once more.
        if plan.has_order() {
            return Err(SqlError::unsupported("an operator's function in a query that locks rows"));
        }
        let (node, limit, offset) = match plan {
            Plan::LockRows(node) => (node, None, None),
            Plan::Limit { input, limit, offset } => match *input {
                Plan::LockRows(node) => (node, limit, offset),
                other => {
                    let plan = Plan::Limit { input: Box::new(other), limit, offset };
                    return Ok(Statement::QueryLocked { plan, mode });
                }
            },
            plan => return Ok(Statement::QueryLocked { plan, mode }),
        };
        match (&node.targets[..], is_chain(&node.input)) {
            ([target], true) if target.key == node.columns.len() => {
                let (table, lock) = (target.table.clone(), target.lock);
                let LockRows { input, columns, .. } = *node;
                let (mode, rivals) = (lock.mode, lock.rivals);
                Ok(Statement::SelectLocked(SelectLocked {
                    table,
                    source: *input,
                    columns,
                    limit,
                    offset,
                    mode,
                    rivals,
                }))
            }
            _ => {
                let plan = limited(Plan::LockRows(node), limit, offset);
                Ok(Statement::QueryLocked { plan, mode })
            }
        }
    }
}

fn limited(plan: Plan, limit: Option<Expr>, offset: Option<Expr>) -> Plan {
    match (&limit, &offset) {
        (None, None) => plan,
        _ => Plan::Limit { input: Box::new(plan), limit, offset },
    }
}

/// The strongest lock that a plan takes.
fn locks_in(plan: &Plan) -> Option<LockMode> {
    let mut strongest = None;
    plan.any(&mut |plan| {
        if let Plan::LockRows(node) = plan {
            strongest = strongest.max(node.targets.iter().map(|target| target.lock.mode).max());
        }
        false
    });
    strongest
}

/// Whether each row of a plan is one row of one scan, without anything else being looked at.
fn is_chain(plan: &Plan) -> bool {
    match plan {
        Plan::Scan(_) => true,
        Plan::Filter { input, .. } | Plan::Sort { input, .. } | Plan::Project { input, .. } => {
            is_chain(input)
        }
        _ => false,
    }
}

/// What PostgreSQL refuses to lock: where a row of the result is not one row of each table (`CheckSelectLocking`).
fn check_body(body: &SetExpr, plan: &Plan, mode: LockMode) -> Result<()> {
    let select = match body {
        SetExpr::Select(select) => select,
        SetExpr::SetOperation { .. } => return Err(refused(mode, "UNION/INTERSECT/EXCEPT")),
        SetExpr::Values(_) => return Err(not_for(mode, "VALUES")),
        SetExpr::Query(_) => {
            return Err(SqlError::unsupported(format!("{} behind a query in parentheses", shown(mode))));
        }
        _ => return Ok(()),
    };
    if matches!(select.distinct, Some(ast::Distinct::Distinct | ast::Distinct::On(_))) {
        return Err(refused(mode, "DISTINCT clause"));
    }
    let grouped = match &select.group_by {
        ast::GroupByExpr::All(_) => true,
        ast::GroupByExpr::Expressions(keys, modifiers) => !keys.is_empty() || !modifiers.is_empty(),
    };
    if grouped {
        return Err(refused(mode, "GROUP BY clause"));
    }
    if select.having.is_some() {
        return Err(refused(mode, "HAVING clause"));
    }
    let mut below = plan;
    loop {
        below = match below {
            Plan::Aggregate { .. } => return Err(refused(mode, "aggregate functions")),
            Plan::Window { .. } => return Err(refused(mode, "window functions")),
            Plan::Project { input, .. } | Plan::Sort { input, .. } | Plan::Filter { input, .. } => &**input,
            Plan::Join { right, .. } if matches!(**right, Plan::Series { .. }) && select.from.is_empty() => {
                return Err(refused(mode, "set-returning functions in the target list"));
            }
            _ => return Ok(()),
        };
    }
}

/// Whether a plan has a scan that is to be locked; those of subqueries are locked there.
fn has_marked(plan: &Plan) -> bool {
    match plan {
        Plan::Scan(scan) => scan.lock.is_some(),
        Plan::Filter { input, .. } | Plan::Sort { input, .. } | Plan::Project { input, .. } => {
            has_marked(input)
        }
        Plan::Join { left, right, .. } => has_marked(left) || has_marked(right),
        _ => false,
    }
}

/// The plan with the keys of its marked scans' rows behind its columns.
fn keyed(plan: Plan, mode: LockMode) -> Result<(Plan, Vec<LockTarget>)> {
    if !has_marked(&plan) {
        return Ok((plan, Vec::new()));
    }
    let ty = ColumnType::plain(Type::Bytea);
    let key = || OutputColumn { name: String::new(), ty, origin: None };
    Ok(match plan {
        Plan::Scan(scan) => {
            let width = scan.columns.len();
            let Some(lock) = scan.lock else { return Ok((Plan::Scan(scan), Vec::new())) };
            let table = scan.table.clone();
            let mut keyed = super::from::scan_of(&table, true);
            keyed.filters = scan.filters;
            (Plan::Scan(keyed), vec![LockTarget { table, key: width, lock }])
        }
        Plan::Filter { input, predicate } => {
            let (input, targets) = keyed(*input, mode)?;
            (Plan::Filter { input: Box::new(input), predicate }, targets)
        }
        Plan::Sort { input, keys } => {
            let (input, targets) = keyed(*input, mode)?;
            (Plan::Sort { input: Box::new(input), keys }, targets)
        }
        Plan::Project { input, mut exprs, mut columns } => {
            let (input, mut targets) = keyed(*input, mode)?;
            for target in &mut targets {
                exprs.push(Expr::Column(target.key, ty));
                target.key = columns.len();
                columns.push(key());
            }
            (Plan::Project { input: Box::new(input), exprs, columns }, targets)
        }
        Plan::Join { kind, left, right, on, columns } => {
            let (nullable_left, nullable_right) = match kind {
                JoinKind::Left => (false, true),
                JoinKind::Right => (true, false),
                JoinKind::Full => (true, true),
                JoinKind::Inner | JoinKind::Semi | JoinKind::Anti => (false, false),
            };
            if nullable_left && has_marked(&left) || nullable_right && has_marked(&right) {
                return Err(not_for(mode, "the nullable side of an outer join"));
            }
            let (left_width, right_width) = (left.columns().len(), right.columns().len());
            let (left, mut targets) = keyed(*left, mode)?;
            let (right, of_right) = keyed(*right, mode)?;
            let keys = targets.len();
            // As the join sees it: left columns, left keys, right columns, right keys.
            let place = |i: usize| if i < left_width { i } else { i + keys };
            let on = on.map(|on| crate::ir::walk::renumber(&on, &place));
            let mut exprs: Vec<Expr> =
                columns.iter().enumerate().map(|(i, column)| Expr::Column(place(i), column.ty)).collect();
            let mut out = columns;
            let all: Vec<OutputColumn> = left.columns().iter().chain(right.columns()).cloned().collect();
            let of_right = of_right
                .into_iter()
                .map(|target| LockTarget { key: target.key + left_width + keys, ..target });
            targets.extend(of_right);
            debug_assert_eq!(out.len(), left_width + right_width);
            for target in &mut targets {
                exprs.push(Expr::Column(target.key, ty));
                target.key = out.len();
                out.push(key());
            }
            let join = Plan::Join { kind, left: Box::new(left), right: Box::new(right), on, columns: all };
            (Plan::Project { input: Box::new(join), exprs, columns: out }, targets)
        }
        other => (other, Vec::new()),
    })
}
