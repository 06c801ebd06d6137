//! The prompt: history, completion, statements over several lines.

use std::borrow::Cow;
use std::path::PathBuf;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};
use tokio_postgres::SimpleQueryMessage;

use super::Ran;
use super::client::Client;
use super::scan::{self, Piece};

/// Lines of history that are kept.
const HISTORY_MAX: usize = 10_000;
/// Names that are offered for completion, at most.
const NAMES_MAX: usize = 10_000;

const KEYWORDS: &[&str] = &[
    "ALTER TABLE",
    "ANALYZE",
    "AND",
    "AS",
    "ASC",
    "BEGIN",
    "BETWEEN",
    "BIGINT",
    "BOOLEAN",
    "BY",
    "CASE",
    "COMMIT",
    "COPY",
    "COUNT",
    "CREATE DATABASE",
    "CREATE TABLE",
    "CROSS JOIN",
    "DEFAULT",
    "DELETE FROM",
    "DESC",
    "DISTINCT",
    "DOUBLE PRECISION",
    "DROP DATABASE",
    "DROP TABLE",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FALSE",
    "FROM",
    "FULL JOIN",
    "GROUP BY",
    "HAVING",
    "IN",
    "INNER JOIN",
    "INSERT INTO",
    "INTEGER",
    "INTERSECT",
    "INTERVAL",
    "IS",
    "JOIN",
    "LEFT JOIN",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "NUMERIC",
    "OFFSET",
    "ON",
    "ON CONFLICT",
    "OR",
    "ORDER BY",
    "OVER",
    "PARTITION BY",
    "PRIMARY KEY",
    "RETURNING",
    "RIGHT JOIN",
    "ROLLBACK",
    "SELECT",
    "SET",
    "SHOW",
    "SPLIT AT",
    "TABLE",
    "TEXT",
    "THEN",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "TRUE",
    "TRUNCATE",
    "UNION",
    "UPDATE",
    "USING",
    "UUID",
    "VACUUM",
    "VALUES",
    "VARCHAR",
    "WHEN",
    "WHERE",
    "WITH",
];

/// Completes keywords and the names of tables and columns.
#[derive(Default)]
struct Names {
    names: Vec<String>,
}

impl Completer for Names {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let start = line[..at]
            .rfind(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '"')))
            .map_or(0, |n| n + line[n..].chars().next().map_or(1, char::len_utf8));
        Ok((start, self.candidates(&line[start..at])))
    }
}

impl Names {
    fn candidates(&self, word: &str) -> Vec<Pair> {
        if word.is_empty() {
            return Vec::new();
        }
        let lower = word.to_lowercase();
        // Keywords come in the case in which they were begun.
        let upper = word.chars().any(char::is_uppercase);
        let keywords = KEYWORDS
            .iter()
            .filter(|k| k.to_lowercase().starts_with(&lower))
            .map(|k| if upper { (*k).to_owned() } else { k.to_lowercase() });
        let names = self.names.iter().filter(|n| n.to_lowercase().starts_with(&lower)).cloned();
        names.chain(keywords).map(|text| Pair { display: text.clone(), replacement: text }).collect()
    }
}

impl Hinter for Names {
    type Hint = String;
}

impl Highlighter for Names {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Borrowed(hint)
    }
}

impl Validator for Names {}
impl Helper for Names {}

fn history_file() -> Option<PathBuf> {
    std::env::var_os("FLOTILLA_HISTORY")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".flotilla_history")))
}

/// Runs the prompt until `\q` or the end of input.
pub(super) fn run(runtime: &tokio::runtime::Runtime, client: &mut Client) -> anyhow::Result<Ran> {
    let config = rustyline::Config::builder().max_history_size(HISTORY_MAX)?.auto_add_history(false).build();
    let mut editor: Editor<Names, FileHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Names::default()));
    let history = history_file();
    if let Some(path) = &history {
        // There is none yet the first time.
        let _ = editor.load_history(path);
    }
    eprintln!("flotilla {}; \\? for help, \\q to quit", env!("CARGO_PKG_VERSION"));
    let mut text = String::new();
    let mut last = Ran::Fine;
    loop {
        if client.names_stale && !client.is_lost() {
            let names = runtime.block_on(names(client));
            if let Some(helper) = editor.helper_mut() {
                helper.names = names;
            }
        }
        let prompt = if text.is_empty() { "flotilla=> " } else { "flotilla-> " };
        let line = match editor.readline(prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                text.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&line);
        if let Some(ready) = take_complete(&mut text) {
            editor.add_history_entry(ready.trim())?;
            last = runtime.block_on(client.run_script(&ready, false))?;
            if last == Ran::Quit {
                break;
            }
            if client.is_lost() {
                eprintln!("The connection was lost; connecting again.");
                if let Err(error) = runtime.block_on(client.reconnect()) {
                    eprintln!("{error:#}");
                }
            }
        }
    }
    if let Some(path) = &history
        && let Err(error) = editor.save_history(path)
    {
        eprintln!("the history could not be saved to {}: {error}", path.display());
    }
    Ok(last)
}

/// Takes what is complete out of `text`, once nothing unfinished follows it.
fn take_complete(text: &mut String) -> Option<String> {
    let mut rest = text.as_str();
    let mut any = false;
    loop {
        match scan::next(rest) {
            (Piece::Rest(left), _) if scan::is_blank(left) => break,
            (Piece::Rest(_), _) => return None,
            (_, tail) => {
                any = true;
                rest = tail;
            }
        }
    }
    let taken = std::mem::take(text);
    any.then_some(taken)
}

async fn names(client: &mut Client) -> Vec<String> {
    client.names_stale = false;
    let sql = format!(
        "SELECT table_name FROM information_schema.tables
         UNION SELECT column_name FROM information_schema.columns
         WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 LIMIT {NAMES_MAX}"
    );
    match client.inner.simple_query(&sql).await {
        Ok(messages) => messages
            .iter()
            .filter_map(|m| match m {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect(),
        // Completion without names is still completion of keywords.
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_run_once_they_are_complete() {
        let mut text = "SELECT 1,\n".to_owned();
        assert_eq!(take_complete(&mut text), None);
        text.push_str("2; SELECT 3;");
        assert_eq!(take_complete(&mut text).as_deref(), Some("SELECT 1,\n2; SELECT 3;"));
        assert_eq!(text, "");
    }

    #[test]
    fn completion_keeps_the_case_it_was_begun_in() {
        let names = Names { names: vec!["ships".into()] };
        let texts =
            |word: &str| names.candidates(word).into_iter().map(|p| p.replacement).collect::<Vec<_>>();
        assert_eq!(texts("SH"), ["ships", "SHOW"]);
        assert_eq!(texts("sho"), ["show"]);
    }
}
