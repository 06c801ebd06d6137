//! Writes a history while it happens.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Kind, Op, Process, Value, edn, json};
use crate::checker::faults;

/// The run's time: nanoseconds since it began, on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// The run begins now.
    #[allow(clippy::disallowed_methods, reason = "a client's clock: no simulator runs the harness")]
    pub fn start() -> Self {
        Self { began: Instant::now() }
    }

    /// Since the run began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Writes operations to `history.edn` and `history.json` as they come, so that a long run takes no memory and a run that is
/// broken off leaves what it saw.
///
/// The time is taken under the lock that orders the lines: an operation that stands before another did not happen after it.
pub struct Recorder {
    clock: Clock,
    ops_max: usize,
    files: Mutex<Files>,
}

/// What has happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that happened.
    pub ok: u64,
    /// … that did not.
    pub failed: u64,
    /// … of which nobody knows.
    pub unknown: u64,
    /// Faults that were done, and are undone.
    pub faults: u64,
    /// Those that the cluster refused.
    pub refused: u64,
    /// Of each kind that was asked for, how many were done, and refused.
    pub kinds: BTreeMap<String, [u64; 2]>,
    /// Faults that are not yet undone.
    pub under_way: Vec<String>,
}

impl Tally {
    fn add(&mut self, op: &Op) {
        let phase = op.value.get("phase").and_then(Value::as_name);
        match (op.process, op.kind, phase) {
            (Process::Nemesis, _, Some("begin")) => self.under_way.push(op.f.clone()),
            (Process::Nemesis, _, None) if op.f == faults::ASKED => {
                let names = op.value.as_slice().unwrap_or_default().iter().filter_map(Value::as_name);
                self.kinds.extend(names.map(|name| (name.to_owned(), [0, 0])));
            }
            (Process::Nemesis, ..) => {
                self.under_way.retain(|fault| *fault != op.f);
                let (done, refused) = match (phase, op.value.get("outcome").and_then(Value::as_name)) {
                    (Some("end"), Some(faults::REFUSED)) => (0, 1),
                    (Some("end"), None | Some(faults::DONE)) => (1, 0),
                    _ => return,
                };
                self.faults += done;
                self.refused += refused;
                let of_kind = self.kinds.entry(op.f.clone()).or_default();
                *of_kind = [of_kind[0] + done, of_kind[1] + refused];
            }
            (_, Kind::Invoke, _) => {}
            (_, Kind::Ok, _) => self.ok += 1,
            (_, Kind::Fail, _) => self.failed += 1,
            (_, Kind::Info, _) => self.unknown += 1,
        }
    }
}

struct Files {
    next: usize,
    tally: Tally,
    edn: BufWriter<File>,
    json: BufWriter<File>,
    failed: Option<std::io::Error>,
}

impl Recorder {
    /// Files in a folder that exists; after `ops_max` operations the run is [full](Recorder::is_full).
    pub fn create(folder: &Path, clock: Clock, ops_max: usize) -> Result<Self> {
        let create = |name: &str| {
            let path = folder.join(name);
            File::create(&path).map(BufWriter::new).with_context(|| format!("creating {}", path.display()))
        };
        let mut json = create("history.json")?;
        json.write_all(json::OPEN.as_bytes()).context("writing the history")?;
        let edn = create("history.edn")?;
        let files = Files { next: 0, tally: Tally::default(), edn, json, failed: None };
        Ok(Self { clock, ops_max, files: Mutex::new(files) })
    }

    /// The run's time.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// No further calls should be made: a checker has to hold them all. Completions are still taken.
    pub fn is_full(&self) -> bool {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).next >= self.ops_max
    }

    /// What has happened so far.
    pub fn tally(&self) -> Tally {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).tally.clone()
    }

    /// Writes one operation down.
    pub fn record(&self, process: Process, kind: Kind, f: &str, value: &Value, error: Option<&str>) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let op = Op {
            index: files.next,
            process,
            kind,
            f: f.to_owned(),
            value: value.clone(),
            time: self.clock.elapsed().as_nanos() as u64,
            error: error.map(str::to_owned),
        };
        let before = if files.next == 0 { "" } else { json::BETWEEN };
        files.next += 1;
        files.tally.add(&op);
        let mut line = String::new();
        // Writing to a string can't fail.
        let _ = edn::write(&mut line, &op);
        let written =
            writeln!(files.edn, "{line}").and_then(|()| write!(files.json, "{before}{}", json::write(&op)));
        if let Err(error) = written {
            files.failed.get_or_insert(error);
        }
    }

    /// Nothing more will be recorded: everything is in the files, or this says why not.
    pub fn finish(&self) -> Result<()> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = files.failed.take() {
            return Err(error).context("writing the history");
        }
        let ended = files.json.write_all(json::CLOSE.as_bytes()).and_then(|()| files.json.flush());
        ended.and_then(|()| files.edn.flush()).context("writing the history")
    }
}
