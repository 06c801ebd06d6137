//! Statements.

use std::sync::{Arc, LazyLock};

use txn::LockMode;

use super::{Expr, OutputColumn, Plan, Rivals};
use crate::catalog::{Placement, ReferentialAction, TableDescriptor};
use crate::types::{ColumnType, Type};

/// A bound statement.
#[derive(Clone, Debug)]
pub enum Statement {
    /// SELECT, VALUES, TABLE.
    Query(Plan),
    /// SELECT … FOR UPDATE, FOR SHARE … over one table.
    SelectLocked(SelectLocked),
    /// Any other query that locks rows, anywhere in it.
    QueryLocked {
        /// The query.
        plan: Plan,
        /// The strongest of its locks.
        mode: LockMode,
    },
    /// INSERT.
    Insert(Insert),
    /// UPDATE.
    Update(Update),
    /// DELETE.
    Delete(Delete),
    /// COPY … FROM STDIN.
    CopyFrom(CopyFrom),
    /// COPY … TO STDOUT.
    CopyTo(CopyTo),
    /// EXPLAIN [ANALYZE].
    Explain {
        /// What is explained.
        statement: Box<Statement>,
        /// Run it and say what it took.
        analyze: bool,
    },
    /// CREATE, DROP, ALTER, TRUNCATE: carried out by the catalog.
    Ddl(Ddl),
}

impl Statement {
    /// The columns of the rows that the statement answers with; `None` if it answers with none.
    pub fn columns(&self) -> Option<&[OutputColumn]> {
        static PLAN: LazyLock<[OutputColumn; 1]> = LazyLock::new(|| {
            [OutputColumn { name: "QUERY PLAN".into(), ty: ColumnType::plain(Type::Text), origin: None }]
        });
        match self {
            Statement::Query(plan) | Statement::QueryLocked { plan, .. } => Some(plan.columns()),
            Statement::SelectLocked(select) => Some(&select.columns),
            Statement::Insert(Insert { returning: r, .. })
            | Statement::Update(Update { returning: r, .. })
            | Statement::Delete(Delete { returning: r, .. }) => r.as_ref().map(|r| r.columns.as_slice()),
            Statement::Explain { .. } => Some(&*PLAN),
            Statement::CopyFrom(_) | Statement::CopyTo(_) | Statement::Ddl(_) => None,
        }
    }
}

/// SELECT … FOR UPDATE, FOR SHARE over one table.
#[derive(Clone, Debug)]
pub struct SelectLocked {
    /// The table whose rows are locked.
    pub table: Arc<TableDescriptor>,
    /// The query without its LIMIT; its last column is the row's storage key.
    pub source: Plan,
    /// What the client sees: the columns before that.
    pub columns: Vec<OutputColumn>,
    /// LIMIT: counted after locking, so that rows which are skipped don't count.
    pub limit: Option<Expr>,
    /// OFFSET
    pub offset: Option<Expr>,
    /// How strongly.
    pub mode: LockMode,
    /// NOWAIT, SKIP LOCKED.
    pub rivals: Rivals,
}

/// INSERT INTO table …
#[derive(Clone, Debug)]
pub struct Insert {
    /// The table.
    pub table: Arc<TableDescriptor>,
    /// Rows of exactly the table's visible columns in order, of the columns' types and modifiers, defaults filled in.
    pub source: Plan,
    /// ON CONFLICT.
    pub on_conflict: Option<OnConflict>,
    /// The constraints whose violation ON CONFLICT takes care of: 0 is the primary key, 1 the first UNIQUE constraint.
    pub arbiters: Vec<usize>,
    /// RETURNING over the new row.
    pub returning: Option<Returning>,
}

/// What ON CONFLICT does.
#[derive(Clone, Debug)]
pub enum OnConflict {
    /// DO NOTHING
    Nothing,
    /// DO UPDATE SET: new values by column index, over the existing row's columns followed by the proposed row's (`excluded`).
    Update {
        /// Column index and value.
        assignments: Vec<(usize, Expr)>,
        /// WHERE.
        filter: Option<Expr>,
    },
}

/// UPDATE table SET …
#[derive(Clone, Debug)]
pub struct Update {
    /// The table.
    pub table: Arc<TableDescriptor>,
    /// Puts out: the target's visible columns, its key (`bytea`), then one value for each of `assigned`, then whatever RETURNING needs
    /// of other tables in FROM. A target row that is put out twice is updated once, by the first.
    pub source: Plan,
    /// The indexes of the assigned columns.
    pub assigned: Vec<usize>,
    /// RETURNING over: the new row's visible columns, then the source's columns after the assigned values.
    pub returning: Option<Returning>,
}

/// DELETE FROM table …
#[derive(Clone, Debug)]
pub struct Delete {
    /// The table.
    pub table: Arc<TableDescriptor>,
    /// Puts out: the target's visible columns, its key, then whatever RETURNING needs of USING.
    pub source: Plan,
    /// RETURNING over: the old row's visible columns, then the source's columns after the key.
    pub returning: Option<Returning>,
}

/// A RETURNING list.
#[derive(Clone, Debug)]
pub struct Returning {
    /// The values.
    pub exprs: Vec<Expr>,
    /// Their columns.
    pub columns: Vec<OutputColumn>,
}

/// COPY's formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// text
    Text,
    /// csv
    Csv,
}

/// COPY's options (PostgreSQL 15, COPY).
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// FORMAT
    pub format: CopyFormat,
    /// DELIMITER
    pub delimiter: u8,
    /// NULL
    pub null: String,
    /// HEADER
    pub header: bool,
    /// QUOTE
    pub quote: u8,
    /// ESCAPE
    pub escape: u8,
}

/// COPY table (columns) FROM STDIN
#[derive(Clone, Debug)]
pub struct CopyFrom {
    /// The table.
    pub table: Arc<TableDescriptor>,
    /// The indexes of the columns that the data has.
    pub columns: Vec<usize>,
    /// For each other column its default.
    pub defaults: Vec<(usize, Expr)>,
    /// The options.
    pub options: CopyOptions,
}

/// COPY … TO STDOUT
#[derive(Clone, Debug)]
pub struct CopyTo {
    /// What is copied.
    pub source: Plan,
    /// The options.
    pub options: CopyOptions,
}

/// How a table is spread over shards.
#[derive(Clone, Debug, PartialEq)]
pub enum Sharding {
    /// In the database's shards, by key (the default); `shards` > 1 is refused, SPLIT AT says where.
    Range,
    /// By a hash of the primary key, or of a prefix of it.
    Hash {
        /// The number of shards.
        shards: u16,
        /// How many leading primary key columns are hashed.
        key_columns: usize,
    },
    /// A hidden row id spread over the shards, for tables without a primary key.
    RoundRobin {
        /// The number of shards.
        shards: u16,
    },
}

/// A column of CREATE TABLE.
#[derive(Clone, Debug)]
pub struct NewColumn {
    /// The name.
    pub name: String,
    /// The type.
    pub ty: ColumnType,
    /// NOT NULL.
    pub not_null: bool,
    /// DEFAULT: its SQL text (stored) and what it was bound to (checked).
    pub default: Option<(String, Expr)>,
}

/// A foreign key of CREATE TABLE or ALTER TABLE.
#[derive(Clone, Debug)]
pub struct NewForeignKey {
    /// The constraint's name.
    pub name: String,
    /// Indexes into the table's columns.
    pub columns: Vec<usize>,
    /// The table that is referred to; `None`: the table itself.
    pub parent: Option<Arc<TableDescriptor>>,
    /// Indexes into its columns.
    pub parent_columns: Vec<usize>,
    /// MATCH FULL.
    pub full: bool,
    /// ON DELETE.
    pub on_delete: ReferentialAction,
    /// ON UPDATE.
    pub on_update: ReferentialAction,
}

/// A foreign key that goes with what it rests on.
#[derive(Clone, Debug)]
pub struct Dependent {
    /// Its table.
    pub table: Arc<TableDescriptor>,
    /// Its name.
    pub name: String,
}

/// Foreign keys that are dropped first, and what is said about it.
#[derive(Clone, Debug, Default)]
pub struct Cascade {
    /// They.
    pub keys: Vec<Dependent>,
    /// NOTICE messages.
    pub notices: Vec<String>,
}

/// Schema changes.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the statements' own words")]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and never many")]
pub enum Ddl {
    CreateTable {
        schema: String,
        name: String,
        if_not_exists: bool,
        columns: Vec<NewColumn>,
        /// Column indexes and the constraint's name.
        primary_key: Option<(Vec<usize>, String)>,
        /// UNIQUE constraints: column indexes and names.
        unique: Vec<(Vec<usize>, String)>,
        /// CHECK constraints: name, SQL text, expression over the row.
        checks: Vec<(String, String, Expr)>,
        foreign_keys: Vec<NewForeignKey>,
        sharding: Sharding,
        placement: Box<Placement>,
        /// CREATE TABLE … AS.
        source: Option<Plan>,
    },
    DropTable {
        tables: Vec<Arc<TableDescriptor>>,
        cascade: Cascade,
    },
    Truncate {
        tables: Vec<Arc<TableDescriptor>>,
        notices: Vec<String>,
    },
    AddForeignKey {
        table: Arc<TableDescriptor>,
        key: NewForeignKey,
    },
    /// ALTER TABLE … DROP CONSTRAINT of a foreign key.
    DropForeignKey(Dependent),
    AddPrimaryKey {
        table: Arc<TableDescriptor>,
        columns: Vec<usize>,
        name: Option<String>,
    },
    /// ALTER TABLE … ADD UNIQUE; `index_only`: CREATE UNIQUE INDEX.
    AddUnique {
        table: Arc<TableDescriptor>,
        columns: Vec<usize>,
        name: String,
        index_only: bool,
    },
    /// ALTER TABLE … DROP CONSTRAINT and DROP INDEX: the place in the table's list; the command tag.
    DropUnique {
        table: Arc<TableDescriptor>,
        at: usize,
        tag: &'static str,
        cascade: Cascade,
    },
    /// Split points: each a prefix of the primary key's values.
    SplitAt {
        table: Arc<TableDescriptor>,
        points: Vec<Vec<Expr>>,
    },
    /// ALTER TABLE … SET (…): what is said of it is wanted from now on.
    SetPlacement {
        table: Arc<TableDescriptor>,
        placement: Placement,
    },
    AddColumn {
        table: Arc<TableDescriptor>,
        column: NewColumn,
        if_not_exists: bool,
    },
    DropColumn {
        table: Arc<TableDescriptor>,
        column: usize,
        cascade: Cascade,
    },
    RenameColumn {
        table: Arc<TableDescriptor>,
        column: usize,
        to: String,
    },
    RenameTable {
        table: Arc<TableDescriptor>,
        to: String,
    },
    CreateDatabase {
        name: String,
    },
    DropDatabase {
        name: String,
        if_exists: bool,
    },
    CreateSchema {
        name: String,
        if_not_exists: bool,
    },
    DropSchema {
        name: String,
        if_exists: bool,
    },
    /// Nothing to do, e.g. DROP TABLE IF EXISTS of nothing; the NOTICE to send.
    Nothing {
        tag: &'static str,
        notice: Option<String>,
    },
}

impl Ddl {
    /// The command as messages name it.
    pub fn command(&self) -> &'static str {
        match self {
            Ddl::CreateTable { source: None, .. } => "CREATE TABLE",
            Ddl::CreateTable { source: Some(_), .. } => "CREATE TABLE AS",
            Ddl::DropTable { .. } => "DROP TABLE",
            Ddl::Truncate { .. } => "TRUNCATE TABLE",
            Ddl::AddUnique { index_only: true, .. } => "CREATE INDEX",
            Ddl::DropUnique { tag, .. } => tag,
            Ddl::AddPrimaryKey { .. }
            | Ddl::AddUnique { .. }
            | Ddl::AddForeignKey { .. }
            | Ddl::DropForeignKey(_)
            | Ddl::SplitAt { .. }
            | Ddl::SetPlacement { .. }
            | Ddl::AddColumn { .. }
            | Ddl::DropColumn { .. }
            | Ddl::RenameColumn { .. }
            | Ddl::RenameTable { .. } => "ALTER TABLE",
            Ddl::CreateDatabase { .. } => "CREATE DATABASE",
            Ddl::DropDatabase { .. } => "DROP DATABASE",
            Ddl::CreateSchema { .. } => "CREATE SCHEMA",
            Ddl::DropSchema { .. } => "DROP SCHEMA",
            Ddl::Nothing { tag, .. } => tag,
        }
    }
}
