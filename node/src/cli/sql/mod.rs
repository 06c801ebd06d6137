//! `flotilla sql`: an interactive shell, and a runner of scripts.
//!
//! The shell is an ordinary client of the PostgreSQL protocol: it can be pointed at any PostgreSQL-compatible server.
//! [`client`] speaks to the server, [`scan`] finds where statements end, [`render`] prints results, [`meta`] has the
//! backslash commands, [`interactive`] the prompt.

mod client;
mod interactive;
mod meta;
mod render;
mod scan;

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use client::Client;
use render::Format;

/// Where the shell connects without a URL.
const DEFAULT_URL: &str = "postgresql://root@127.0.0.1:7401/postgres?sslmode=disable";

/// Exit status: a statement failed.
const EXIT_STATEMENT_FAILED: u8 = 1;
/// Exit status: no connection, or unusable arguments.
const EXIT_NOT_CONNECTED: u8 = 2;

/// Arguments of `flotilla sql`.
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// Where to connect: a URL (postgresql://user@host:port/database) or libpq's key=value pairs; without it
    /// $FLOTILLA_URL, else the first node of a local cluster
    url: Option<String>,
    /// Run these statements, then exit (may be repeated)
    #[arg(short = 'e', long = "execute", value_name = "STATEMENTS")]
    execute: Vec<String>,
    /// Run the statements of this file, then exit; `-` is standard input (may be repeated)
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How rows are printed
    #[arg(long, value_enum, default_value_t = Format::Aligned)]
    format: Format,
    /// Go on after a statement that failed (the exit status still says so)
    #[arg(long)]
    keep_going: bool,
}

/// What a run of statements came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// All succeeded.
    Fine,
    /// At least one failed.
    Failed,
    /// `\q` was met.
    Quit,
}

/// Runs the shell. Exit status: 0, 1 when a statement failed, 2 when there is no connection.
pub fn run(args: SqlArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return not_connected(&format!("cannot start: {error}")),
    };
    let url = args.url.clone().or_else(|| std::env::var("FLOTILLA_URL").ok());
    let mut client = match runtime.block_on(Client::connect(url.as_deref().unwrap_or(DEFAULT_URL))) {
        Ok(client) => client,
        Err(error) => return not_connected(&format!("{error:#}")),
    };
    client.format = args.format;
    let interactive = args.execute.is_empty() && args.files.is_empty() && std::io::stdin().is_terminal();
    let ran = if interactive {
        interactive::run(&runtime, &mut client)
    } else {
        run_batch(&runtime, &mut client, &args)
    };
    match ran {
        Ok(Ran::Failed) => ExitCode::from(EXIT_STATEMENT_FAILED),
        Ok(Ran::Fine | Ran::Quit) => ExitCode::SUCCESS,
        Err(error) => not_connected(&format!("{error:#}")),
    }
}

fn run_batch(runtime: &tokio::runtime::Runtime, client: &mut Client, args: &SqlArgs) -> anyhow::Result<Ran> {
    let mut texts = args.execute.clone();
    let from_stdin = args.execute.is_empty() && args.files.is_empty();
    let files = args.files.iter().map(|f| (f.as_os_str() != "-").then_some(f));
    for file in files.chain(from_stdin.then_some(None)) {
        texts.push(match file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|e| anyhow::anyhow!("cannot read {}: {e}", path.display()))?,
            None => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text)?;
                text
            }
        });
    }
    let mut outcome = Ran::Fine;
    for text in texts {
        match runtime.block_on(client.run_script(&text, args.keep_going))? {
            Ran::Fine => {}
            Ran::Quit => return Ok(if outcome == Ran::Failed { Ran::Failed } else { Ran::Quit }),
            Ran::Failed => {
                outcome = Ran::Failed;
                if !args.keep_going {
                    break;
                }
            }
        }
    }
    Ok(outcome)
}

fn not_connected(message: &str) -> ExitCode {
    eprintln!("flotilla sql: {message}");
    ExitCode::from(EXIT_NOT_CONNECTED)
}
