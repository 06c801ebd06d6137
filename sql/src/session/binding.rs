//! Binding statements to the catalog, and what is prepared of them.

use std::sync::Arc;

use super::Session;
use super::block::{State, in_failed_block, statement_of};
use super::portal::{LastBound, Prepared};
use super::run::{Runnable, is_moot, is_unknown_name};
use crate::bind::{self, Bound, ParamTypes, ParsedStatement};
use crate::catalog::CatalogView;
use crate::error::Result;
use crate::ir::{OutputColumn, Statement};

impl Session {
    /// Binds, or takes what was bound before against the same catalog.
    pub(super) fn bound(&self, runnable: &Runnable<'_>, view: &Arc<CatalogView>) -> Result<Arc<Bound>> {
        let path = self.settings.search_path();
        if let Some(prepared) = runnable.prepared
            && let Some(last) = &*prepared.bound.lock()
            && Arc::ptr_eq(&last.image, view.image())
            && last.path == path
        {
            return Ok(last.bound.clone());
        }
        let zone = self.settings.time_zone().clone();
        let types = ParamTypes::Fixed(runnable.types);
        let bound = Arc::new(bind::bind(runnable.statement, &**view, types, &self.eval_context(&zone))?);
        if let Some(prepared) = runnable.prepared
            && bound.cacheable
        {
            *prepared.bound.lock() =
                Some(LastBound { image: view.image().clone(), path, bound: bound.clone() });
        }
        Ok(bound)
    }

    /// Whether a statement has something to do by the newest image of the catalog, that had nothing to do by the one that it was
    /// bound against: what it is about may have been made by another node since.
    pub(super) async fn is_outdated(&mut self, runnable: &Runnable<'_>) -> Result<bool> {
        let newest = self.shared.catalog.refresh(&self.database).await?;
        let view = self.shared.catalog.over(newest).view(self.settings.search_path().into());
        let zone = self.settings.time_zone().clone();
        let types = ParamTypes::Fixed(runnable.types);
        let bound = bind::bind(runnable.statement, &*view, types, &self.eval_context(&zone));
        Ok(!bound.is_ok_and(|bound| is_moot(&bound.statement)))
    }

    /// Finds out the parameters and columns of a statement.
    pub(super) async fn prepare_parsed(
        &mut self,
        statement: Option<ParsedStatement>,
        types: ParamTypes<'_>,
    ) -> Result<Prepared> {
        let empty = |statement| {
            let (params, bound) = Default::default();
            Prepared { statement, params, columns: None, orders: false, bound }
        };
        let bindable = match &statement {
            Some(ParsedStatement::Bindable(bindable)) => bindable,
            Some(utility) => {
                let columns = self.utility_columns(utility);
                return Ok(Prepared { columns, ..empty(statement) });
            }
            None => return Ok(empty(None)),
        };
        if matches!(self.state, State::Failed(_)) {
            return Err(in_failed_block());
        }
        let zone = self.settings.time_zone().clone();
        let mut looked_again = false;
        let (bound, image, path) = loop {
            let catalog = match &self.state {
                State::Open(block) => block.catalog.clone(),
                _ => self.shared.catalog.begin(&self.database).await?,
            };
            let path = self.settings.search_path();
            let view = catalog.view(path.clone().into());
            match bind::bind(bindable, &*view, types, &self.eval_context(&zone)) {
                Ok(bound) => break (Arc::new(bound), view.image().clone(), path),
                Err(error) if is_unknown_name(&error) && !looked_again => {
                    looked_again = true;
                    match &self.state {
                        State::Open(block) if block.used => {
                            catalog.reload(&*statement_of(&block.transaction, false)).await?;
                        }
                        _ => {
                            catalog.refresh().await?;
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Prepared {
            params: bound.params.clone(),
            columns: bound.statement.columns().map(<[OutputColumn]>::to_vec),
            orders: matches!(&bound.statement, Statement::Query(plan) if plan.has_order()),
            bound: parking_lot::Mutex::new(bound.cacheable.then_some(LastBound { image, path, bound })),
            statement,
        })
    }
}
