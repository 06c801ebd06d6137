//! Operators whose expressions have effects (`function::effect`): row by row, so that no more is done than is asked for.
//!
//! `SELECT pg_advisory_lock(id) FROM t JOIN … LIMIT 3` locks three times: the topmost projections, filters and limits of a plan are
//! run here, over whatever is below them.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Row, RowStream, Rows, StatementContext, canceled, direct, query};
use crate::error::{Result, SqlError};
use crate::eval::{self, Env};
use crate::flow;
use crate::function::effect::{Effect, Memo, Step};
use crate::ir::{Expr, Plan};

/// Carries out an effect.
async fn perform(effect: Effect, ctx: &StatementContext) -> Result<crate::types::Datum> {
    match &ctx.eval.performer {
        Some(performer) => performer.perform(effect).await,
        None => Err(SqlError::unsupported("a function that waits here")),
    }
}

/// Evaluates something for one row; says whether there were effects.
pub async fn evaluate<T>(
    memo: &mut Memo,
    ctx: &StatementContext,
    mut evaluate: impl FnMut() -> Result<T> + Send,
) -> Result<(T, bool)> {
    loop {
        match memo.step(&mut evaluate) {
            Step::Done(result) => {
                let any = memo.finish();
                return result.map(|value| (value, any));
            }
            Step::Wants(effect) => match perform(effect, ctx).await {
                Ok(result) => memo.push(result),
                Err(error) => {
                    memo.finish();
                    return Err(error);
                }
            },
        }
    }
}

fn env(ctx: &StatementContext) -> Env<'_> {
    Env { ctx: &ctx.eval, params: &ctx.params, outer: &[] }
}

/// Expressions over each row of an input. What comes after an effect is left for the next call.
pub struct Project {
    input: Box<dyn RowStream>,
    exprs: Vec<Expr>,
    ctx: Arc<StatementContext>,
    rest: VecDeque<Row>,
    memo: Memo,
}

impl Project {
    /// The expressions over `input`.
    pub fn new(input: Box<dyn RowStream>, exprs: &[Expr], ctx: &Arc<StatementContext>) -> Self {
        let (rest, memo) = Default::default();
        Self { input, exprs: exprs.to_vec(), ctx: Arc::clone(ctx), rest, memo }
    }
}

#[async_trait]
impl RowStream for Project {
    async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        if self.rest.is_empty() {
            match self.input.next().await? {
                Some(batch) => self.rest = batch.into(),
                None => return Ok(None),
            }
        }
        let mut out = Vec::with_capacity(self.rest.len());
        let Self { exprs, ctx, rest, memo, .. } = self;
        while let Some(row) = rest.pop_front() {
            let all = || exprs.iter().map(|e| eval::eval(e, &row, &env(ctx))).collect::<Result<Row>>();
            let (values, effects) = evaluate(memo, ctx, all).await?;
            out.push(values);
            if effects {
                break;
            }
        }
        Ok(Some(out))
    }
}

/// The rows of an input for which predicates are true.
pub struct Filter {
    input: Box<dyn RowStream>,
    predicates: Vec<Expr>,
    ctx: Arc<StatementContext>,
    rest: VecDeque<Row>,
    memo: Memo,
}

impl Filter {
    /// The rows of `input` for which all predicates are true.
    pub fn new(input: Box<dyn RowStream>, predicates: Vec<Expr>, ctx: &Arc<StatementContext>) -> Self {
        let (rest, memo) = Default::default();
        Self { input, predicates, ctx: Arc::clone(ctx), rest, memo }
    }
}

#[async_trait]
impl RowStream for Filter {
    async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        loop {
            if self.rest.is_empty() {
                match self.input.next().await? {
                    Some(batch) => self.rest = batch.into(),
                    None => return Ok(None),
                }
            }
            if self.ctx.cancel.is_cancelled() {
                return Err(canceled());
            }
            let mut out = Vec::with_capacity(self.rest.len());
            let Self { predicates, ctx, rest, memo, .. } = self;
            while let Some(row) = rest.pop_front() {
                let passes = || {
                    for predicate in &*predicates {
                        if !eval::eval_bool(predicate, &row, &env(ctx))? {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                };
                let (passes, effects) = evaluate(memo, ctx, passes).await?;
                if passes {
                    out.push(row);
                    if effects {
                        break;
                    }
                }
            }
            if !out.is_empty() {
                return Ok(Some(out));
            }
        }
    }
}

/// Rows of constants.
pub async fn values(rows: &[Vec<Expr>], ctx: &StatementContext) -> Result<Rows> {
    let (mut out, mut memo) = (Vec::with_capacity(rows.len()), Memo::default());
    for row in rows {
        let all = || row.iter().map(|e| eval::eval(e, &[], &env(ctx))).collect::<Result<Row>>();
        out.push(evaluate(&mut memo, ctx, all).await?.0);
    }
    Ok(Rows::new(out))
}

/// Runs a plan with effects in it that is not direct: its top here, the rest wherever it belongs.
pub async fn run(plan: &Plan, ctx: &Arc<StatementContext>) -> Result<Box<dyn RowStream>> {
    if !plan.has_effect() {
        return Box::pin(query::rows(plan, ctx)).await;
    }
    let input = match plan {
        Plan::Project { input, exprs, .. } if exprs.iter().all(Expr::is_local) => input,
        Plan::Filter { input, predicate } if predicate.is_local() => input,
        Plan::Limit { input, limit, offset } if limit.iter().chain(offset).all(Expr::is_local) => input,
        Plan::Sort { input, keys } if keys.iter().all(|key| key.expr.is_local()) => input,
        _ => return flow::run(plan, Arc::clone(ctx)).await,
    };
    let input = Box::pin(run(input, ctx)).await?;
    direct::above(plan, input, ctx).await
}
