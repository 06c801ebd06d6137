//! [`SqlError`]: what a client is told, with PostgreSQL's SQLSTATE.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// A five-character SQLSTATE (PostgreSQL 15, appendix A).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub &'static str);

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        #[allow(missing_docs, reason = "the names are PostgreSQL's condition names")]
        impl SqlState { $($(#[$doc])* pub const $name: SqlState = SqlState($code);)* }
    };
}

states! {
    SUCCESSFUL_COMPLETION = "00000";
    WARNING = "01000";
    CONNECTION_FAILURE = "08006";
    PROTOCOL_VIOLATION = "08P01";
    TRANSACTION_RESOLUTION_UNKNOWN = "08007";
    FEATURE_NOT_SUPPORTED = "0A000";
    CARDINALITY_VIOLATION = "21000";
    STRING_DATA_RIGHT_TRUNCATION = "22001";
    NUMERIC_VALUE_OUT_OF_RANGE = "22003";
    NULL_VALUE_NOT_ALLOWED = "22004";
    INVALID_DATETIME_FORMAT = "22007";
    DATETIME_FIELD_OVERFLOW = "22008";
    INVALID_TIME_ZONE_DISPLACEMENT_VALUE = "22009";
    SUBSTRING_ERROR = "22011";
    DIVISION_BY_ZERO = "22012";
    INTERVAL_FIELD_OVERFLOW = "22015";
    INVALID_ARGUMENT_FOR_LOG = "2201E";
    INVALID_ARGUMENT_FOR_POWER_FUNCTION = "2201F";
    INVALID_REGULAR_EXPRESSION = "2201B";
    INVALID_ROW_COUNT_IN_LIMIT_CLAUSE = "2201W";
    INVALID_ROW_COUNT_IN_RESULT_OFFSET_CLAUSE = "2201X";
    CHARACTER_NOT_IN_REPERTOIRE = "22021";
    INVALID_PARAMETER_VALUE = "22023";
    INVALID_ESCAPE_SEQUENCE = "22025";
    INVALID_TEXT_REPRESENTATION = "22P02";
    INVALID_BINARY_REPRESENTATION = "22P03";
    BAD_COPY_FILE_FORMAT = "22P04";
    UNTRANSLATABLE_CHARACTER = "22P05";
    NOT_NULL_VIOLATION = "23502";
    FOREIGN_KEY_VIOLATION = "23503";
    UNIQUE_VIOLATION = "23505";
    CHECK_VIOLATION = "23514";
    INVALID_CURSOR_STATE = "24000";
    ACTIVE_SQL_TRANSACTION = "25001";
    READ_ONLY_SQL_TRANSACTION = "25006";
    NO_ACTIVE_SQL_TRANSACTION = "25P01";
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = "25P03";
    TRANSACTION_TIMEOUT = "25P04";
    INVALID_SAVEPOINT_SPECIFICATION = "3B001";
    IN_FAILED_SQL_TRANSACTION = "25P02";
    INVALID_SQL_STATEMENT_NAME = "26000";
    INVALID_AUTHORIZATION_SPECIFICATION = "28000";
    INVALID_CURSOR_NAME = "34000";
    INVALID_CATALOG_NAME = "3D000";
    INVALID_SCHEMA_NAME = "3F000";
    SERIALIZATION_FAILURE = "40001";
    STATEMENT_COMPLETION_UNKNOWN = "40003";
    DEADLOCK_DETECTED = "40P01";
    SYNTAX_ERROR = "42601";
    INSUFFICIENT_PRIVILEGE = "42501";
    CANNOT_COERCE = "42846";
    GROUPING_ERROR = "42803";
    WINDOWING_ERROR = "42P20";
    INVALID_RECURSION = "42P19";
    DATATYPE_MISMATCH = "42804";
    WRONG_OBJECT_TYPE = "42809";
    UNDEFINED_COLUMN = "42703";
    UNDEFINED_FUNCTION = "42883";
    UNDEFINED_TABLE = "42P01";
    UNDEFINED_PARAMETER = "42P02";
    UNDEFINED_OBJECT = "42704";
    DUPLICATE_COLUMN = "42701";
    DUPLICATE_CURSOR = "42P03";
    DUPLICATE_DATABASE = "42P04";
    DUPLICATE_PREPARED_STATEMENT = "42P05";
    DUPLICATE_SCHEMA = "42P06";
    DUPLICATE_TABLE = "42P07";
    DUPLICATE_ALIAS = "42712";
    DUPLICATE_OBJECT = "42710";
    AMBIGUOUS_COLUMN = "42702";
    AMBIGUOUS_FUNCTION = "42725";
    AMBIGUOUS_PARAMETER = "42P08";
    INVALID_COLUMN_REFERENCE = "42P10";
    INVALID_COLUMN_DEFINITION = "42611";
    INVALID_FOREIGN_KEY = "42830";
    INVALID_TABLE_DEFINITION = "42P16";
    INVALID_OBJECT_DEFINITION = "42P17";
    INDETERMINATE_DATATYPE = "42P18";
    INSUFFICIENT_RESOURCES = "53000";
    OUT_OF_MEMORY = "53200";
    SNAPSHOT_TOO_OLD = "72000";
    TOO_MANY_CONNECTIONS = "53300";
    PROGRAM_LIMIT_EXCEEDED = "54000";
    TOO_MANY_ARGUMENTS = "54023";
    STATEMENT_TOO_COMPLEX = "54001";
    OBJECT_NOT_IN_PREREQUISITE_STATE = "55000";
    OBJECT_IN_USE = "55006";
    CANT_CHANGE_RUNTIME_PARAM = "55P02";
    LOCK_NOT_AVAILABLE = "55P03";
    QUERY_CANCELED = "57014";
    ADMIN_SHUTDOWN = "57P01";
    CANNOT_CONNECT_NOW = "57P03";
    IDLE_SESSION_TIMEOUT = "57P05";
    DEPENDENT_OBJECTS_STILL_EXIST = "2BP01";
    INTERNAL_ERROR = "XX000";
    DATA_CORRUPTED = "XX001";
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// An error as PostgreSQL's ErrorResponse carries it. Its fields are those of [`ErrorFields`], kept behind a pointer: they are
/// many, and every result of this crate has room for an error.
#[derive(Clone)]
pub struct SqlError(Box<ErrorFields>);

/// What an error says.
#[derive(Clone, Debug)]
pub struct ErrorFields {
    /// The SQLSTATE.
    pub state: SqlState,
    /// The primary message: lower case, no full stop, as PostgreSQL words it.
    pub message: Cow<'static, str>,
    /// DETAIL.
    pub detail: Option<String>,
    /// HINT.
    pub hint: Option<String>,
    /// CONTEXT: where in the data the error is.
    pub context: Option<String>,
    /// 1-based position in the statement, in characters.
    pub position: Option<u32>,
    /// The constraint, table and column that the error is about, where there is one.
    pub object: Option<Box<ErrorObject>>,
    /// The error of the layer below, for those who decide about a retry.
    pub source: Option<txn::Error>,
}

impl Deref for SqlError {
    type Target = ErrorFields;

    fn deref(&self) -> &ErrorFields {
        &self.0
    }
}

impl DerefMut for SqlError {
    fn deref_mut(&mut self) -> &mut ErrorFields {
        &mut self.0
    }
}

impl fmt::Debug for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an integrity violation is about (fields `s`, `t`, `c`, `n` of ErrorResponse).
#[derive(Clone, Debug, Default)]
pub struct ErrorObject {
    /// Schema.
    pub schema: Option<String>,
    /// Table.
    pub table: Option<String>,
    /// Column.
    pub column: Option<String>,
    /// Constraint.
    pub constraint: Option<String>,
}

/// The crate's result.
pub type Result<T, E = SqlError> = std::result::Result<T, E>;

impl SqlError {
    /// An error with a state and a message.
    pub fn new(state: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(ErrorFields {
            state,
            message: message.into(),
            detail: None,
            hint: None,
            context: None,
            position: None,
            object: None,
            source: None,
        }))
    }

    /// `0A000`: what isn't there yet is refused, never answered wrongly.
    pub fn unsupported(what: impl fmt::Display) -> Self {
        Self::new(SqlState::FEATURE_NOT_SUPPORTED, format!("{what} is not supported"))
    }

    /// `XX000`: an invariant does not hold.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(SqlState::INTERNAL_ERROR, message)
    }

    /// Adds a DETAIL.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a HINT.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says where in the data the error is.
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.context = Some(context.into());
        self
    }

    /// Sets the position, unless it is known already.
    pub fn at(mut self, position: Option<u32>) -> Self {
        self.position = self.position.or(position);
        self
    }

    /// Counts the position from further in front.
    pub fn shifted(mut self, by: u32) -> Self {
        self.position = self.position.map(|position| position + by);
        self
    }

    /// Names the object the error is about.
    pub fn object(mut self, object: ErrorObject) -> Self {
        self.object = Some(Box::new(object));
        self
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.state.0)
    }
}

impl std::error::Error for SqlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

impl From<txn::Error> for SqlError {
    fn from(error: txn::Error) -> Self {
        use txn::Error as E;
        let (state, message) = match &error {
            E::Conflict { .. } | E::Aborted(_) | E::FenceMismatch { .. } => (
                SqlState::SERIALIZATION_FAILURE,
                "could not serialize access due to concurrent update".into(),
            ),
            E::SnapshotTooOld { .. } => (SqlState::SNAPSHOT_TOO_OLD, "snapshot too old".into()),
            E::Changed { deleted, .. } => (
                SqlState::SERIALIZATION_FAILURE,
                match deleted {
                    true => "could not serialize access due to concurrent delete".into(),
                    false => "could not serialize access due to concurrent update".into(),
                },
            ),
            E::AlreadyExists { .. } => {
                (SqlState::UNIQUE_VIOLATION, "duplicate key value violates unique constraint".into())
            }
            E::Locked { timed_out: true, .. } => {
                (SqlState::LOCK_NOT_AVAILABLE, "canceling statement due to lock timeout".into())
            }
            E::Locked { .. } => (SqlState::LOCK_NOT_AVAILABLE, "could not obtain lock on row".into()),
            E::Deadlock { .. } => (SqlState::DEADLOCK_DETECTED, "deadlock detected".into()),
            E::LocksLost(_) => (
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection because its advisory locks are lost".into(),
            ),
            E::Ambiguous(_) => (SqlState::STATEMENT_COMPLETION_UNKNOWN, Cow::Owned(error.to_string())),
            E::Unavailable(_) => (SqlState::CANNOT_CONNECT_NOW, Cow::Owned(error.to_string())),
            E::TooLarge(_) => (SqlState::PROGRAM_LIMIT_EXCEEDED, Cow::Owned(error.to_string())),
            E::Unsupported(_) => (SqlState::FEATURE_NOT_SUPPORTED, Cow::Owned(error.to_string())),
            E::Corruption(_) => (SqlState::DATA_CORRUPTED, Cow::Owned(error.to_string())),
            E::Invalid(_) | E::Internal(_) => (SqlState::INTERNAL_ERROR, Cow::Owned(error.to_string())),
        };
        let mut out = SqlError::new(state, message);
        match &error {
            E::Conflict { .. } | E::Changed { .. } => {
                out = out.detail(error.to_string()).hint("The transaction might succeed if retried.");
            }
            E::SnapshotTooOld { .. } => {
                out = out.detail(error.to_string()).hint(
                    "Old versions are kept for gc_ttl, and for open transactions no longer than gc_hold_max \
                     (see flotilla admin settings).",
                );
            }
            E::Ambiguous(_) => {
                out = out.hint("The transaction may have been committed, or not. Look before you try again.");
            }
            E::LocksLost(why) => out = out.detail(format!("The locks' leader cannot vouch for them: {why}.")),
            E::Aborted(why) => {
                out = out.detail(why.clone()).hint("The transaction might succeed if retried.")
            }
            E::Deadlock { .. } => {
                out = out
                    .detail(
                        "Transactions waited for each other's row locks; this one was chosen to be ended.",
                    )
                    .hint("The transaction might succeed if retried.");
            }
            _ => {}
        }
        out.source = Some(error);
        out
    }
}
