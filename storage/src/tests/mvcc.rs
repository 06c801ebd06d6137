//! Runs the golden scripts of `testscripts/mvcc`: versions, intents and garbage collection, with their effect on
//! what is stored.

use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;

use super::open;
use crate::engine::{Cf, Engine};
use crate::ids::{KeyRange, Timestamp, TxnId};
use crate::intents::{self, Intent};
use crate::mvcc::{self, Limits};
use crate::{Store, gc, keys};

struct Runner {
    engine: Arc<Engine>,
    _store: Arc<Store>,
    _dir: tempfile::TempDir,
}

impl Runner {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let store = open(dir.path());
        Self { engine: store.engine(), _store: store, _dir: dir }
    }

    fn dump(&self, output: &mut String) -> Result<(), Box<dyn Error>> {
        let snapshot = self.engine.snapshot();
        let mut iter = snapshot.iter(Cf::Data, &KeyRange::all());
        iter.seek_to_first();
        while let Some((key, value)) = iter.item() {
            let (user, ts) = keys::split_version(key).ok_or("not a version")?;
            let mut decoded = Vec::new();
            keys::decode_user_key(user, &mut decoded).ok_or("not a user key")?;
            let value = if mvcc::is_tombstone(value) { None } else { Some(&value[1..]) };
            writeln!(output, "  {} @{} = {}", decoded.escape_ascii(), ts.0, text(value))?;
            iter.next();
        }
        Ok(iter.check()?)
    }
}

fn text(value: Option<&[u8]>) -> String {
    value.map_or("deleted".to_owned(), |value| format!("\"{}\"", value.escape_ascii()))
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let limits = Limits {
            rows: args.take_key("rows").map_or(Ok(usize::MAX), str::parse)?,
            bytes: args.take_key("bytes").map_or(Ok(usize::MAX), str::parse)?,
        };
        let reverse = args.take_key("reverse").is_some();
        let mut next = || args.next_pos().ok_or("an argument is missing");
        let ts = |text: &str| text.parse().map(Timestamp);
        let mut batch = self.engine.batch();
        let mut output = String::new();
        match command.name.as_str() {
            "put" => {
                mvcc::put_version(&mut batch, next()?.as_bytes(), ts(next()?)?, Some(next()?.as_bytes()))
            }
            "delete" => mvcc::put_version(&mut batch, next()?.as_bytes(), ts(next()?)?, None),
            "get" => {
                let version = mvcc::get(&self.engine.snapshot(), next()?.as_bytes(), ts(next()?)?)?;
                match version {
                    Some(version) => {
                        writeln!(output, "@{} {}", version.ts.0, text(version.value.as_deref()))?
                    }
                    None => writeln!(output, "none")?,
                }
            }
            "scan" => {
                let range = KeyRange::new(next()?.to_owned(), next()?.to_owned());
                let page = mvcc::scan(&self.engine.snapshot(), &range, ts(next()?)?, reverse, limits)?;
                for (key, value) in &page.rows {
                    writeln!(output, "{} = {}", key.escape_ascii(), text(Some(value)))?;
                }
                writeln!(output, "newest @{}, rest {:?}", page.newest.0, page.rest)?;
            }
            "changed" => {
                let range = KeyRange::new(next()?.to_owned(), next()?.to_owned());
                let found =
                    mvcc::any_version_in(&self.engine.snapshot(), &range, ts(next()?)?, ts(next()?)?)?;
                writeln!(output, "{:?}", found.map(|(key, ts)| (key, ts.0)))?;
            }
            "intent" => {
                let key = next()?.to_owned();
                let intent = Intent {
                    txn: TxnId(next()?.parse()?),
                    primary: Bytes::from(next()?.to_owned()),
                    read_at: ts(next()?)?,
                    value: args.next_pos().map(|value| Bytes::from(value.to_owned())),
                    context: Bytes::new(),
                };
                intents::put_intent(&mut batch, key.as_bytes(), &intent);
            }
            "resolve" => intents::remove_intent(&mut batch, next()?.as_bytes()),
            "intents" => {
                let range = KeyRange::new(next()?.to_owned(), next()?.to_owned());
                let page = intents::scan_intents(&self.engine.snapshot(), &range, limits)?;
                for (key, intent) in &page.intents {
                    writeln!(
                        output,
                        "{} = {} by transaction {} @{}, primary {}",
                        key.escape_ascii(),
                        text(intent.value.as_deref()),
                        intent.txn.0,
                        intent.read_at.0,
                        intent.primary.escape_ascii()
                    )?;
                }
                writeln!(output, "rest {:?}", page.rest)?;
            }
            "gc" => {
                let range = KeyRange::new(next()?.to_owned(), next()?.to_owned());
                let versions = limits.rows;
                let done = gc::gc(&self.engine.snapshot(), &mut batch, &range, ts(next()?)?, versions)?;
                writeln!(output, "removes {} of {}, rest {:?}", done.removed, done.seen, done.rest)?;
            }
            "dump" => self.dump(&mut output)?,
            name => return Err(format!("unknown command {name}").into()),
        }
        let writes = !batch.is_empty();
        self.engine.write(batch)?;
        if writes && command.name == "gc" {
            self.dump(&mut output)?;
        }
        Ok(output)
    }
}

#[test]
fn scripts() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/testscripts/mvcc");
    let mut ran = 0;
    for entry in std::fs::read_dir(dir).expect("scripts") {
        let path = entry.expect("entry").path();
        goldenscript::run(&mut Runner::new(), &path).expect("the script runs");
        ran += 1;
    }
    assert!(ran > 0);
}
