//! Backslash commands.

use std::path::Path;

use clap::ValueEnum;

use super::Ran;
use super::client::Client;
use super::render::Format;

const HELP: &str = "\
  \\d [TABLE]        list tables, or describe one
  \\dt               list tables
  \\l                list databases
  \\i FILE           run a file
  \\timing [on|off]  show how long statements take
  \\format [NAME]    aligned, csv or json
  \\conninfo         where this shell is connected
  \\?                this list
  \\q                quit
Statements end with a semicolon.";

const TABLES: &str = "\
SELECT table_schema AS \"Schema\", table_name AS \"Name\", 'table' AS \"Type\"
FROM information_schema.tables
WHERE table_schema NOT IN ('pg_catalog', 'information_schema', 'flotilla') ORDER BY 1, 2";

/// Runs a backslash command.
pub(super) async fn run(client: &mut Client, line: &str) -> anyhow::Result<Ran> {
    let mut words = line.split_whitespace();
    let command = words.next().unwrap_or_default();
    let argument = words.next().map(|w| w.trim_end_matches(';')).filter(|w| !w.is_empty());
    match (command, argument) {
        ("\\q", _) => return Ok(Ran::Quit),
        ("\\?" | "\\h" | "\\help", _) => println(HELP),
        ("\\dt", None) | ("\\d", None) => return query(client, TABLES).await,
        ("\\d" | "\\dt", Some(table)) => return describe(client, table).await,
        ("\\l", _) => {
            return query(client, "SELECT datname AS \"Name\" FROM pg_catalog.pg_database ORDER BY 1").await;
        }
        ("\\timing", argument) => {
            client.timing = match argument {
                Some("on") => true,
                Some("off") => false,
                _ => !client.timing,
            };
            println(if client.timing { "Timing is on." } else { "Timing is off." });
        }
        ("\\format" | "\\pset", Some(name)) => match Format::from_str(name, true) {
            Ok(format) => client.format = format,
            Err(_) => return Ok(failed(&format!("there is no format \"{name}\": aligned, csv or json"))),
        },
        ("\\conninfo", _) => {
            return query(client, "SELECT current_database() AS database, current_user AS \"user\"").await;
        }
        ("\\i", Some(file)) => match std::fs::read_to_string(Path::new(file)) {
            Ok(text) => return Box::pin(client.run_script(&text, false)).await,
            Err(error) => return Ok(failed(&format!("{file}: {error}"))),
        },
        _ => return Ok(failed(&format!("invalid command {command}; try \\? for help"))),
    }
    Ok(Ran::Fine)
}

#[allow(clippy::print_stdout, reason = "this is what the command is for")]
fn println(text: &str) {
    println!("{text}");
}

fn failed(message: &str) -> Ran {
    eprintln!("{message}");
    Ran::Failed
}

async fn query(client: &mut Client, sql: &str) -> anyhow::Result<Ran> {
    client.run_statement(sql, "").await.map(|(ran, _)| ran)
}

async fn describe(client: &mut Client, name: &str) -> anyhow::Result<Ran> {
    let (schema, table) = name.split_once('.').unwrap_or(("public", name));
    let quoted = |s: &str| format!("'{}'", s.trim_matches('"').replace('\'', "''"));
    let (schema, table) = (quoted(schema), quoted(table));
    let known = format!(
        "SELECT 1 FROM information_schema.tables WHERE table_schema = {schema} AND table_name = {table}"
    );
    match client.inner.simple_query(&known).await {
        Ok(messages) if !messages.iter().any(|m| matches!(m, tokio_postgres::SimpleQueryMessage::Row(_))) => {
            return Ok(failed(&format!("there is no table {name}")));
        }
        // An error shows again, with its text, in what follows.
        _ => {}
    }
    query(
        client,
        &format!(
            "SELECT c.column_name AS \"Column\",
       c.data_type || coalesce('(' || c.character_maximum_length || ')', '') AS \"Type\",
       CASE c.is_nullable WHEN 'NO' THEN 'not null' ELSE '' END AS \"Nullable\",
       coalesce(c.column_default, '') AS \"Default\",
       CASE WHEN k.column_name IS NULL THEN '' ELSE 'primary key' END AS \"Key\"
FROM information_schema.columns c
LEFT JOIN information_schema.key_column_usage k
  ON k.table_schema = c.table_schema AND k.table_name = c.table_name AND k.column_name = c.column_name
WHERE c.table_schema = {schema} AND c.table_name = {table} ORDER BY c.ordinal_position"
        ),
    )
    .await
}
