//! COPY.

use sqlparser::ast::Ident;

use super::insert::column_index;
use super::scope::fold;
use super::utility::{CopyStatement, CopyWhat};
use super::{Binder, LevelKind};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{CopyFormat, CopyFrom, CopyOptions, CopyTo, Expr, OutputColumn, Plan, Statement};

impl Binder<'_> {
    pub(super) fn copy(&mut self, copy: &CopyStatement) -> Result<Statement> {
        let options = self.copy_options(&copy.options)?;
        match &copy.what {
            CopyWhat::Query(query) => {
                let source = self.query(query, LevelKind::Root)?;
                Ok(Statement::CopyTo(CopyTo { source, options }))
            }
            CopyWhat::Table { table, columns } => {
                // Virtual tables can be read.
                let mut indexes = Vec::with_capacity(columns.len());
                if !copy.from {
                    let (plan, _) = self.in_level(LevelKind::Root, |this| this.table(table, None))?;
                    let names: Vec<String> = plan.columns().iter().map(|c| c.name.clone()).collect();
                    if columns.is_empty() {
                        return Ok(Statement::CopyTo(CopyTo { source: plan, options }));
                    }
                    for name in columns {
                        let shown = fold(name);
                        let index = names.iter().position(|n| *n == shown).ok_or_else(|| {
                            let (_, table) = super::scope::table_name(table).unwrap_or_default();
                            SqlError::new(
                                SqlState::UNDEFINED_COLUMN,
                                format!("column \"{shown}\" of relation \"{table}\" does not exist"),
                            )
                        })?;
                        self.once(&mut indexes, index, name)?;
                    }
                    let output: Vec<OutputColumn> =
                        indexes.iter().map(|i| plan.columns()[*i].clone()).collect();
                    let exprs = indexes.iter().zip(&output).map(|(i, c)| Expr::Column(*i, c.ty)).collect();
                    let source = Plan::Project { input: Box::new(plan), exprs, columns: output };
                    return Ok(Statement::CopyTo(CopyTo { source, options }));
                }
                let table = self.stored_table(table)?;
                for name in columns {
                    let index = column_index(&table, &fold(name))?;
                    self.once(&mut indexes, index, name)?;
                }
                if columns.is_empty() {
                    indexes = (0..table.columns.len()).collect();
                }
                let mut defaults = Vec::new();
                for i in 0..table.columns.len() {
                    if !indexes.contains(&i) {
                        defaults.push((i, self.default_of(&table, i)?));
                    }
                }
                Ok(Statement::CopyFrom(CopyFrom { table, columns: indexes, defaults, options }))
            }
        }
    }

    fn once(&self, indexes: &mut Vec<usize>, index: usize, name: &Ident) -> Result<()> {
        if indexes.contains(&index) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{}\" specified more than once", fold(name)),
            ));
        }
        indexes.push(index);
        Ok(())
    }

    fn copy_options(&self, given: &[(Ident, Option<String>)]) -> Result<CopyOptions> {
        let invalid = |message: String| SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message);
        let mut format = CopyFormat::Text;
        let (mut delimiter, mut null, mut quote, mut escape, mut header) = (None, None, None, None, false);
        let mut seen: Vec<String> = Vec::new();
        for (ident, value) in given {
            let position = self.source.start(ident.span);
            let name = fold(ident);
            if seen.contains(&name) {
                return Err(
                    SqlError::new(SqlState::SYNTAX_ERROR, "conflicting or redundant options").at(position)
                );
            }
            let needed = || {
                value.clone().ok_or_else(|| {
                    SqlError::new(SqlState::SYNTAX_ERROR, format!("{name} requires a parameter"))
                })
            };
            let byte = |what: &str| -> Result<u8> {
                match needed()?.as_bytes() {
                    [b] => Ok(*b),
                    _ => Err(SqlError::new(
                        SqlState::FEATURE_NOT_SUPPORTED,
                        format!("COPY {what} must be a single one-byte character"),
                    )),
                }
            };
            let boolean = || match value.as_deref().map(str::to_ascii_lowercase).as_deref() {
                None | Some("true" | "on" | "1") => Ok(true),
                Some("false" | "off" | "0") => Ok(false),
                Some(_) => {
                    Err(SqlError::new(SqlState::SYNTAX_ERROR, format!("{name} requires a Boolean value")))
                }
            };
            match name.as_str() {
                "format" => {
                    format = match needed()?.as_str() {
                        "text" => CopyFormat::Text,
                        "csv" => CopyFormat::Csv,
                        "binary" => return Err(SqlError::unsupported("COPY in binary format").at(position)),
                        other => {
                            return Err(
                                invalid(format!("COPY format \"{other}\" not recognized")).at(position)
                            );
                        }
                    }
                }
                // A hint about visibility that there is no use for.
                "freeze" => {
                    boolean()?;
                }
                "delimiter" => delimiter = Some(byte("delimiter")?),
                "null" => null = Some(needed()?),
                "header" if value.as_deref() == Some("match") => {
                    return Err(SqlError::unsupported("HEADER MATCH").at(position));
                }
                "header" => header = boolean()?,
                "quote" => quote = Some(byte("quote")?),
                "escape" => escape = Some(byte("escape")?),
                "encoding" => {
                    let encoding = needed()?;
                    if !matches!(encoding.to_ascii_lowercase().as_str(), "utf8" | "utf-8" | "unicode") {
                        return Err(SqlError::unsupported(format!("the encoding {encoding}")).at(position));
                    }
                }
                "force_quote" | "force_not_null" | "force_null" | "default" | "on_error" => {
                    return Err(SqlError::unsupported(format!("COPY option {name}")).at(position));
                }
                other => {
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        format!("option \"{other}\" not recognized"),
                    )
                    .at(position));
                }
            }
            seen.push(name);
        }
        let csv = format == CopyFormat::Csv;
        let only_csv = |present: bool, what: &str| match present && !csv {
            true => Err(SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("COPY {what} available only in CSV mode"),
            )),
            false => Ok(()),
        };
        only_csv(quote.is_some(), "quote")?;
        only_csv(escape.is_some(), "escape")?;
        let delimiter = delimiter.unwrap_or(if csv { b',' } else { b'\t' });
        let null: String = null.unwrap_or_else(|| if csv { String::new() } else { "\\N".into() });
        let quote = quote.unwrap_or(b'"');
        let newline = |b: u8| b == b'\n' || b == b'\r';
        if newline(delimiter) {
            return Err(invalid("COPY delimiter cannot be newline or carriage return".into()));
        }
        if null.bytes().any(newline) {
            return Err(invalid("COPY null representation cannot use newline or carriage return".into()));
        }
        if !csv
            && (delimiter.is_ascii_lowercase() || delimiter.is_ascii_digit() || b"\\.".contains(&delimiter))
        {
            return Err(invalid(format!("COPY delimiter cannot be \"{}\"", delimiter as char)));
        }
        if csv && delimiter == quote {
            return Err(invalid("COPY delimiter and quote must be different".into()));
        }
        if null.as_bytes().contains(&delimiter) {
            return Err(invalid("COPY delimiter must not appear in the NULL specification".into()));
        }
        if csv && null.as_bytes().contains(&quote) {
            return Err(invalid("CSV quote character must not appear in the NULL specification".into()));
        }
        Ok(CopyOptions { format, delimiter, null, header, quote, escape: escape.unwrap_or(quote) })
    }
}
