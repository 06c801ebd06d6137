//! Histories: what clients asked, and what they were told.
//!
//! A history is a list of operations in the order in which they happened. Each call is two of them: an `invoke`, and later
//! an `ok` (it happened), a `fail` (it did not) or an `info` (nobody knows: the connection was lost, or the server said
//! `40003`). An operation that was never completed counts as `info`.
//!
//! The form is Jepsen's, so that Elle, Knossos and Jepsen's own checkers can read what we write: one map per line with
//! `:index :type :process :f :value :time` (nanoseconds) and `:error`; or, as JSON, one array of such objects. What a value looks like is a
//! matter of workload and checker. Where a checker of the same kind exists elsewhere, clients' calls are only those that it knows: what is
//! none of its business is done in the name of the nemesis ([`SPLIT_AT`]).
//!
//! Invariant, kept by [`Recorder`] and checked by [`History::new`]: a process has at most one call under way. A process
//! whose call ended in `info` is dead; its client goes on under a new number.

pub mod edn;
pub mod json;
mod recorder;
mod value;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};

pub use recorder::{Clock, Recorder, Tally};
pub use value::Value;

/// The call that looks at everything that is left: checkers of single keys read `[[key value] …]`, others what their reads have.
pub const FINAL_READ: &str = "final-read";

/// A client has split a table's shard. The nemesis is said to have done it: one operation when it is over, with an `:error` if it failed.
pub const SPLIT_AT: &str = "split-at";

/// Clients that look at what is left, after the run, are numbered from here on.
pub const LAST_PROCESS: u64 = 1_000_000;

/// Errors of calls to which the database gave a full answer that makes them fail begin with this.
pub const DECLINED: &str = "declined: ";

/// Errors of the harness itself, which say nothing about the database, begin with this.
pub const HARNESS: &str = "harness: ";

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// A client.
    Client(u64),
    /// The hand that breaks things.
    Nemesis,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Client(n) => write!(f, "{n}"),
            Process::Nemesis => f.write_str(":nemesis"),
        }
    }
}

/// Which half of a call, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It begins.
    Invoke,
    /// It happened.
    Ok,
    /// It did not happen.
    Fail,
    /// It may have happened, or may yet.
    Info,
}

impl Kind {
    /// Jepsen's word.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        }
    }

    /// The reverse of [`Kind::name`].
    pub fn of(name: &str) -> Option<Self> {
        [Kind::Invoke, Kind::Ok, Kind::Fail, Kind::Info].into_iter().find(|kind| kind.name() == name)
    }
}

/// One half of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// Its place in the history.
    pub index: usize,
    /// Who.
    pub process: Process,
    /// Which half.
    pub kind: Kind,
    /// What is called: `read`, `txn` …
    pub f: String,
    /// Arguments, and with `ok` results.
    pub value: Value,
    /// Nanoseconds since the run began.
    pub time: u64,
    /// Why it failed or is unknown.
    pub error: Option<String>,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "#{} {:.6}s process {} {} :{} {}",
            self.index,
            self.time as f64 / 1e9,
            self.process,
            self.kind.name(),
            self.f,
            self.value
        )?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, " ({error})"))
    }
}

/// A call: its invocation, and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The first half.
    pub invoke: &'a Op,
    /// The second, unless the run ended before it came.
    pub complete: Option<&'a Op>,
}

impl<'a> Call<'a> {
    /// How it ended; what never ended is unknown.
    pub fn outcome(&self) -> Kind {
        self.complete.map_or(Kind::Info, |op| op.kind)
    }

    /// The results, if it is known to have happened.
    pub fn ok(&self) -> Option<&'a Op> {
        self.complete.filter(|op| op.kind == Kind::Ok)
    }

    /// Its place after which it has no effect any more: unknown ones may take effect for ever.
    pub fn end(&self) -> usize {
        match self.complete {
            Some(op) if op.kind != Kind::Info => op.index,
            _ => usize::MAX,
        }
    }

    /// Whether it was made after the run, to see what is left.
    pub fn is_last(&self) -> bool {
        self.invoke.process >= Process::Client(LAST_PROCESS) && self.invoke.process != Process::Nemesis
    }

    /// What it was called with, or what it answered if it did.
    pub fn value(&self) -> &'a Value {
        self.ok().map_or(&self.invoke.value, |op| &op.value)
    }
}

/// A well-formed history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    ops: Vec<Op>,
    /// By the index of an invocation: where its completion is.
    completion: Vec<Option<usize>>,
}

impl History {
    /// Pairs invocations with completions, and gives each operation its index.
    pub fn new(mut ops: Vec<Op>) -> Result<Self> {
        let mut completion = vec![None; ops.len()];
        let mut open = std::collections::HashMap::new();
        for (index, op) in ops.iter_mut().enumerate() {
            op.index = index;
            match (op.process, op.kind) {
                // What the nemesis does has no two halves that matter.
                (Process::Nemesis, _) => {}
                (process, Kind::Invoke) => {
                    if let Some(earlier) = open.insert(process, index) {
                        bail!("operation {index}: process {process} is still busy with operation {earlier}");
                    }
                }
                (process, _) => {
                    let invoke = open.remove(&process).with_context(|| {
                        format!("operation {index}: process {process} completes what it did not begin")
                    })?;
                    completion[invoke] = Some(index);
                }
            }
        }
        Ok(Self { ops, completion })
    }

    /// Reads a file: `.json` as an array or by lines, anything else as EDN.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let ops =
            if path.extension().is_some_and(|e| e == "json") { json::read(&text) } else { edn::read(&text) };
        Self::new(ops.with_context(|| format!("in {}", path.display()))?)
    }

    /// All operations, in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The clients' calls, in the order in which they began.
    pub fn calls(&self) -> impl Iterator<Item = Call<'_>> {
        self.ops.iter().filter(|op| op.kind == Kind::Invoke && op.process != Process::Nemesis).map(|invoke| {
            Call { invoke, complete: self.completion[invoke.index].map(|index| &self.ops[index]) }
        })
    }

    /// The calls of one name.
    pub fn calls_of<'a>(&'a self, f: &'a str) -> impl Iterator<Item = Call<'a>> {
        self.calls().filter(move |call| call.invoke.f == f)
    }
}

#[cfg(test)]
mod tests;
