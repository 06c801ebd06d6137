//! Which function, operator or common type is meant (PostgreSQL 15, chapter 10).
//!
//! Arguments are given by their types; an untyped literal or parameter is [`Type::Unknown`]. The answer says which
//! type each argument must be brought to; that can always be done by [`super::cast`] (its context is implicit), by
//! parsing (for a literal) or by giving the parameter that type.

use super::{Aggregate, CastContext, Function};
use crate::error::{Result, SqlError, SqlState};
use crate::types::Type;

/// A chosen function.
#[derive(Clone, Debug)]
pub struct Resolved<F: 'static = Function> {
    /// The function.
    pub function: &'static F,
    /// The type that each argument must be brought to; equal to the argument's own where nothing is to be done.
    pub args: Vec<Type>,
}

/// The function that `name(args)` calls. Otherwise `42883` or `42725`.
pub fn function(name: &str, args: &[Type]) -> Result<Resolved> {
    let _ = (name, args);
    Err(SqlError::new(SqlState::UNDEFINED_FUNCTION, "function does not exist"))
}

/// `name(arg)` may be a cast in disguise (`float8(x)`, `date('2020-01-01')`): asked before [`function`] when there
/// is exactly one argument. Gives the type to (explicitly) cast to.
pub fn function_style_cast(name: &str, arg: Type) -> Option<Type> {
    let _ = (name, arg);
    None
}

/// The function of the binary (two arguments) or prefix (one argument) operator `symbol`.
/// `!=` is `<>`. AND, OR, NOT and IS are no operators.
pub fn operator(symbol: &str, args: &[Type]) -> Result<Resolved> {
    let _ = (symbol, args);
    Err(SqlError::new(SqlState::UNDEFINED_FUNCTION, "operator does not exist"))
}

/// The aggregate that `name(args)` calls; `count(*)` is asked for with no arguments.
/// An error with `42883` if there is none; ask [`super::aggregates`] first whether the name is an aggregate's.
pub fn aggregate(name: &str, args: &[Type]) -> Result<Resolved<Aggregate>> {
    let _ = (name, args);
    Err(SqlError::new(SqlState::UNDEFINED_FUNCTION, "aggregate does not exist"))
}

/// The common type of UNION, CASE, COALESCE, VALUES … (chapter 10.5), for which `context` is the word in the error:
/// `UNION types integer and text cannot be matched` (`42804`). All unknown gives `text`.
pub fn common_type(context: &str, types: &[Type]) -> Result<Type> {
    let _ = (context, types);
    Ok(Type::Text)
}

/// Whether a value of type `from` may become one of type `to` in this context. Unknown may become anything.
pub fn can_coerce(from: Type, to: Type, context: CastContext) -> bool {
    from == Type::Unknown || super::cast(from, to).is_some_and(|cast| cast.context <= context)
}
