//! What a session is told to do, as it was parsed.

use sqlparser::ast;

use crate::bind::parse::Bindable;
use crate::types::Type;

/// A parsed statement.
#[derive(Debug)]
pub enum ParsedStatement {
    /// BEGIN, COMMIT, SAVEPOINT …
    Transaction(Transaction),
    /// SET, RESET.
    Set(Set),
    /// SHOW; `None`: ALL.
    Show(Option<String>),
    /// PREPARE, EXECUTE, cursors, VACUUM …
    Utility(Utility),
    /// What the binder binds.
    Bindable(Bindable),
}

/// Transaction control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// BEGIN
    Begin(TransactionModes),
    /// START TRANSACTION
    Start(TransactionModes),
    /// COMMIT or END.
    Commit {
        /// AND CHAIN
        chain: bool,
    },
    /// ROLLBACK or ABORT.
    Rollback {
        /// AND CHAIN
        chain: bool,
    },
    /// SAVEPOINT name
    Savepoint(String),
    /// RELEASE [SAVEPOINT] name
    Release(String),
    /// ROLLBACK TO [SAVEPOINT] name
    RollbackTo(String),
    /// SET TRANSACTION
    SetModes(TransactionModes),
    /// SET SESSION CHARACTERISTICS AS TRANSACTION
    SetSessionModes(TransactionModes),
    /// One of these that begin or shape a transaction, with AS OF SYSTEM TIME and its constant.
    AsOf(String, Box<Transaction>),
}

/// What a transaction is asked to be; `None`: not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionModes {
    /// ISOLATION LEVEL
    pub isolation: Option<Isolation>,
    /// READ ONLY, READ WRITE
    pub read_only: Option<bool>,
    /// [NOT] DEFERRABLE
    pub deferrable: Option<bool>,
}

/// SQL's isolation levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "SQL's own names")]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Isolation {
    const ALL: [Isolation; 4] = [
        Isolation::ReadUncommitted,
        Isolation::ReadCommitted,
        Isolation::RepeatableRead,
        Isolation::Serializable,
    ];

    /// The name as settings spell it.
    pub fn name(self) -> &'static str {
        match self {
            Isolation::ReadUncommitted => "read uncommitted",
            Isolation::ReadCommitted => "read committed",
            Isolation::RepeatableRead => "repeatable read",
            Isolation::Serializable => "serializable",
        }
    }

    /// How it is carried out. (READ UNCOMMITTED is READ COMMITTED, as in PostgreSQL.)
    pub fn level(self) -> txn::api::Isolation {
        match self {
            Isolation::ReadUncommitted | Isolation::ReadCommitted => txn::api::Isolation::ReadCommitted,
            Isolation::RepeatableRead => txn::api::Isolation::Snapshot,
            Isolation::Serializable => txn::api::Isolation::Serializable,
        }
    }

    /// The level of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// SET and RESET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The setting's name in lower case (`time zone` is `timezone`); `None`: RESET ALL.
    pub name: Option<String>,
    /// The values, as text without quotes; `None`: DEFAULT or RESET.
    pub value: Option<Vec<String>>,
    /// SET LOCAL
    pub local: bool,
    /// RESET
    pub reset: bool,
}

/// Which rows FETCH and MOVE want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchDirection {
    /// NEXT, FORWARD [n], n: the next n rows; negative: backwards.
    Forward(i64),
    /// ALL, FORWARD ALL
    All,
    /// BACKWARD ALL
    BackwardAll,
    /// FIRST is 1, LAST is -1.
    Absolute(i64),
    /// RELATIVE n
    Relative(i64),
}

/// Everything else that the session does.
#[derive(Debug)]
pub enum Utility {
    /// PREPARE name [(types)] AS statement
    Prepare {
        /// The name.
        name: String,
        /// The declared types; [`Type::Unknown`] where it is to be inferred.
        types: Vec<Type>,
        /// The statement.
        statement: Bindable,
    },
    /// EXECUTE name [(values)]: see [`crate::bind::bind_arguments`].
    Execute {
        /// The name.
        name: String,
        /// The arguments.
        arguments: Arguments,
    },
    /// DEALLOCATE; `None`: ALL.
    Deallocate(Option<String>),
    /// DISCARD ALL, PLANS, SEQUENCES, TEMP: the word in upper case.
    Discard(&'static str),
    /// DECLARE name CURSOR FOR query
    Declare {
        /// The name.
        name: String,
        /// BINARY
        binary: bool,
        /// SCROLL, NO SCROLL
        scroll: Option<bool>,
        /// WITH HOLD
        hold: bool,
        /// The query.
        query: Bindable,
    },
    /// FETCH, MOVE
    Fetch {
        /// The cursor.
        name: String,
        /// Which rows.
        direction: FetchDirection,
        /// MOVE: no rows are sent.
        moves: bool,
    },
    /// CLOSE; `None`: ALL.
    Close(Option<String>),
    /// VACUUM: there is nothing to vacuum by hand; the tables have yet to exist ([`crate::bind::check_tables`]).
    Vacuum(Vec<TableName>),
    /// ANALYZE
    Analyze(Vec<TableName>),
    /// LISTEN channel
    Listen(String),
    /// UNLISTEN; `None`: *.
    Unlisten(Option<String>),
    /// NOTIFY channel [, payload]
    Notify {
        /// The channel.
        channel: String,
        /// The payload.
        payload: String,
    },
    /// CHECKPOINT
    Checkpoint,
    /// ALTER SYSTEM, ALTER ROLE, ALTER DATABASE: SET and RESET.
    AlterDefaults(AlterDefaults),
}

/// What future sessions begin with.
#[derive(Clone, Debug)]
pub struct AlterDefaults {
    /// `ALTER SYSTEM`, `ALTER ROLE` or `ALTER DATABASE`.
    pub tag: &'static str,
    /// IN DATABASE, or the database itself.
    pub database: Option<String>,
    /// The role; `None`: ALL (or none was named).
    pub role: Option<Role>,
    /// The setting's name in lower case; `None`: RESET ALL.
    pub name: Option<String>,
    /// What it becomes.
    pub value: NewValue,
}

/// A role as a statement names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// By its name.
    Named(String),
    /// CURRENT_USER, SESSION_USER, CURRENT_ROLE
    Current,
}

/// What a setting becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewValue {
    /// These values, as of SET.
    Given(Vec<String>),
    /// FROM CURRENT
    Current,
    /// TO DEFAULT, RESET
    Default,
}

/// A table as a statement names it.
#[derive(Clone, Debug)]
pub struct TableName {
    /// The schema.
    pub schema: Option<String>,
    /// The name.
    pub name: String,
    /// Where it stands.
    pub position: Option<u32>,
}

/// EXECUTE's arguments.
#[derive(Debug)]
pub struct Arguments {
    pub(in crate::bind) source: crate::bind::source::Source,
    pub(in crate::bind) exprs: Vec<ast::Expr>,
}
