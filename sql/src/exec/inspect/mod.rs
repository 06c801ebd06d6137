//! Does what stands in the tables keep what the catalog promises? For `flotilla admin check`.
//!
//! ```text
//!   one snapshot ──▶ each database's catalog: names and tables agree, foreign keys have what they refer to
//!                └─▶ each table ── 1. its rows: readable, under the right key, NOT NULL and CHECK hold; each has its
//!                                     entries and its links, and what it refers to is there
//!                                  2. its indexes: so many entries as rows have; if not, which lead nowhere
//! ```
//!
//! If each row has its own entry, and there are so many entries as rows that have one, then there are no others: so an index is only
//! counted unless something is wrong with it. Whoever has a key twice is found because one entry can't lead to two rows.
//!
//! Everything is read at one timestamp, a page at a time, at a bounded rate; tables that are dropped, truncated or rewritten
//! meanwhile are left out. It goes below SQL: a plan could use the very index that is to be looked at.
//!
//! **Caveats.** A CHECK that isn't the same at all times (`now()`) is evaluated as of today. The snapshot holds garbage collection back no longer than
//! others may (`gc_hold_max`): tables that are not reached by then could not be looked at.

mod names;
mod source;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use txn::api::{BeginOptions, Isolation};
use txn::ids::Timestamp;

use self::source::Pace;
use super::StatementContext;
use crate::catalog::{Catalog, CatalogImage, TableDescriptor};
use crate::error::{Result, SqlError, SqlState};
use crate::function::EvalContext;
use crate::session::EPOCH_OFFSET_MICROS;
use crate::types::TimeZone;

/// Of each table so much is told in words; the rest is counted.
const FINDINGS_MAX: usize = 20;
/// What is told of one thing: a key may be of any size.
const TEXT_BYTES_MAX: usize = 2_000;
/// How often it is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// What a constraint's expression may hold in memory.
const MEMORY_BYTES_MAX: usize = 64 << 20;

/// What is to be inspected.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much is read per second, at most.
    pub bytes_per_second: u64,
    /// Tables: `name`, `schema.name` or `database.schema.name`; none: all.
    pub tables: Vec<String>,
}

/// What is told while it goes on.
#[derive(Clone, Debug)]
pub enum Step {
    /// It begins.
    Begun {
        /// The snapshot.
        at: Timestamp,
        /// How many tables there are to look at.
        tables: usize,
    },
    /// So far it is.
    Reading {
        /// The table.
        table: String,
        /// How many of its rows and entries have been read.
        read: u64,
    },
    /// A table, or a database's catalog, has been looked at.
    Done(Report),
}

/// What stands in a table, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The database's name.
    pub database: String,
    /// The schema's name; empty: this is about the database's catalog.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// Entries of its indexes, and links of its foreign keys.
    pub entries: u64,
    /// How many constraints were looked at.
    pub constraints: u64,
    /// What is wrong, the first of it.
    pub findings: Vec<Finding>,
    /// How much is wrong.
    pub found: u64,
    /// Why it could not be looked at.
    pub trouble: Option<String>,
    /// It was dropped, truncated or rewritten meanwhile.
    pub gone: bool,
}

/// What a finding is about, which says what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A row that can't be read, or does not lie where its values say.
    Row,
    /// NOT NULL or CHECK.
    Constraint,
    /// Rows with the same key.
    Duplicate,
    /// Entries of an index, or links of a foreign key: one lacks, or leads elsewhere.
    Index,
    /// A row refers to one that isn't there.
    Reference,
    /// The catalog contradicts itself.
    Catalog,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// The constraint's name, or the column's.
    pub constraint: String,
    /// What it is.
    pub text: String,
}

impl Report {
    fn of(table: &TableDescriptor, database: &str) -> Self {
        let (schema, table) = (table.schema.clone(), table.name.clone());
        Self { database: database.to_owned(), schema, table, ..Self::default() }
    }

    /// A database's catalog.
    fn of_catalog(database: &str) -> Self {
        Self { database: database.to_owned(), ..Self::default() }
    }

    fn find(&mut self, kind: Kind, constraint: &str, text: impl Into<String>) {
        self.found += 1;
        if self.findings.len() < FINDINGS_MAX {
            let (constraint, text) = (constraint.to_owned(), cut(text.into()));
            self.findings.push(Finding { kind, constraint, text });
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = text.floor_char_boundary(TEXT_BYTES_MAX);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Inspects tables, and tells how it goes. An error: nothing could be looked at, or nobody listens.
pub async fn inspect(catalog: &Arc<Catalog>, options: &Options, steps: mpsc::Sender<Step>) -> Result<()> {
    let begin = BeginOptions { read_only: true, isolation: Isolation::Snapshot, ..Default::default() };
    let transaction = catalog.cluster().begin(begin);
    let at = transaction.read_timestamp().await?;
    let seams = catalog.seams().clone();
    let mut inspector = Inspector {
        steps,
        pace: Pace::new(options.bytes_per_second, seams.clone()),
        told: seams.clock.now(),
    };
    let first = CatalogImage::load(&*transaction, "system").await?;
    let (mut chosen, mut unreadable) = (Vec::new(), Vec::new());
    for database in first.databases() {
        let image = match CatalogImage::load(&*transaction, &database.name).await {
            Ok(image) => Arc::new(image),
            // The other databases can be looked at all the same.
            Err(error) if error.state == SqlState::DATA_CORRUPTED => {
                let mut report = Report::of_catalog(&database.name);
                report.find(Kind::Catalog, "catalog", error.message.clone());
                unreadable.push(report);
                continue;
            }
            Err(error) => return Err(error),
        };
        let wanted = image.tables().filter(|table| is_chosen(options, &database.name, table));
        let tables: Vec<u32> = wanted.map(|table| table.id).collect();
        chosen.push((image, tables));
    }
    let names: Vec<&String> = options.tables.iter().filter(|name| !is_there(name, &chosen)).collect();
    if let Some(name) = names.first() {
        let text = format!("there is no table \"{name}\"");
        return Err(SqlError::new(SqlState::UNDEFINED_TABLE, text));
    }
    inspector.tell(Step::Begun { at, tables: chosen.iter().map(|(_, tables)| tables.len()).sum() }).await?;
    for report in unreadable {
        inspector.tell(Step::Done(report)).await?;
    }
    for (image, tables) in chosen {
        let name = image.database().name.clone();
        let context = Arc::new(StatementContext {
            database: Arc::clone(catalog.cluster()),
            transaction: Arc::clone(&transaction),
            catalog: catalog.over(Arc::clone(&image)).view(Arc::from(["public".to_owned()])),
            auto_commit: false,
            eval: eval_context(catalog, &name, at),
            params: Vec::new(),
            cancel: CancellationToken::new(),
            lock_timeout: None,
            memory_bytes_max: MEMORY_BYTES_MAX,
        });
        if options.tables.is_empty() {
            let report = names::inspect(&context).await;
            inspector.tell(Step::Done(report)).await?;
        }
        for table in tables.iter().filter_map(|id| image.table_by_id(*id)) {
            let report = table::inspect(table, &context, &mut inspector).await?;
            inspector.tell(Step::Done(report)).await?;
        }
    }
    transaction.rollback().await;
    Ok(())
}

/// What goes along while tables are read.
struct Inspector {
    steps: mpsc::Sender<Step>,
    pace: Pace,
    told: Instant,
}

impl Inspector {
    async fn tell(&mut self, step: Step) -> Result<()> {
        self.told = self.pace.now();
        let gone = |_| SqlError::new(SqlState::QUERY_CANCELED, "nobody waits for the inspection any more");
        self.steps.send(step).await.map_err(gone)
    }

    /// So many rows and entries of a table have been read, and these bytes since the last call.
    async fn reading(&mut self, report: &Report, bytes: u64) -> Result<()> {
        self.pace.spend(bytes).await;
        if self.pace.now().saturating_duration_since(self.told) < TELL_EVERY {
            return Ok(());
        }
        let table = format!("{}.{}.{}", report.database, report.schema, report.table);
        self.tell(Step::Reading { table, read: report.rows + report.entries }).await
    }
}

fn is_chosen(options: &Options, database: &str, table: &TableDescriptor) -> bool {
    options.tables.is_empty() || options.tables.iter().any(|name| is_named(name, database, table))
}

fn is_named(name: &str, database: &str, table: &TableDescriptor) -> bool {
    let mut parts = name.rsplit('.');
    parts.next() == Some(&table.name)
        && parts.next().is_none_or(|schema| schema == table.schema)
        && parts.next().is_none_or(|name| name == database)
        && parts.next().is_none()
}

fn is_there(name: &str, chosen: &[(Arc<CatalogImage>, Vec<u32>)]) -> bool {
    let named = |image: &CatalogImage, id: &u32| {
        image.table_by_id(*id).is_some_and(|table| is_named(name, &image.database().name, table))
    };
    chosen.iter().any(|(image, tables)| tables.iter().any(|id| named(image, id)))
}

fn eval_context(catalog: &Catalog, database: &str, at: Timestamp) -> EvalContext {
    let now = (at.physical_ms() as i64).saturating_mul(1000).saturating_sub(EPOCH_OFFSET_MICROS);
    EvalContext {
        transaction_time: now,
        statement_time: now,
        time_zone: TimeZone::default(),
        user: "root".into(),
        database: database.into(),
        schema: "public".into(),
        pid: 0,
        performer: None,
        seams: catalog.seams().clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_first_findings_and_counts_the_rest() {
        let mut report = Report::of_catalog("postgres");
        for n in 0..FINDINGS_MAX + 5 {
            report.find(Kind::Index, "i", format!("entry {n}"));
        }
        assert_eq!((report.findings.len(), report.found), (FINDINGS_MAX, FINDINGS_MAX as u64 + 5));
        assert_eq!(report.findings[1].text, "entry 1");
    }

    #[test]
    fn what_is_told_of_a_large_key_is_cut_between_characters() {
        let told = cut("ä".repeat(TEXT_BYTES_MAX));
        assert!(told.len() <= TEXT_BYTES_MAX + '…'.len_utf8() && told.ends_with("ä…"), "{}", told.len());
        assert_eq!(cut("short".to_owned()), "short");
    }
}
