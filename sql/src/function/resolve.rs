//! Which function, operator or common type is meant (PostgreSQL 15, chapter 10).
//!
//! Arguments are given by their types; an untyped literal or parameter is [`Type::Unknown`]. The answer says which
//! type each argument must be brought to; that can always be done by [`super::cast`] (its context is implicit), by
//! parsing (for a literal) or by giving the parameter that type.

use super::{Aggregate, CastContext, Function, WindowKind};
use crate::error::{Result, SqlError, SqlState};
use crate::types::{Category, Type, by_name};

/// A chosen function.
#[derive(Clone, Debug)]
pub struct Resolved<F: 'static = Function> {
    /// The function.
    pub function: &'static F,
    /// The type that each argument must be brought to; equal to the argument's own where nothing is to be done.
    pub args: Vec<Type>,
}

/// What has overloads.
trait Signature {
    fn args(&self) -> &'static [Type];
    fn variadic(&self) -> Option<Type>;
}

impl Signature for Function {
    fn args(&self) -> &'static [Type] {
        self.args
    }
    fn variadic(&self) -> Option<Type> {
        self.variadic
    }
}

impl Signature for Aggregate {
    fn args(&self) -> &'static [Type] {
        self.args
    }
    fn variadic(&self) -> Option<Type> {
        None
    }
}

/// An overload with as many declared arguments as the call has; [`Type::Unknown`] takes anything.
struct Candidate<F: 'static> {
    function: &'static F,
    args: Vec<Type>,
}

enum Choice<F: 'static> {
    One(Resolved<F>),
    None,
    Ambiguous,
}

/// The function that `name(args)` calls. Otherwise `42883` or `42725`.
pub fn function(name: &str, args: &[Type]) -> Result<Resolved> {
    match choose(super::functions(name), args) {
        Choice::One(resolved) => Ok(resolved),
        Choice::None => Err(no_function(name, args)),
        Choice::Ambiguous => Err(ambiguous_function(name, args)),
    }
}

/// The aggregate that `name(args)` calls; `count(*)` is asked for with no arguments.
/// An error with `42883` if there is none; ask [`super::aggregates`] first whether the name is an aggregate's.
pub fn aggregate(name: &str, args: &[Type]) -> Result<Resolved<Aggregate>> {
    match choose(super::aggregates(name), args) {
        Choice::One(resolved) => Ok(resolved),
        Choice::None => Err(no_function(name, args)),
        Choice::Ambiguous => Err(ambiguous_function(name, args)),
    }
}

/// The types that the arguments of a window function must be brought to, and the result's type.
pub fn window(kind: WindowKind, args: &[Type]) -> Result<(Vec<Type>, Type)> {
    let of = |ty: Type| if ty == Type::Unknown { Type::Text } else { ty };
    let name = window_name(kind);
    let integer = |ty: &Type| can_coerce(*ty, Type::Int4, CastContext::Implicit);
    match (kind, args) {
        (WindowKind::RowNumber | WindowKind::Rank | WindowKind::DenseRank, []) => Ok((vec![], Type::Int8)),
        (WindowKind::PercentRank | WindowKind::CumeDist, []) => Ok((vec![], Type::Float8)),
        (WindowKind::Ntile, [n]) if integer(n) => Ok((vec![Type::Int4], Type::Int4)),
        (WindowKind::FirstValue | WindowKind::LastValue, [value]) => Ok((vec![of(*value)], of(*value))),
        (WindowKind::NthValue, [value, n]) if integer(n) => Ok((vec![of(*value), Type::Int4], of(*value))),
        (WindowKind::Lag | WindowKind::Lead, [value]) => Ok((vec![of(*value)], of(*value))),
        (WindowKind::Lag | WindowKind::Lead, [value, n]) if integer(n) => {
            Ok((vec![of(*value), Type::Int4], of(*value)))
        }
        (WindowKind::Lag | WindowKind::Lead, [value, n, default]) if integer(n) => {
            match common_type(name, &[*value, *default]) {
                Ok(common) => Ok((vec![common, Type::Int4, common], common)),
                Err(_) => Err(no_function(name, args)),
            }
        }
        _ => Err(no_function(name, args)),
    }
}

fn window_name(kind: WindowKind) -> &'static str {
    match kind {
        WindowKind::RowNumber => "row_number",
        WindowKind::Rank => "rank",
        WindowKind::DenseRank => "dense_rank",
        WindowKind::PercentRank => "percent_rank",
        WindowKind::CumeDist => "cume_dist",
        WindowKind::Ntile => "ntile",
        WindowKind::Lag => "lag",
        WindowKind::Lead => "lead",
        WindowKind::FirstValue => "first_value",
        WindowKind::LastValue => "last_value",
        WindowKind::NthValue => "nth_value",
    }
}

/// `name(arg)` may be a cast in disguise (`float8(x)`, `date('2020-01-01')`): asked before [`function`] when there
/// is exactly one argument. Gives the type to (explicitly) cast to.
pub fn function_style_cast(name: &str, arg: Type) -> Option<Type> {
    // Only names of pg_type: `integer(x)` is no function call in SQL's grammar either.
    let to =
        by_name(name, &[]).ok().flatten().map(|column| column.ty).filter(|ty| ty.internal_name() == name)?;
    if arg == Type::Unknown || super::cast(arg, to).is_some() { Some(to) } else { None }
}

/// The function of the binary (two arguments) or prefix (one argument) operator `symbol`.
/// `!=` is `<>`. AND, OR, NOT and IS are no operators.
pub fn operator(symbol: &str, args: &[Type]) -> Result<Resolved> {
    let symbol = if symbol == "!=" { "<>" } else { symbol };
    let overloads = super::operators(symbol);
    // An unknown operand is first taken to be of the other's type.
    if let [left, right] = args {
        let same = match (left, right) {
            (Type::Unknown, known) | (known, Type::Unknown) if *known != Type::Unknown => Some(*known),
            _ => None,
        };
        let exact = same.and_then(|ty| overloads.iter().find(|f| f.args == [ty, ty]));
        if let Some(function) = exact {
            return Ok(Resolved { function, args: function.args.to_vec() });
        }
    }
    match choose(overloads, args) {
        Choice::One(resolved) => Ok(resolved),
        Choice::None => {
            let message = format!("operator does not exist: {}", operator_text(symbol, args));
            Err(SqlError::new(SqlState::UNDEFINED_FUNCTION, message).hint(
                "No operator matches the given name and argument types. You might need to add explicit type casts.",
            ))
        }
        Choice::Ambiguous => {
            let message = format!("operator is not unique: {}", operator_text(symbol, args));
            Err(SqlError::new(SqlState::AMBIGUOUS_FUNCTION, message).hint(
                "Could not choose a best candidate operator. You might need to add explicit type casts.",
            ))
        }
    }
}

fn operator_text(symbol: &str, args: &[Type]) -> String {
    match args {
        [right] => format!("{symbol} {right}"),
        [left, right] => format!("{left} {symbol} {right}"),
        _ => symbol.into(),
    }
}

fn call_text(name: &str, args: &[Type]) -> String {
    let args: Vec<&str> = args.iter().map(|ty| ty.name()).collect();
    format!("{name}({})", args.join(", "))
}

/// Names of PostgreSQL 15's functions and aggregates (those that SQL can call, without casts and operators), sorted.
const POSTGRESQL_NAMES: &str = include_str!("postgresql_names.txt");

/// `0A000` for a name that PostgreSQL knows and we don't; otherwise `42883`.
fn no_function(name: &str, args: &[Type]) -> SqlError {
    let unknown = super::functions(name).is_empty() && super::aggregates(name).is_empty();
    if unknown && POSTGRESQL_NAMES.lines().any(|known| known == name) {
        return SqlError::unsupported(format!("function {}", call_text(name, args)));
    }
    let message = format!("function {} does not exist", call_text(name, args));
    SqlError::new(SqlState::UNDEFINED_FUNCTION, message).hint(
        "No function matches the given name and argument types. You might need to add explicit type casts.",
    )
}

fn ambiguous_function(name: &str, args: &[Type]) -> SqlError {
    let message = format!("function {} is not unique", call_text(name, args));
    SqlError::new(SqlState::AMBIGUOUS_FUNCTION, message)
        .hint("Could not choose a best candidate function. You might need to add explicit type casts.")
}

fn choose<F: Signature>(overloads: &[&'static F], args: &[Type]) -> Choice<F> {
    let mut candidates: Vec<Candidate<F>> = Vec::new();
    for function in overloads {
        let fixed = function.args();
        let declared = match function.variadic() {
            None if fixed.len() == args.len() => fixed.to_vec(),
            Some(ty) if args.len() > fixed.len() => {
                let mut declared = fixed.to_vec();
                declared.resize(args.len(), ty);
                declared
            }
            _ => continue,
        };
        if declared == args && !args.contains(&Type::Unknown) {
            return Choice::One(Resolved { function, args: declared });
        }
        let accepts = declared.iter().zip(args).all(|(to, from)| accepts(*to, *from));
        if accepts {
            candidates.push(Candidate { function, args: declared });
        }
    }
    match candidates.len() {
        0 => Choice::None,
        1 => finish(candidates, args),
        _ => select(candidates, args),
    }
}

fn accepts(declared: Type, given: Type) -> bool {
    declared == Type::Unknown || can_coerce(given, declared, CastContext::Implicit)
}

fn finish<F>(candidates: Vec<Candidate<F>>, args: &[Type]) -> Choice<F> {
    let Some(chosen) = candidates.into_iter().next() else { return Choice::None };
    let args = chosen
        .args
        .iter()
        .zip(args)
        .map(|(declared, given)| match (*declared, *given) {
            // An untyped literal where anything goes is text.
            (Type::Unknown, Type::Unknown) => Type::Text,
            (Type::Unknown, given) => given,
            (declared, _) => declared,
        })
        .collect();
    Choice::One(Resolved { function: chosen.function, args })
}

/// Keeps the candidates that score highest.
fn keep_best<F>(candidates: Vec<Candidate<F>>, score: impl Fn(&Candidate<F>) -> usize) -> Vec<Candidate<F>> {
    let scores: Vec<usize> = candidates.iter().map(&score).collect();
    let best = scores.iter().copied().max().unwrap_or(0);
    candidates
        .into_iter()
        .zip(scores)
        .filter(|(_, score)| *score == best)
        .map(|(candidate, _)| candidate)
        .collect()
}

/// The rules 10.2.3 / 10.3.4, from "run through all candidates" on.
fn select<F>(candidates: Vec<Candidate<F>>, args: &[Type]) -> Choice<F> {
    let known = |i: usize| args[i] != Type::Unknown;
    let count = args.len();
    let candidates =
        keep_best(candidates, |c| (0..count).filter(|&i| known(i) && c.args[i] == args[i]).count());
    if candidates.len() == 1 {
        return finish(candidates, args);
    }
    let mut candidates = keep_best(candidates, |c| {
        let fits = |i: usize| {
            let declared = c.args[i];
            declared == args[i] || (declared.is_preferred() && category(declared) == category(args[i]))
        };
        (0..count).filter(|&i| known(i) && fits(i)).count()
    });
    if candidates.len() == 1 {
        return finish(candidates, args);
    }
    if (0..count).all(known) {
        return Choice::Ambiguous;
    }
    if let Some(slots) = unknown_slots(&candidates, args) {
        let fits = |candidate: &Candidate<F>| {
            slots.iter().all(|(i, wanted, preferred)| {
                let declared = candidate.args[*i];
                category(declared) == *wanted && (!preferred || declared.is_preferred())
            })
        };
        if candidates.iter().any(fits) {
            candidates.retain(fits);
        }
        if candidates.len() == 1 {
            return finish(candidates, args);
        }
    }
    // Where all known arguments have one type, the unknown ones are taken to be of it, too.
    let mut known_types = args.iter().copied().filter(|ty| *ty != Type::Unknown);
    if let Some(first) = known_types.next().filter(|first| known_types.all(|ty| ty == *first)) {
        candidates.retain(|c| c.args.iter().all(|declared| accepts(*declared, first)));
        if candidates.len() == 1 {
            return finish(candidates, args);
        }
    }
    Choice::Ambiguous
}

fn category(declared: Type) -> Category {
    match declared {
        // Declared as "any".
        Type::Unknown => Category::Pseudo,
        ty => ty.category(),
    }
}

/// For each unknown argument: its place, the category that the candidates agree on (or string, if any accepts one),
/// and whether a candidate has the preferred type there. `None` if they don't agree.
fn unknown_slots<F>(candidates: &[Candidate<F>], args: &[Type]) -> Option<Vec<(usize, Category, bool)>> {
    let mut slots = Vec::new();
    for i in (0..args.len()).filter(|&i| args[i] == Type::Unknown) {
        let mut slot: Option<(Category, bool)> = None;
        let mut conflict = false;
        for candidate in candidates {
            let declared = candidate.args[i];
            let (found, preferred) = (category(declared), declared.is_preferred());
            slot = Some(match slot {
                None => (found, preferred),
                Some((wanted, any)) if wanted == found => (wanted, any || preferred),
                Some(_) if found == Category::String => (found, preferred),
                Some(other) => {
                    conflict |= other.0 != Category::String;
                    other
                }
            });
        }
        let (wanted, preferred) = slot?;
        if conflict && wanted != Category::String {
            return None;
        }
        slots.push((i, wanted, preferred));
    }
    Some(slots)
}

/// The common type of UNION, CASE, COALESCE, VALUES … (chapter 10.5), for which `context` is the word in the error:
/// `UNION types integer and text cannot be matched` (`42804`). All unknown gives `text`.
pub fn common_type(context: &str, types: &[Type]) -> Result<Type> {
    let mut common = Type::Unknown;
    for ty in types.iter().copied().filter(|ty| *ty != Type::Unknown) {
        if common == Type::Unknown {
            common = ty;
        } else if ty != common {
            if ty.category() != common.category() {
                return Err(SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!("{context} types {common} and {ty} cannot be matched"),
                ));
            }
            let (up, down) = (
                can_coerce(common, ty, CastContext::Implicit),
                can_coerce(ty, common, CastContext::Implicit),
            );
            if !common.is_preferred() && up && !down {
                common = ty;
            }
        }
    }
    if common == Type::Unknown {
        return Ok(Type::Text);
    }
    match types.iter().find(|ty| !can_coerce(**ty, common, CastContext::Implicit)) {
        Some(ty) => Err(SqlError::new(
            SqlState::CANNOT_COERCE,
            format!("{context} could not convert type {ty} to {common}"),
        )),
        None => Ok(common),
    }
}

/// Whether a value of type `from` may become one of type `to` in this context. Unknown may become anything.
pub fn can_coerce(from: Type, to: Type, context: CastContext) -> bool {
    from == Type::Unknown || super::cast(from, to).is_some_and(|cast| cast.context <= context)
}
