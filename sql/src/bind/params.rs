//! `$1`, `$2` …: declared or inferred types.

use super::Binder;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::Expr;
use crate::types::{ColumnType, Type};

/// Messages of the protocol count parameters in 16 bits.
const PARAMS_MAX: usize = 65_535;

/// The statement's parameters.
pub(super) struct Params {
    types: Vec<Type>,
    /// How many uses of each have not said yet what it must be.
    open: Vec<isize>,
}

impl Params {
    pub fn new(declared: &[Type]) -> Self {
        Self { types: declared.to_vec(), open: vec![0; declared.len()] }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
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
            Some(n @ 1..=PARAMS_MAX) => n - 1,
            _ => {
                return Err(SqlError::new(
                    SqlState::UNDEFINED_PARAMETER,
                    format!("there is no parameter {text}"),
                )
                .at(position));
            }
        };
        let params = &mut self.params;
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
