//! `$1`, `$2` …: declared or inferred types.

use super::Binder;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::Expr;
use crate::types::{ColumnType, Type};

/// Messages of the protocol count parameters in 16 bits.
const PARAMS_MAX: usize = 65_535;

/// What is known of a statement's parameters before it is bound.
#[derive(Clone, Copy, Debug)]
pub enum ParamTypes<'a> {
    /// There are these and no others. A simple query has none.
    Fixed(&'a [Type]),
    /// Those that are declared; [`Type::Unknown`] or missing ones are to be inferred from their use.
    Inferred(&'a [Type]),
}

/// The statement's parameters.
pub(super) struct Params {
    types: Vec<Type>,
    /// No other may be used.
    fixed: bool,
    /// The first that was met, with its place.
    first: Option<(usize, Option<u32>)>,
    /// How many uses of each have not said yet what it must be.
    open: Vec<isize>,
}

impl Params {
    pub fn new(known: ParamTypes<'_>) -> Self {
        let (declared, fixed) = match known {
            ParamTypes::Fixed(types) => (types, true),
            ParamTypes::Inferred(types) => (types, false),
        };
        Self { types: declared.to_vec(), fixed, first: None, open: vec![0; declared.len()] }
    }

    /// `42P02` if one was used, where there can't be any.
    pub fn refuse(&self) -> Result<()> {
        match self.first {
            Some((index, position)) => Err(no_parameter(&format!("${}", index + 1)).at(position)),
            None => Ok(()),
        }
    }

    /// The types, all known.
    pub fn finish(&self) -> Result<Vec<Type>> {
        for (n, (ty, open)) in self.types.iter().zip(&self.open).enumerate() {
            if *ty == Type::Unknown || *open > 0 {
                return Err(SqlError::new(
                    SqlState::INDETERMINATE_DATATYPE,
                    format!("could not determine data type of parameter ${}", n + 1),
                ));
            }
        }
        Ok(self.types.clone())
    }
}

impl Binder<'_> {
    /// `$n`
    pub(super) fn param(&mut self, text: &str, position: Option<u32>) -> Result<Expr> {
        let number = text.strip_prefix('$').and_then(|n| n.parse::<usize>().ok());
        let index = match number {
            Some(n @ 1..=PARAMS_MAX) if !self.params.fixed || n <= self.params.types.len() => n - 1,
            _ => return Err(no_parameter(text).at(position)),
        };
        let params = &mut self.params;
        params.first.get_or_insert((index, position));
        if params.types.len() <= index {
            params.types.resize(index + 1, Type::Unknown);
            params.open.resize(index + 1, 0);
        }
        if params.types[index] == Type::Unknown {
            params.open[index] += 1;
        }
        Ok(Expr::Param(index, ColumnType::plain(params.types[index])))
    }

    /// Says what a parameter of yet unknown type must be.
    pub(super) fn decide_param(&mut self, index: usize, ty: Type, position: Option<u32>) -> Result<Expr> {
        let known = &mut self.params.types[index];
        if *known == Type::Unknown {
            *known = ty;
        } else if *known != ty {
            return Err(SqlError::new(
                SqlState::AMBIGUOUS_PARAMETER,
                format!("inconsistent types deduced for parameter ${}", index + 1),
            )
            .detail(format!("{} versus {}", *known, ty))
            .at(position));
        }
        self.params.open[index] -= 1;
        Ok(Expr::Param(index, ColumnType::plain(ty)))
    }
}

fn no_parameter(text: &str) -> SqlError {
    SqlError::new(SqlState::UNDEFINED_PARAMETER, format!("there is no parameter {text}"))
}
