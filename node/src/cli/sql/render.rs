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
    let mut writer = csv::WriterBuilder::new().from_writer(&mut *out);
    writer.write_record(&rows.columns)?;
    writer.flush()?;
    drop(writer);
    for row in &rows.rows {
        let fields: Vec<String> = row.iter().map(|value| csv_field(value.as_deref())).collect();
        writeln!(out, "{}", fields.join(","))?;
    }
    out.flush()
}

/// NULL is nothing, and so that it can be told from that, an empty string is quoted.
fn csv_field(value: Option<&str>) -> String {
    let Some(value) = value else { return String::new() };
    match value.is_empty() || value.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", value.replace('"', "\"\"")),
        false => value.to_owned(),
    }
}

fn json(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    // Written by hand: the columns keep their order, and two of one name are both there.
    let mut text = String::from("[");
    for (number, row) in rows.rows.iter().enumerate() {
        text.push_str(if number == 0 { "\n  {" } else { ",\n  {" });
        for (at, (name, value)) in rows.columns.iter().zip(row).enumerate() {
            let ty = rows.types.get(at).map_or("text", String::as_str);
            let value = value.as_deref().map_or_else(|| "null".to_owned(), |value| json_value(value, ty));
            let comma = if at == 0 { "" } else { ", " };
            text.push_str(&format!("{comma}{}: {value}", serde_json::Value::from(name.as_str())));
        }
        text.push('}');
    }
    text.push_str(if rows.rows.is_empty() { "]" } else { "\n]" });
    writeln!(out, "{text}")
}

/// A value as JSON. Numbers keep all their digits; those that JSON doesn't know (NaN, infinities) are strings.
fn json_value(text: &str, ty: &str) -> String {
    let valid = |text: &str| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    match ty {
        "bool" => (text == "t").to_string(),
        "json" | "jsonb" | "int2" | "int4" | "int8" | "float4" | "float8" | "numeric" if valid(text) => {
            text.to_owned()
        }
        _ => serde_json::Value::from(text).to_string(),
    }
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

    #[test]
    fn nothing_is_lost_in_csv_and_json() {
        let odd = Rows {
            columns: vec!["b".into(), "a".into(), "b".into()],
            types: vec!["numeric".into(), "text".into(), "float8".into()],
            rows: vec![
                vec![Some("1.50".into()), Some(String::new()), None],
                vec![None, None, Some("NaN".into())],
            ],
        };
        let print = |format| {
            let mut out = Vec::new();
            rows(&mut out, format, &odd).expect("writing to memory");
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(print(Format::Csv), "b,a,b\n1.50,\"\",\n,,NaN\n");
        let json = "[\n  {\"b\": 1.50, \"a\": \"\", \"b\": null},\n  {\"b\": null, \"a\": null, \"b\": \"NaN\"}\n]\n";
        assert_eq!(print(Format::Json), json);
    }
}
