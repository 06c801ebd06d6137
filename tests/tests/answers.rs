//! The same statements on PostgreSQL and on Flotilla: the same rows, tags and SQLSTATEs.
//!
//! Each file in `tests/answers` is run by psql on a PostgreSQL of its own and on each node of a cluster (a database of its
//! own for each node). What psql prints must be the same, to the letter.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use tests::peer::Postgres;
use tests::{Cluster, psql, root, text};

/// Rows unaligned, statements echoed, and errors by their SQLSTATE: texts are compared elsewhere.
const PSQL: &[&str] = &["-a", "-A", "-v", "VERBOSITY=sqlstate", "-P", "null=NULL"];

/// The first lines where two texts part, with a few lines before.
fn difference(expected: &str, found: &str) -> String {
    let (left, right): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let at = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
    let from = at.saturating_sub(8);
    let show = |lines: &[&str]| {
        lines.iter().skip(from).take(at - from + 8).map(|l| format!("  {l}\n")).collect::<String>()
    };
    format!("line {}\nPostgreSQL:\n{}Flotilla:\n{}", at + 1, show(&left), show(&right))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_rows_as_postgresql() -> Result<()> {
    let postgres = Postgres::start()?;
    let cluster = Cluster::start(3)?;
    let mut files: Vec<_> = fs::read_dir(root().join("tests/answers"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "sql"))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "there are files to compare");
    let only = std::env::var("FLOTILLA_ANSWERS").ok();
    let mut wrong = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let name = file.file_stem().and_then(|n| n.to_str()).context("a name in UTF-8")?;
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let script = fs::read_to_string(file)?;
        let database = format!("answers_{name}");
        let create = format!("CREATE DATABASE {database}");
        let on = |url: String| url.replace("/postgres?", &format!("/{database}?"));
        let made = psql(&postgres.url(), &["-c", &create], "")?;
        ensure!(made.status.success(), "{}", text(&made));
        let node = number % 3 + 1;
        let made = psql(&cluster.url(node % 3 + 1), &["-c", &create], "")?;
        ensure!(made.status.success(), "{}\n{}", text(&made), cluster.logs());
        let expected = merged(psql(&on(postgres.url()), PSQL, &script)?);
        let found = merged(psql(&on(cluster.url(node)), PSQL, &script)?);
        if expected != found {
            wrong.push(format!("{name} (node {node}), {}", difference(&expected, &found)));
        }
    }
    if !wrong.is_empty() {
        bail!("{} of {} files differ\n{}", wrong.len(), files.len(), wrong.join("\n"));
    }
    Ok(())
}

/// Rows and tags, then errors in their order.
fn merged(output: std::process::Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    // psql prefixes the line of its input, which is the same for both; paths and addresses don't occur.
    format!("{}\n--- errors\n{errors}", String::from_utf8_lossy(&output.stdout))
}
