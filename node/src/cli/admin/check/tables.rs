//! The tables' side of `flotilla admin check`: constraints, indexes, foreign keys.

use std::time::Duration;

use proto::consistency as pb;
use proto::consistency::finding::Kind;
use proto::consistency::inspect_answer::Step;
use proto::consistency::inspection_client::InspectionClient;
use serde_json::json;
use storage::ids::Timestamp;
use storage::seam::Seams;
use tonic::{Code, Status};

use crate::cli::admin::progress::{Left, Meter};
use crate::cli::admin::{channel_over, describe, rendered, table};
use crate::exit::Failure;

/// Between two answers: a read that fails is tried again for some seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// What was found.
pub struct Inspected {
    /// The snapshot.
    pub at: Timestamp,
    pub tables: Vec<pb::TableReport>,
}

impl Inspected {
    /// How many tables are not as they should be.
    pub fn unsound(&self) -> usize {
        self.tables.iter().filter(|table| table.found > 0).count()
    }

    /// How many could not be looked at.
    pub fn unknown(&self) -> usize {
        self.tables.iter().filter(|table| !table.trouble.is_empty()).count()
    }

    /// In a line.
    pub fn sum(&self) -> String {
        let tables = self.tables.iter().filter(|table| !table.schema.is_empty());
        let rows: u64 = tables.clone().map(|table| table.rows).sum();
        let mut sum = format!(
            "{} tables, {rows} rows as of {}: {} not consistent, {} not looked at",
            tables.count(),
            self.at,
            self.unsound(),
            self.unknown()
        );
        let first = self.tables.iter().find_map(|table| Some((table, table.findings.first()?)));
        if let Some((table, finding)) = first {
            sum += &format!("; {}, {}: {}", name(table), finding.constraint, finding.text);
        }
        sum
    }
}

/// Asks a node to look at tables.
pub async fn inspect(tables: &[String], bytes_per_second: u64, host: &str) -> Result<Inspected, Failure> {
    let seams = Seams::real();
    let mut client = InspectionClient::new(channel_over(&seams, host).await?);
    let failed = |status: Status| match status.code() {
        // Not even the list of databases can be read.
        Code::DataLoss => Failure::Differs(format!("the catalog: {}", status.message())),
        _ => describe(host, &status),
    };
    let request = pb::InspectRequest { bytes_per_second, tables: tables.to_vec() };
    let mut answers = client.inspect(request).await.map_err(failed)?.into_inner();
    let mut inspected = Inspected { at: Timestamp::ZERO, tables: Vec::new() };
    let (mut meter, mut all) = (Meter::new(), 0);
    loop {
        let next = tokio::select! {
            next = answers.message() => next.map_err(failed)?,
            () = seams.sleep(SILENCE_LIMIT) => return Err(Failure::Unreachable(format!("{host} has fallen silent"))),
        };
        let Some(answer) = next else { break };
        match answer.step {
            Some(Step::Begun(begun)) => (inspected.at, all) = (Timestamp(begun.at), begun.tables),
            Some(Step::Reading(reading)) => {
                let done = inspected.tables.iter().filter(|table| !table.schema.is_empty()).count();
                let left = Left { count: u64::saturating_sub(all, done as u64), unit: "tables", bytes: 0 };
                meter.show(&format!("{}: {} rows and entries", reading.table, reading.read), Some(left));
            }
            Some(Step::Table(table)) => inspected.tables.push(table),
            None => {}
        }
    }
    meter.clear();
    Ok(inspected)
}

fn name(table: &pb::TableReport) -> String {
    match table.schema.is_empty() {
        true => format!("{} (catalog)", table.database),
        false => format!("{}.{}.{}", table.database, table.schema, table.table),
    }
}

fn state(table: &pb::TableReport) -> &'static str {
    match table {
        table if table.found > 0 => "inconsistent",
        table if !table.trouble.is_empty() => "unknown",
        table if table.gone => "gone",
        _ => "consistent",
    }
}

fn kind(finding: &pb::Finding) -> &'static str {
    match finding.kind() {
        Kind::Row => "row",
        Kind::Constraint => "constraint",
        Kind::Duplicate => "duplicate",
        Kind::Index => "index",
        Kind::Reference => "reference",
        Kind::Catalog => "catalog",
        Kind::Unspecified => "unknown",
    }
}

pub fn as_table(inspected: &Inspected) -> String {
    let mut out = table(&["TABLE", "ROWS", "ENTRIES", "CONSTRAINTS", "STATE", "CONSTRAINT", "DETAIL"]);
    for report in &inspected.tables {
        let (rows, entries) = (report.rows.to_string(), report.entries.to_string());
        let line = [&name(report), &rows, &entries, &report.constraints.to_string(), state(report)];
        if report.findings.is_empty() {
            out.add_row(line.into_iter().chain(["", &report.trouble]));
        }
        for (at, finding) in report.findings.iter().enumerate() {
            let line = if at == 0 { line } else { [""; 5] };
            out.add_row(line.into_iter().chain([&finding.constraint[..], &finding.text]));
        }
        let more = report.found - (report.findings.len() as u64).min(report.found);
        if more > 0 {
            out.add_row([""; 6].into_iter().chain([&format!("and {more} more")[..]]));
        }
    }
    rendered(out)
}

pub fn as_values(inspected: &Inspected) -> serde_json::Value {
    let finding = |finding: &pb::Finding| json!({ "kind": kind(finding), "constraint": finding.constraint, "detail": finding.text });
    let tables = inspected.tables.iter().map(|table| {
        json!({
            "database": table.database,
            "schema": (!table.schema.is_empty()).then_some(&table.schema),
            "table": (!table.schema.is_empty()).then_some(&table.table),
            "rows": table.rows, "entries": table.entries, "constraints": table.constraints,
            "state": state(table), "found": table.found, "trouble": table.trouble,
            "findings": table.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    });
    json!({ "timestamp": inspected.at.to_string(), "tables": tables.collect::<Vec<_>>() })
}
