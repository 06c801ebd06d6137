//! Function calls that are neither aggregates nor window calls.

use std::sync::Arc;

use sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArgOperator, FunctionArguments};

use super::{Binder, Clause, SERIES, scope};
use crate::error::{Result, SqlError, SqlState};
use crate::function::{self, CastContext, resolve};
use crate::ir::{CallKind, Expr, OutputColumn, Plan, SubqueryKind};
use crate::types::{ColumnType, Datum, Type};

/// A call taken apart.
pub(super) struct Call<'e> {
    pub name: String,
    pub position: Option<u32>,
    pub args: Vec<&'e ast::Expr>,
    /// The names of the last arguments: `f(1, b => 2)`.
    pub names: Vec<String>,
    /// `f(*)`
    pub star: bool,
    pub distinct: bool,
    pub order_by: &'e [ast::OrderByExpr],
    pub filter: Option<&'e ast::Expr>,
    pub over: Option<&'e ast::WindowType>,
}

impl Binder<'_> {
    /// Takes a call apart, refusing what is not known.
    pub(super) fn take_call<'e>(&self, function: &'e ast::Function) -> Result<Call<'e>> {
        let ast::Function {
            name,
            uses_odbc_syntax,
            parameters,
            args,
            filter,
            null_treatment,
            over,
            within_group,
        } = function;
        let position = self.position(name);
        let at = |e: SqlError| e.at(position);
        refuse_at(*uses_odbc_syntax, "ODBC syntax").map_err(at)?;
        refuse_at(!matches!(parameters, FunctionArguments::None), "a parameterised function").map_err(at)?;
        refuse_at(null_treatment.is_some(), "IGNORE NULLS").map_err(at)?;
        refuse_at(!within_group.is_empty(), "WITHIN GROUP").map_err(at)?;
        let (schema, name) = scope::table_name(name).map_err(at)?;
        let schema = schema.filter(|schema| schema != "pg_catalog");
        let qualified = schema.as_ref().map(|schema| format!("{schema}.{name}"));
        let is_operators = schema.as_deref() == Some(function::OPERATOR_SCHEMA)
            && qualified.as_deref().is_some_and(|name| !function::functions(name).is_empty());
        if let Some(schema) = schema.filter(|_| !is_operators) {
            let message = match self.catalog.has_schema(&schema) {
                true => SqlError::new(
                    SqlState::UNDEFINED_FUNCTION,
                    format!("function {schema}.{name} does not exist"),
                ),
                false => SqlError::new(
                    SqlState::INVALID_SCHEMA_NAME,
                    format!("schema \"{schema}\" does not exist"),
                ),
            };
            return Err(message.at(position));
        }
        let mut call = Call {
            name: qualified.unwrap_or(name),
            position,
            args: Vec::new(),
            names: Vec::new(),
            star: false,
            distinct: false,
            order_by: &[],
            filter: filter.as_deref(),
            over: over.as_ref(),
        };
        match args {
            FunctionArguments::None => {}
            FunctionArguments::Subquery(_) => {
                return Err(SqlError::unsupported("a subquery as a function's arguments").at(position));
            }
            FunctionArguments::List(ast::FunctionArgumentList { duplicate_treatment, args, clauses }) => {
                call.distinct = matches!(duplicate_treatment, Some(ast::DuplicateTreatment::Distinct));
                for arg in args {
                    match arg {
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) if call.names.is_empty() => {
                            call.args.push(expr);
                        }
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => {
                            return Err(SqlError::new(
                                SqlState::SYNTAX_ERROR,
                                "positional argument cannot follow named argument",
                            )
                            .at(self.position(expr)));
                        }
                        FunctionArg::Named {
                            name,
                            arg: FunctionArgExpr::Expr(expr),
                            operator: FunctionArgOperator::RightArrow | FunctionArgOperator::Assignment,
                        } => {
                            let position = self.source.start(name.span);
                            let name = scope::fold(name);
                            if call.names.contains(&name) {
                                return Err(SqlError::new(
                                    SqlState::SYNTAX_ERROR,
                                    format!("argument name \"{name}\" used more than once"),
                                )
                                .at(position));
                            }
                            call.args.push(expr);
                            call.names.push(name);
                        }
                        FunctionArg::Unnamed(FunctionArgExpr::Wildcard) if args.len() == 1 => {
                            call.star = true
                        }
                        FunctionArg::Unnamed(_) => {
                            return Err(SqlError::unsupported("* as an argument").at(position));
                        }
                        FunctionArg::Named { .. } | FunctionArg::ExprNamed { .. } => {
                            return Err(SqlError::unsupported("this argument").at(position));
                        }
                    }
                }
                for clause in clauses {
                    match clause {
                        ast::FunctionArgumentClause::OrderBy(keys) => call.order_by = keys,
                        _ => return Err(SqlError::unsupported("this clause of a call").at(position)),
                    }
                }
            }
        }
        Ok(call)
    }

    /// `name(args)`
    pub(super) fn function(&mut self, function: &ast::Function) -> Result<Expr> {
        let call = self.take_call(function)?;
        if !call.names.is_empty() {
            return self.named_call(&call);
        }
        if call.over.is_some() {
            return self.window_call(call);
        }
        if !function::aggregates(&call.name).is_empty() {
            return self.aggregate_call(call);
        }
        let misplaced = |what: &str| {
            SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("{what} specified, but {} is not an aggregate function", call.name),
            )
            .at(call.position)
        };
        if call.distinct {
            return Err(misplaced("DISTINCT"));
        }
        if !call.order_by.is_empty() {
            return Err(misplaced("ORDER BY"));
        }
        if call.filter.is_some() {
            return Err(misplaced("FILTER"));
        }
        if call.star {
            return Err(misplaced("*"));
        }
        let at = call.position;
        let positions: Vec<Option<u32>> = call.args.iter().map(|a| self.position(*a)).collect();
        match (call.name.as_str(), call.args.len()) {
            ("coalesce", 1..) => {
                let args = self.exprs(&call.args)?;
                let (mut args, ty) = self.unify("COALESCE", args, &positions)?;
                return Ok(match args.len() {
                    1 => args.remove(0),
                    _ => Expr::Coalesce(args, ty),
                });
            }
            (name @ ("greatest" | "least"), 1..) => {
                let greatest = name == "greatest";
                let args = self.exprs(&call.args)?;
                let (args, ty) = self.unify(if greatest { "GREATEST" } else { "LEAST" }, args, &positions)?;
                let less = self.comparison_of("<", ty.ty).map_err(|_| {
                    SqlError::new(
                        SqlState::UNDEFINED_FUNCTION,
                        format!("could not identify a comparison function for type {}", ty.ty),
                    )
                    .at(at)
                })?;
                // Types without an order of their own (varchar) are compared as the type that has it.
                let mut coerced = Vec::with_capacity(args.len());
                for arg in args {
                    coerced.push(self.implicit(arg, less.args[0], at)?);
                }
                let ty = if less.args[0] == ty.ty { ty } else { ColumnType::plain(less.args[0]) };
                return Ok(Expr::Extreme { args: coerced, less: less.function, greatest, ty });
            }
            ("nullif", 2) => {
                let a = self.expr(call.args[0])?;
                let b = self.expr(call.args[1])?;
                let resolved = resolve::operator("=", &[a.ty().ty, b.ty().ty]).map_err(|e| e.at(at))?;
                // The result is the first operand as the comparison sees it.
                let value = self.implicit(a, resolved.args[0], positions[0])?;
                let b = self.implicit(b, resolved.args[1], positions[1])?;
                let equal = self.call(resolved.function, CallKind::Operator, vec![value.clone(), b]);
                let ty = value.ty();
                let null = Expr::Const(Datum::Null, ty);
                return Ok(Expr::Case { branches: vec![(equal, null)], otherwise: Box::new(value), ty });
            }
            ("generate_series", 2 | 3) => return self.series_in_select(&call),
            ("row", _) => return Err(SqlError::unsupported("a row value").at(at)),
            ("grouping", 1..) => return self.grouping_call(&call),
            ("pg_table_is_visible", 1) => {
                let arg = self.expr(call.args[0])?;
                return self.is_visible(arg, positions[0]).map_err(|e| e.at(at));
            }
            ("pg_typeof", 1) => {
                let arg = self.expr(call.args[0])?;
                let name = arg.ty().ty.name();
                return Ok(Expr::Const(Datum::text(name), ColumnType::plain(Type::Text)));
            }
            _ => {}
        }
        if function::window_function(&call.name).is_some() {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("window function {} requires an OVER clause", call.name),
            )
            .at(at));
        }
        let args = self.exprs(&call.args)?;
        if let [arg] = args.as_slice()
            && let Some(ty) = resolve::function_style_cast(&call.name, arg.ty().ty)
        {
            let [arg] = <[Expr; 1]>::try_from(args).map_err(|_| SqlError::internal("one argument"))?;
            return self.cast_to(arg, ColumnType::plain(ty), positions[0]);
        }
        self.function_call(&call.name, args, &positions).map_err(|e| e.at(at))
    }

    /// `pg_table_is_visible(oid)`: whether it is among the relations that are found by their bare name.
    fn is_visible(&mut self, oid: Expr, position: Option<u32>) -> Result<Expr> {
        let equals = resolve::operator("=", &[Type::Oid, Type::Oid])?.function;
        let oid = self.implicit(oid, Type::Oid, position)?;
        let ty = ColumnType::plain(Type::Oid);
        let columns = vec![OutputColumn { name: "oid".into(), ty, origin: None }];
        let plan = Plan::VirtualScan { name: ("flotilla".into(), "visible_relations".into()), columns };
        let sides = vec![Expr::Column(0, ty), Expr::Column(1, ty)];
        let compare = Box::new(self.call(equals, CallKind::Operator, sides));
        Ok(Expr::Subquery {
            kind: SubqueryKind::Quantified { left: vec![oid], compare, all: false },
            plan: Arc::new(plan),
            ty: ColumnType::plain(Type::Bool),
        })
    }

    /// `name(a, c => b)`: arguments by position, then by name (chapter 4.3). No aggregate and no window function has names for
    /// its parameters.
    fn named_call(&mut self, call: &Call<'_>) -> Result<Expr> {
        if call.distinct || !call.order_by.is_empty() || call.filter.is_some() || call.over.is_some() {
            return Err(SqlError::unsupported("a named argument in this call").at(call.position));
        }
        if matches!(call.name.as_str(), "coalesce" | "greatest" | "least" | "nullif" | "row" | "grouping") {
            return Err(self.syntax_error(&call.name, call.position));
        }
        let args = self.exprs(&call.args)?;
        let given: Vec<Type> = args.iter().map(|a| a.ty().ty).collect();
        let by_position = args.len() - call.names.len();
        let mut args: Vec<Option<Expr>> = args.into_iter().map(Some).collect();
        let fits = |parameters: &&function::Parameters| {
            let rest = parameters.names.get(by_position..).unwrap_or_default();
            parameters.function == call.name
                && call.names.iter().all(|name| rest.contains(&name.as_str()))
                && (parameters.optional || call.names.len() == rest.len())
        };
        let Some(parameters) = function::PARAMETERS.iter().find(fits) else {
            return Err(no_such_call(call, &given).at(call.position));
        };
        let (mut ordered, mut positions) = (Vec::new(), Vec::new());
        for (i, parameter) in parameters.names.iter().enumerate() {
            let at = match i < by_position {
                true => Some(i),
                false => call.names.iter().position(|name| name == parameter).map(|n| by_position + n),
            };
            positions.push(at.and_then(|at| self.position(call.args[at])));
            ordered.push(match at.and_then(|at| args[at].take()) {
                Some(arg) => arg,
                None => super::literal::unknown("0"),
            });
        }
        let types: Vec<Type> = ordered.iter().map(|a| a.ty().ty).collect();
        if resolve::function(&call.name, &types).is_err() {
            return Err(no_such_call(call, &given).at(call.position));
        }
        self.function_call(&call.name, ordered, &positions).map_err(|e| e.at(call.position))
    }

    pub(super) fn exprs(&mut self, exprs: &[&ast::Expr]) -> Result<Vec<Expr>> {
        exprs.iter().map(|e| self.expr(e)).collect()
    }

    /// The call of a function on bound arguments. Errors about the function itself have no position.
    pub(super) fn function_call(
        &mut self,
        name: &str,
        args: Vec<Expr>,
        positions: &[Option<u32>],
    ) -> Result<Expr> {
        let types: Vec<Type> = args.iter().map(|a| a.ty().ty).collect();
        let resolved = resolve::function(name, &types)?;
        if resolved.function.order && !self.may_order() {
            let what = "an operator's function outside the select list of the outermost query";
            return Err(SqlError::unsupported(what));
        }
        let args = self.arguments_as(args, &resolved.args, positions)?;
        Ok(self.call(resolved.function, CallKind::Function, args))
    }

    /// Brings arguments to the types that a function declares.
    pub(super) fn arguments_as(
        &mut self,
        args: Vec<Expr>,
        types: &[Type],
        positions: &[Option<u32>],
    ) -> Result<Vec<Expr>> {
        let mut out = Vec::with_capacity(args.len());
        for (i, arg) in args.into_iter().enumerate() {
            let position = positions.get(i).copied().flatten();
            let arg = match types.get(i) {
                Some(ty) if *ty != Type::Unknown => self.implicit(arg, *ty, position)?,
                // Any type will do.
                _ => self.known(arg, position)?,
            };
            out.push(arg);
        }
        Ok(out)
    }

    /// `generate_series(…)` in a select list: a placeholder for a column that a join with the series makes.
    fn series_in_select(&mut self, call: &Call<'_>) -> Result<Expr> {
        let clause = self.level().clause;
        if clause != Clause::Select || self.level().in_aggregate {
            return Err(SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("set-returning functions are not allowed in {}", clause.name()),
            )
            .at(call.position));
        }
        let args = self.exprs(&call.args)?;
        let plan = self.series(args, call)?;
        let Plan::Series { args, columns } = &plan else { return Err(SqlError::internal("a series")) };
        if args.iter().any(|a| a.any(&mut |e| matches!(e, Expr::Column(..) | Expr::Subquery { .. }))) {
            return Err(SqlError::unsupported("generate_series over columns").at(call.position));
        }
        let ty = columns[0].ty;
        if !self.level().series.is_empty() {
            return Err(SqlError::unsupported("more than one generate_series").at(call.position));
        }
        self.level().series.push(plan);
        Ok(Expr::Column(SERIES, ty))
    }

    /// The plan of a series.
    pub(super) fn series(&mut self, args: Vec<Expr>, call: &Call<'_>) -> Result<Plan> {
        let at = call.position;
        let types: Vec<Type> = args.iter().map(|a| a.ty().ty).collect();
        let positions: Vec<Option<u32>> = call.args.iter().map(|a| self.position(*a)).collect();
        let time =
            types.iter().take(2).find(|t| matches!(t, Type::Date | Type::Timestamp | Type::Timestamptz));
        let wanted: Vec<Type> = match time {
            Some(time) if types.len() == 3 => {
                // There is none for dates: they become timestamps with a zone, the preferred type.
                let zoned = types.iter().take(2).any(|t| matches!(t, Type::Date | Type::Timestamptz));
                let ty = if zoned { Type::Timestamptz } else { *time };
                vec![ty, ty, Type::Interval]
            }
            Some(_) => return Err(no_series(&types).at(at)),
            None => {
                let mut common = Type::Int4;
                for ty in &types {
                    common = match (common, ty) {
                        (_, Type::Numeric) | (Type::Numeric, _) => Type::Numeric,
                        (_, Type::Int8) | (Type::Int8, _) => Type::Int8,
                        (c, Type::Unknown | Type::Int2 | Type::Int4) => c,
                        _ => return Err(no_series(&types).at(at)),
                    };
                }
                if types.iter().all(|t| *t == Type::Unknown) {
                    return Err(SqlError::new(
                        SqlState::AMBIGUOUS_FUNCTION,
                        "function generate_series(unknown, unknown) is not unique",
                    )
                    .at(at));
                }
                vec![common; types.len()]
            }
        };
        let mut coerced = Vec::with_capacity(args.len());
        for (i, (arg, ty)) in args.into_iter().zip(&wanted).enumerate() {
            let arg = self
                .coerce(arg, *ty, CastContext::Implicit, positions[i])?
                .ok_or_else(|| no_series(&types).at(at))?;
            coerced.push(arg);
        }
        let columns = vec![OutputColumn {
            name: "generate_series".into(),
            ty: ColumnType::plain(wanted[0]),
            origin: None,
        }];
        Ok(Plan::Series { args: coerced, columns })
    }
}

/// `42883`, with the arguments as they were given.
fn no_such_call(call: &Call<'_>, types: &[Type]) -> SqlError {
    let by_position = types.len() - call.names.len();
    let list: Vec<String> = types
        .iter()
        .enumerate()
        .map(|(i, ty)| match i.checked_sub(by_position).and_then(|n| call.names.get(n)) {
            Some(name) => format!("{name} => {ty}"),
            None => ty.name().to_owned(),
        })
        .collect();
    SqlError::new(
        SqlState::UNDEFINED_FUNCTION,
        format!("function {}({}) does not exist", call.name, list.join(", ")),
    )
    .hint("No function matches the given name and argument types. You might need to add explicit type casts.")
}

fn no_series(types: &[Type]) -> SqlError {
    let types: Vec<&str> = types.iter().map(|t| t.name()).collect();
    SqlError::new(
        SqlState::UNDEFINED_FUNCTION,
        format!("function generate_series({}) does not exist", types.join(", ")),
    )
    .hint("No function matches the given name and argument types. You might need to add explicit type casts.")
}

fn refuse_at(present: bool, what: &str) -> Result<()> {
    super::refuse(present, what)
}
