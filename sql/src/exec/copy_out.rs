//! COPY … TO STDOUT: rows in, lines out.

use std::sync::Arc;

use bytes::Bytes;

use super::{RowStream, StatementContext, query};
use crate::error::Result;
use crate::ir::{CopyFormat, CopyOptions, CopyTo, OutputColumn};
use crate::types::{Datum, io};

/// Begins COPY … TO STDOUT.
pub async fn begin(copy: &CopyTo, ctx: Arc<StatementContext>) -> Result<CopyOut> {
    let columns = copy.source.columns().to_vec();
    let rows = query::rows(&copy.source, &ctx).await?;
    Ok(CopyOut {
        columns: columns.len(),
        header: copy.options.header,
        options: copy.options.clone(),
        names: columns,
        rows,
        ctx,
    })
}

/// The sending end of COPY TO STDOUT.
pub struct CopyOut {
    /// How many columns the data has, for CopyOutResponse.
    pub columns: usize,
    names: Vec<OutputColumn>,
    options: CopyOptions,
    rows: Box<dyn RowStream>,
    ctx: Arc<StatementContext>,
    /// The header has yet to be sent.
    header: bool,
}

impl CopyOut {
    /// The next lines, with the number of rows in them; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<(Bytes, u64)>> {
        let mut out = Vec::new();
        if std::mem::take(&mut self.header) {
            let names: Vec<Option<String>> = self.names.iter().map(|c| Some(c.name.clone())).collect();
            self.line(&names, &mut out);
            return Ok(Some((out.into(), 0)));
        }
        let Some(batch) = self.rows.next().await? else { return Ok(None) };
        for row in &batch {
            let fields: Vec<Option<String>> = row
                .iter()
                .zip(&self.names)
                .map(|(datum, column)| match datum {
                    Datum::Null => None,
                    datum => Some(io::format(datum, column.ty, &self.ctx.eval.time_zone).into_owned()),
                })
                .collect();
            self.line(&fields, &mut out);
        }
        Ok(Some((out.into(), batch.len() as u64)))
    }

    fn line(&self, fields: &[Option<String>], out: &mut Vec<u8>) {
        for (at, field) in fields.iter().enumerate() {
            if at > 0 {
                out.push(self.options.delimiter);
            }
            match (field, self.options.format) {
                (None, _) => out.extend_from_slice(self.options.null.as_bytes()),
                (Some(text), CopyFormat::Text) => escape_text(text, self.options.delimiter, out),
                (Some(text), CopyFormat::Csv) => quote_csv(text, &self.options, fields.len() == 1, out),
            }
        }
        out.push(b'\n');
    }
}

fn escape_text(text: &str, delimiter: u8, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        let escaped = match byte {
            8 => b'b',
            12 => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            11 => b'v',
            b'\\' => b'\\',
            b if b == delimiter => b,
            b => {
                out.push(b);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', escaped]);
    }
}

fn quote_csv(text: &str, options: &CopyOptions, alone: bool, out: &mut Vec<u8>) {
    let special = |b: u8| b == options.delimiter || b == options.quote || b == b'\n' || b == b'\r';
    // An unquoted field that looks like NULL would be read as one, and a lone `\.` as the end of the data.
    let quoted = text == options.null || (alone && text == "\\.") || text.bytes().any(special);
    if !quoted {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(options.quote);
    for byte in text.bytes() {
        if byte == options.quote || byte == options.escape {
            out.push(options.escape);
        }
        out.push(byte);
    }
    out.push(options.quote);
}
