//! Scripts over the latch table: `testscripts/latch/`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use storage::ids::KeyRange;

use super::{LatchTable, Mode, Span, Ticket};

/// `acquire NAME w=KEY r=FROM-TO …`, `wait NAME r=KEY …`, `release NAME`. Shows who may go.
#[derive(Default)]
struct Script {
    table: LatchTable,
    tickets: BTreeMap<String, Ticket>,
}

fn parse(mode: &str, span: &str) -> Result<(Span, Mode), Box<dyn Error>> {
    let mode = match mode {
        "w" => Mode::Exclusive,
        "r" => Mode::Shared,
        _ => return Err("r or w".into()),
    };
    let bytes = |s: &str| Bytes::copy_from_slice(s.as_bytes());
    Ok(match span.split_once('-') {
        Some((from, to)) => (Span::Range(KeyRange::new(bytes(from), bytes(to))), mode),
        None => (Span::Key(bytes(span)), mode),
    })
}

impl goldenscript::Runner for Script {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let name = args.next_pos().ok_or("a name is missing")?.to_owned();
        let mut spans = Vec::new();
        while let Some((mode, span)) = args.next_key() {
            spans.push(parse(mode, span)?);
        }
        args.reject_next()?;
        let mut output = String::new();
        match command.name.as_str() {
            "acquire" => {
                let (ticket, ready) = self.table.acquire(spans);
                writeln!(output, "{name} {}", if ready { "goes" } else { "waits" })?;
                self.tickets.insert(name, ticket);
            }
            "wait" => match self.table.wait(&spans) {
                None => writeln!(output, "{name} goes")?,
                Some(ticket) => {
                    writeln!(output, "{name} waits")?;
                    self.tickets.insert(name, ticket);
                }
            },
            "release" => {
                let ticket = self.tickets.remove(&name).ok_or("no such name")?;
                let mut ready = self.table.release(ticket);
                ready.sort_unstable();
                for ticket in ready {
                    let found = self.tickets.iter().find(|(_, t)| **t == ticket).map(|(name, _)| name);
                    writeln!(output, "{} goes", found.ok_or("an unknown ticket")?)?;
                }
                if self.tickets.is_empty() {
                    assert_eq!(self.table.len(), 0);
                    assert!(self.table.keys.is_empty() && self.table.with_ranges.is_empty());
                    writeln!(output, "(nothing is left)")?;
                }
            }
            other => return Err(format!("no such command: {other}").into()),
        }
        Ok(output)
    }
}

#[test]
fn scripts() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/testscripts/latch");
    let mut ran = 0;
    for entry in std::fs::read_dir(dir).expect("the scripts") {
        goldenscript::run(&mut Script::default(), entry.expect("a script").path()).expect("the script runs");
        ran += 1;
    }
    assert!(ran > 0);
}
