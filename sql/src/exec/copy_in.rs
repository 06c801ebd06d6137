//! COPY … FROM STDIN: bytes in, rows out.
//!
//! The data arrives in pieces that end anywhere. [`Reader`] cuts complete lines out of them and splits those into fields;
//! [`CopyIn`] turns fields into rows and hands them to the [`RowWriter`]. The formats are PostgreSQL's (15, COPY,
//! "File Formats"): a general CSV reader would not tell `""` (an empty string) from nothing (NULL).

use std::sync::Arc;

use super::StatementContext;
use super::write::RowWriter;
use crate::error::{Result, SqlError, SqlState};
use crate::eval::{self, Env};
use crate::ir::{CopyFormat, CopyFrom, CopyOptions};
use crate::types::{Datum, io};

/// A line may not be longer than this: what is buffered of an unfinished one is bounded.
const LINE_BYTES_MAX: usize = 64 << 20;
/// A value longer than this is cut in an error's context.
const CONTEXT_CHARS_MAX: usize = 100;

/// Begins COPY … FROM STDIN.
pub async fn begin(copy: &CopyFrom, ctx: Arc<StatementContext>) -> Result<CopyIn> {
    Ok(CopyIn {
        columns: copy.columns.len(),
        writer: RowWriter::new(&copy.table, &ctx)?,
        reader: Reader::new(copy.options.clone()),
        copy: copy.clone(),
        ctx,
        rows: 0,
        row: Vec::new(),
    })
}

/// The receiving end of COPY FROM STDIN.
pub struct CopyIn {
    /// How many columns the data has, for CopyInResponse.
    pub columns: usize,
    copy: CopyFrom,
    ctx: Arc<StatementContext>,
    writer: RowWriter,
    reader: Reader,
    rows: u64,
    row: Vec<Datum>,
}

impl CopyIn {
    /// Takes data; lines need not be whole. Full batches are written to the transaction before this returns, so that the
    /// client is slowed down to what the cluster takes.
    pub async fn push(&mut self, data: &[u8]) -> Result<()> {
        self.reader.buffer.extend_from_slice(data);
        self.drain(false).await
    }

    /// The client has sent everything: writes what is left, and says how many rows there were (`COPY 3`).
    pub async fn finish(mut self) -> Result<u64> {
        self.drain(true).await?;
        self.writer.finish().await?;
        Ok(self.rows)
    }

    async fn drain(&mut self, last: bool) -> Result<()> {
        let table = self.copy.table.clone();
        let mut fields = Vec::with_capacity(self.columns);
        loop {
            let line = self.reader.line + 1;
            let here = |error: SqlError, rest: &str| {
                error.context(format!("COPY {}, line {line}{rest}", table.name))
            };
            match self.reader.next(last, &mut fields) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(here(error, "")),
            }
            if fields.len() < self.columns {
                let missing = &table.columns[self.copy.columns[fields.len()]].name;
                let error = SqlError::new(
                    SqlState::BAD_COPY_FILE_FORMAT,
                    format!("missing data for column \"{missing}\""),
                );
                return Err(here(error, ""));
            }
            if fields.len() > self.columns {
                let error =
                    SqlError::new(SqlState::BAD_COPY_FILE_FORMAT, "extra data after last expected column");
                return Err(here(error, ""));
            }
            self.row.clear();
            self.row.resize(table.columns.len(), Datum::Null);
            for (field, &column) in fields.iter().zip(&self.copy.columns) {
                let Some(field) = field else { continue };
                let descriptor = &table.columns[column];
                let value = text(field).and_then(|text| io::parse(text, descriptor.ty, &self.ctx.eval));
                self.row[column] = value.map_err(|error| {
                    let shown: String =
                        String::from_utf8_lossy(field).chars().take(CONTEXT_CHARS_MAX).collect();
                    here(error, &format!(", column {}: \"{shown}\"", descriptor.name))
                })?;
            }
            for (column, default) in &self.copy.defaults {
                let env = Env { ctx: &self.ctx.eval, params: &self.ctx.params, outer: &[] };
                self.row[*column] = eval::eval(default, &[], &env)?;
            }
            self.writer.insert(&self.row).await.map_err(|error| here(error, ""))?;
            self.rows += 1;
        }
        Ok(())
    }
}

/// A field as text; `22021` if it is none.
fn text(field: &[u8]) -> Result<&str> {
    std::str::from_utf8(field).map_err(|error| {
        let from = error.valid_up_to();
        let bad = &field[from..(from + error.error_len().unwrap_or(1)).min(field.len())];
        let shown: Vec<String> = bad.iter().map(|b| format!("0x{b:02x}")).collect();
        SqlError::new(
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            format!("invalid byte sequence for encoding \"UTF8\": {}", shown.join(" ")),
        )
    })
}

/// A field: `None` is NULL.
type Field = Option<Vec<u8>>;

/// Cuts lines out of a growing buffer.
struct Reader {
    options: CopyOptions,
    buffer: Vec<u8>,
    /// What was consumed of the buffer.
    start: usize,
    /// How far the search for the end of the present line has come, so that a long line is not searched again with each piece.
    searched: usize,
    /// Inside quotes at `searched` (csv).
    quoted: bool,
    line: u64,
    /// The header has yet to be skipped.
    header: bool,
    /// The end marker was met: the rest is ignored.
    ended: bool,
}

impl Reader {
    fn new(options: CopyOptions) -> Self {
        let header = options.header;
        Self {
            options,
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            quoted: false,
            line: 0,
            header,
            ended: false,
        }
    }

    /// Reads the next line's fields; false when there is no complete one.
    fn next(&mut self, last: bool, fields: &mut Vec<Field>) -> Result<bool> {
        loop {
            let Some(end) = self.line_end(last)? else {
                self.buffer.drain(..self.start);
                self.searched -= self.start;
                self.start = 0;
                return Ok(false);
            };
            let begin = self.start;
            let mut content = end;
            if content > begin && self.buffer[content - 1] == b'\r' {
                content -= 1;
            }
            self.start = (end + 1).min(self.buffer.len());
            self.searched = self.start;
            self.line += 1;
            let line = &self.buffer[begin..content];
            if std::mem::take(&mut self.header) {
                continue;
            }
            if line == b"\\." {
                self.ended = true;
            }
            if self.ended {
                continue;
            }
            fields.clear();
            match self.options.format {
                CopyFormat::Text => split_text(line, &self.options, fields),
                CopyFormat::Csv => split_csv(line, &self.options, fields),
            }
            return Ok(true);
        }
    }

    /// Where the present line's newline is (or the data's end).
    fn line_end(&mut self, last: bool) -> Result<Option<usize>> {
        let csv = self.options.format == CopyFormat::Csv;
        let (quote, escape) = (self.options.quote, self.options.escape);
        let mut at = self.searched;
        while at < self.buffer.len() {
            let byte = self.buffer[at];
            if csv && self.quoted && byte == escape && escape != quote {
                // The escaped byte belongs to the line whatever it is; if it has yet to come, look again then.
                if at + 1 >= self.buffer.len() && !last {
                    break;
                }
                at += 2;
                continue;
            }
            if csv && byte == quote {
                self.quoted = !self.quoted;
            } else if !csv && byte == b'\\' {
                if at + 1 >= self.buffer.len() && !last {
                    break;
                }
                // A backslash takes the next byte's meaning, also a newline's; but `\.` ends at its newline.
                at += 2;
                continue;
            } else if byte == b'\n' && !self.quoted {
                return Ok(Some(at));
            }
            at += 1;
        }
        self.searched = at.min(self.buffer.len());
        if self.buffer.len() - self.start > LINE_BYTES_MAX {
            return Err(SqlError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("line is longer than {LINE_BYTES_MAX} bytes"),
            ));
        }
        if last && self.start < self.buffer.len() {
            if self.quoted {
                return Err(SqlError::new(SqlState::BAD_COPY_FILE_FORMAT, "unterminated CSV quoted field"));
            }
            return Ok(Some(self.buffer.len()));
        }
        Ok(None)
    }
}

fn split_text(line: &[u8], options: &CopyOptions, fields: &mut Vec<Field>) {
    let null = options.null.as_bytes();
    let mut at = 0;
    loop {
        let begin = at;
        let mut escapes = false;
        while at < line.len() && line[at] != options.delimiter {
            if line[at] == b'\\' {
                escapes = true;
                at += 1;
            }
            at += 1;
        }
        let raw = &line[begin..at.min(line.len())];
        fields.push(if raw == null {
            None
        } else if escapes {
            Some(unescape(raw))
        } else {
            Some(raw.to_vec())
        });
        if at >= line.len() {
            return;
        }
        at += 1;
    }
}

fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        if raw[at] != b'\\' || at + 1 == raw.len() {
            out.push(raw[at]);
            at += 1;
            continue;
        }
        let escaped = raw[at + 1];
        at += 2;
        let digits = |radix: u32, from: usize, max: usize| {
            raw[from..].iter().take(max).take_while(|b| (**b as char).is_digit(radix)).count()
        };
        let number = |radix: u32, from: usize, count: usize| {
            raw[from..from + count]
                .iter()
                .fold(0_u32, |n, b| n * radix + (*b as char).to_digit(radix).unwrap_or(0))
        };
        match escaped {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(11),
            b'0'..=b'7' => {
                let count = digits(8, at - 1, 3);
                out.push(number(8, at - 1, count) as u8);
                at += count - 1;
            }
            b'x' if digits(16, at, 2) > 0 => {
                let count = digits(16, at, 2);
                out.push(number(16, at, count) as u8);
                at += count;
            }
            other => out.push(other),
        }
    }
    out
}

fn split_csv(line: &[u8], options: &CopyOptions, fields: &mut Vec<Field>) {
    let mut at = 0;
    loop {
        let (mut value, mut was_quoted, mut inside) = (Vec::new(), false, false);
        while at < line.len() {
            let byte = line[at];
            if inside {
                let escaped = byte == options.escape
                    && line.get(at + 1).is_some_and(|next| *next == options.quote || *next == options.escape);
                if escaped {
                    value.push(line[at + 1]);
                    at += 2;
                    continue;
                }
                if byte == options.quote {
                    inside = false;
                } else {
                    value.push(byte);
                }
            } else if byte == options.delimiter {
                break;
            } else if byte == options.quote {
                (inside, was_quoted) = (true, true);
            } else {
                value.push(byte);
            }
            at += 1;
        }
        let null = !was_quoted && value == options.null.as_bytes();
        fields.push((!null).then_some(value));
        if at >= line.len() {
            return;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(format: CopyFormat) -> CopyOptions {
        let (delimiter, null) = match format {
            CopyFormat::Text => (b'\t', "\\N"),
            CopyFormat::Csv => (b',', ""),
        };
        CopyOptions { format, delimiter, null: null.into(), header: false, quote: b'"', escape: b'"' }
    }

    /// All lines of `data`, fed in pieces of each size, which must not matter.
    fn read(format: CopyFormat, data: &str) -> Vec<Vec<Option<String>>> {
        let mut results = (1..=data.len().max(1)).map(|size| {
            let mut reader = Reader::new(options(format));
            let (mut lines, mut fields) = (Vec::new(), Vec::new());
            let mut take = |reader: &mut Reader, last| {
                while reader.next(last, &mut fields).expect("well-formed") {
                    let text = |f: &Field| f.as_ref().map(|f| String::from_utf8_lossy(f).into_owned());
                    lines.push(fields.iter().map(text).collect::<Vec<_>>());
                }
            };
            for piece in data.as_bytes().chunks(size) {
                reader.buffer.extend_from_slice(piece);
                take(&mut reader, false);
            }
            take(&mut reader, true);
            lines
        });
        let first = results.next().expect("one size at least");
        assert!(results.all(|other| other == first), "pieces of another size give the same lines");
        first
    }

    fn lines(expected: &[&[Option<&str>]]) -> Vec<Vec<Option<String>>> {
        expected.iter().map(|line| line.iter().map(|f| f.map(str::to_owned)).collect()).collect()
    }

    #[test]
    fn text_fields_with_escapes_nulls_and_an_end_marker() {
        assert_eq!(
            read(CopyFormat::Text, "1\ta\\tb\n2\t\\N\r\n3\t\\\\N\\x41\\101\n4\tend\\\nline\n\\.\nrest\n"),
            lines(&[
                &[Some("1"), Some("a\tb")],
                &[Some("2"), None],
                &[Some("3"), Some("\\NAA")],
                &[Some("4"), Some("end\nline")],
            ])
        );
    }

    #[test]
    fn csv_tells_empty_strings_from_nulls_and_keeps_quoted_newlines() {
        assert_eq!(
            read(CopyFormat::Csv, "1,\"a,\"\"b\"\"\"\n2,\n3,\"\"\n\"4\nx\",y"),
            lines(&[
                &[Some("1"), Some("a,\"b\"")],
                &[Some("2"), None],
                &[Some("3"), Some("")],
                &[Some("4\nx"), Some("y")],
            ])
        );
    }
}
