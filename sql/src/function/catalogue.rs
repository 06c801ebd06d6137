//! Looking things up: the families' lists, indexed by name.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{Aggregate, Function, WindowFunction, WindowKind};
use crate::types::Type;

/// The families' functions. A new family is added here.
static FUNCTIONS: &[&[Function]] = &[
    super::math::FUNCTIONS,
    super::math::RANDOM,
    super::string::FUNCTIONS,
    super::string::ANY_FUNCTIONS,
    super::pattern::FUNCTIONS,
    super::bytes::FUNCTIONS,
    super::datetime::FUNCTIONS,
    super::extract::FUNCTIONS,
    super::interval::FUNCTIONS,
    super::to_char::FUNCTIONS,
    super::to_char_number::FUNCTIONS,
    super::system::FUNCTIONS,
    super::advisory::FUNCTIONS,
    super::operate::FUNCTIONS,
];

/// The families' operators.
static OPERATORS: &[&[Function]] = &[
    super::comparison::OPERATORS,
    super::arithmetic::OPERATORS,
    super::string::OPERATORS,
    super::string::ANY_OPERATORS,
    super::pattern::OPERATORS,
    super::bytes::OPERATORS,
    super::interval::OPERATORS,
    super::interval::ZONED_OPERATORS,
];

/// The aggregates.
static AGGREGATES: &[&[Aggregate]] = &[
    super::aggregate::AGGREGATES,
    super::aggregate::LENIENT,
    super::statistics::SPREADS,
    super::statistics::REGRESSIONS,
];

type ByName<T> = HashMap<&'static str, Vec<&'static T>>;

fn by_name<T>(families: &'static [&'static [T]], name: fn(&T) -> &'static str) -> ByName<T> {
    let mut index: ByName<T> = HashMap::new();
    for item in families.iter().flat_map(|family| family.iter()) {
        index.entry(name(item)).or_default().push(item);
    }
    index
}

/// All overloads of the function `name`.
pub fn functions(name: &str) -> &'static [&'static Function] {
    static INDEX: LazyLock<ByName<Function>> = LazyLock::new(|| by_name(FUNCTIONS, |f| f.name));
    INDEX.get(name).map_or(&[], Vec::as_slice)
}

/// All overloads of the operator `symbol`; a prefix operator has one argument.
pub fn operators(symbol: &str) -> &'static [&'static Function] {
    static INDEX: LazyLock<ByName<Function>> = LazyLock::new(|| by_name(OPERATORS, |f| f.name));
    INDEX.get(symbol).map_or(&[], Vec::as_slice)
}

/// All overloads of the aggregate `name`.
pub fn aggregates(name: &str) -> &'static [&'static Aggregate] {
    static INDEX: LazyLock<ByName<Aggregate>> = LazyLock::new(|| by_name(AGGREGATES, |f| f.name));
    INDEX.get(name).map_or(&[], Vec::as_slice)
}

/// Every function.
pub fn all_functions() -> impl Iterator<Item = &'static Function> {
    FUNCTIONS.iter().flat_map(|family| family.iter())
}

/// Every operator.
pub fn all_operators() -> impl Iterator<Item = &'static Function> {
    OPERATORS.iter().flat_map(|family| family.iter())
}

/// Every aggregate.
pub fn all_aggregates() -> impl Iterator<Item = &'static Aggregate> {
    AGGREGATES.iter().flat_map(|family| family.iter())
}

/// The window function `name`.
pub fn window_function(name: &str) -> Option<&'static WindowFunction> {
    static WINDOW: &[WindowFunction] = &[
        WindowFunction { name: "row_number", kind: WindowKind::RowNumber },
        WindowFunction { name: "rank", kind: WindowKind::Rank },
        WindowFunction { name: "dense_rank", kind: WindowKind::DenseRank },
        WindowFunction { name: "percent_rank", kind: WindowKind::PercentRank },
        WindowFunction { name: "cume_dist", kind: WindowKind::CumeDist },
        WindowFunction { name: "ntile", kind: WindowKind::Ntile },
        WindowFunction { name: "lag", kind: WindowKind::Lag },
        WindowFunction { name: "lead", kind: WindowKind::Lead },
        WindowFunction { name: "first_value", kind: WindowKind::FirstValue },
        WindowFunction { name: "last_value", kind: WindowKind::LastValue },
        WindowFunction { name: "nth_value", kind: WindowKind::NthValue },
    ];
    WINDOW.iter().find(|f| f.name == name)
}

/// Where a cast may be applied (`pg_cast.castcontext`); each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CastContext {
    /// Anywhere.
    Implicit,
    /// When a value is assigned to a column.
    Assignment,
    /// When it is written out.
    Explicit,
}

/// A cast between two types. The target's modifier is a matter of `Expr::Coerce`.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// The conversion; `None`: the value stays as it is.
    pub function: Option<&'static Function>,
    /// Where it may be applied.
    pub context: CastContext,
}

/// The cast from one type to another, of any context. `from == to` is a cast that does nothing.
/// From [`Type::Unknown`] there is none: an untyped literal is parsed ([`crate::types::io::parse`]).
pub fn cast(from: Type, to: Type) -> Option<Cast> {
    static INDEX: LazyLock<HashMap<(Type, Type), Cast>> = LazyLock::new(|| {
        let entries = super::cast::CASTS.iter().chain(super::cast::RELABELLINGS);
        entries
            .map(|entry| {
                let cast = Cast { function: entry.function.as_ref(), context: entry.context };
                ((entry.from, entry.to), cast)
            })
            .collect()
    });
    if from == to {
        return Some(Cast { function: None, context: CastContext::Implicit });
    }
    INDEX.get(&(from, to)).copied()
}

/// The names of a function's parameters.
#[derive(Debug)]
pub struct Parameters {
    /// The function.
    pub function: &'static str,
    /// In order.
    pub names: &'static [&'static str],
    /// Each may be left out, and is zero then.
    pub optional: bool,
}

/// The functions that can be called with named arguments (`pg_proc.proargnames`), once for each number of parameters.
/// Most of PostgreSQL's own functions have no names for theirs.
pub static PARAMETERS: &[Parameters] = &[
    Parameters { function: "make_date", names: &["year", "month", "day"], optional: false },
    Parameters { function: "make_time", names: &["hour", "min", "sec"], optional: false },
    Parameters {
        function: "make_timestamp",
        names: &["year", "month", "mday", "hour", "min", "sec"],
        optional: false,
    },
    Parameters {
        function: "make_timestamptz",
        names: &["year", "month", "mday", "hour", "min", "sec"],
        optional: false,
    },
    Parameters {
        function: "make_timestamptz",
        names: &["year", "month", "mday", "hour", "min", "sec", "timezone"],
        optional: false,
    },
    Parameters {
        function: "make_interval",
        names: &["years", "months", "weeks", "days", "hours", "mins", "secs"],
        optional: true,
    },
];
