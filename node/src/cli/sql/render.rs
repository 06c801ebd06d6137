//! Printing results.

use std::io::Write;

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentLineStyle, LineStyle, Table, TableStyle};

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table with aligned columns
    Aligned,
    /// Comma-separated values with a header (RFC 4180); NULL is empty, an empty string is ""
    Csv,
    /// An array of objects; numbers and booleans keep their type
    Json,
}

/// Rows as text.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub columns: Vec<String>,
    /// PostgreSQL's type names, where they are known.
    pub types: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
}

/// As psql draws tables: a line below the header, and bars between columns.
const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none().junction('|'))
    .header_separator(LineStyle::none().fill('-').junction('+'))
    .content_lines(ContentLineStyle::none().junction('|'));

/// Prints rows.
pub(crate) fn rows(out: &mut impl Write, format: Format, rows: &Rows) -> std::io::Result<()> {
    match format {
        Format::Aligned => aligned(out, rows),
        Format::Csv => csv(out, rows),
        Format::Json => json(out, rows),
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

fn aligned(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    if !rows.columns.is_empty() {
        let mut table = Table::new();
        table.load_style(STYLE);
        table.set_header(&rows.columns);
        for row in &rows.rows {
            table.add_row(row.iter().map(|v| v.as_deref().unwrap_or("")));
        }
        for (at, column) in table.column_iter_mut().enumerate() {
            let numbers =
                |row: &Vec<Option<String>>| row.get(at).and_then(Option::as_deref).is_none_or(is_number);
            if !rows.rows.is_empty() && rows.rows.iter().all(numbers) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    let count = rows.rows.len();
    writeln!(out, "({count} row{})", if count == 1 { "" } else { "s" })?;
    writeln!(out)
}

fn csv(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    let mut writer = csv::WriterBuilder::new().from_writer(out);
    writer.write_record(&rows.columns)?;
    for row in &rows.rows {
        writer.write_record(row.iter().map(|v| v.as_deref().unwrap_or("")))?;
    }
    writer.flush()
}

fn json(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    let objects: Vec<serde_json::Value> = rows
        .rows
        .iter()
        .map(|row| {
            let fields = rows.columns.iter().zip(row).enumerate().map(|(at, (name, value))| {
                let ty = rows.types.get(at).map_or("text", String::as_str);
                (name.clone(), value.as_deref().map_or(serde_json::Value::Null, |v| json_value(v, ty)))
            });
            serde_json::Value::Object(fields.collect())
        })
        .collect();
    serde_json::to_writer_pretty(&mut *out, &objects)?;
    writeln!(out)
}

fn json_value(text: &str, ty: &str) -> serde_json::Value {
    let parsed = match ty {
        "bool" => return serde_json::Value::Bool(text == "t"),
        "json" | "jsonb" => serde_json::from_str(text).ok(),
        "int2" | "int4" | "int8" | "float4" | "float8" => {
            serde_json::from_str::<serde_json::Number>(text).ok().map(serde_json::Value::Number)
        }
        // A numeric may have more digits than a reader's double: it stays text.
        _ => None,
    };
    parsed.unwrap_or_else(|| serde_json::Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Rows {
        Rows {
            columns: vec!["id".into(), "name".into()],
            types: vec!["int4".into(), "text".into()],
            rows: vec![vec![Some("1".into()), Some("a,b".into())], vec![Some("22".into()), None]],
        }
    }

    fn print(format: Format) -> String {
        let mut out = Vec::new();
        rows(&mut out, format, &sample()).expect("writing to memory");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn rows_in_each_format() {
        assert_eq!(print(Format::Aligned), " id | name\n----+------\n  1 | a,b\n 22 |\n(2 rows)\n\n");
        assert_eq!(print(Format::Csv), "id,name\n1,\"a,b\"\n22,\n");
        let json: serde_json::Value = serde_json::from_str(&print(Format::Json)).expect("JSON");
        assert_eq!(json, serde_json::json!([{"id": 1, "name": "a,b"}, {"id": 22, "name": null}]));
    }
}
