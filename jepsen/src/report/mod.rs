//! What a run leaves for its reader: the verdict and pictures.

mod latency;
mod svg;
pub mod table;
mod timeline;

pub use timeline::draw as timeline;

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value as Json, json};

use crate::checker::{Validity, Verdict};
use crate::history::{History, Op, Process, Value};
use crate::run::{Options, Outcome, write_json};

/// Writes `verdict.json`, `verdict.txt`, `timeline.svg` and `latency.svg` into the run's folder.
pub fn write(outcome: &Outcome, history: &History, options: &Options) -> Result<()> {
    let findings = Findings {
        folder: &outcome.folder,
        workload: &options.workload,
        seed: options.seed,
        validity: outcome.validity(),
        verdicts: &outcome.verdicts,
        troubles: &outcome.troubles,
        history,
        clients: options.clients,
    };
    findings.save("verdict.txt", text(outcome))?;
    findings.write()
}

/// What was found by a run, be it a real or a simulated one.
pub struct Findings<'a> {
    /// The run's folder.
    pub folder: &'a Path,
    /// The workload's name.
    pub workload: &'a str,
    /// The seed.
    pub seed: u64,
    /// The worst of the verdicts, or worse.
    pub validity: Validity,
    /// What the checkers say.
    pub verdicts: &'a [Verdict],
    /// What went wrong that is in no verdict.
    pub troubles: &'a [String],
    /// What was asked and answered.
    pub history: &'a History,
    /// Rows of the timeline.
    pub clients: u64,
}

impl Findings<'_> {
    /// Writes `verdict.json`, `timeline.svg` and `latency.svg` into the folder.
    pub fn write(&self) -> Result<()> {
        let json = json!({
            "workload": self.workload,
            "seed": self.seed,
            "valid": word(self.validity),
            "operations": self.history.ops().len(),
            "checkers": self.verdicts.iter().map(verdict).collect::<Vec<_>>(),
            "troubles": self.troubles,
        });
        write_json(self.folder, "verdict.json", &json)?;
        self.save("timeline.svg", timeline::draw(self.history, self.clients, self.verdicts))?;
        self.save("latency.svg", latency::draw(self.history))
    }

    fn save(&self, name: &str, text: String) -> Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// The verdicts for a terminal.
pub fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    for verdict in &outcome.verdicts {
        text += &format!("{verdict}\n");
    }
    for trouble in &outcome.troubles {
        text += &format!("trouble: {trouble}\n");
    }
    text
}

/// As JSON says it: `true`, `false` or `"unknown"`, as Jepsen does.
fn word(validity: Validity) -> Json {
    match validity {
        Validity::Valid => json!(true),
        Validity::Unknown => json!("unknown"),
        Validity::Invalid => json!(false),
    }
}

/// A verdict as JSON.
pub fn verdict(verdict: &Verdict) -> Json {
    let anomalies: Vec<Json> = verdict
        .anomalies
        .iter()
        .map(|anomaly| json!({ "name": anomaly.name, "about": anomaly.about, "operations": anomaly.ops }))
        .collect();
    json!({
        "checker": verdict.checker,
        "valid": word(verdict.validity),
        "anomalies": anomalies,
        "more": verdict.more,
        "notes": verdict.notes,
    })
}

/// A fault, as the pictures shade it.
struct Shade<'a> {
    from: u64,
    to: u64,
    label: String,
    begin: &'a Op,
}

fn shades(history: &History) -> Vec<Shade<'_>> {
    let phase = |op: &Op, name: &str| op.value.get("phase").and_then(Value::as_name) == Some(name);
    let faults: Vec<&Op> = history.ops().iter().filter(|op| op.process == Process::Nemesis).collect();
    let end_of_run = history.ops().last().map_or(0, |op| op.time);
    let begins = faults.iter().enumerate().filter(|(_, op)| phase(op, "begin"));
    begins
        .map(|(n, begin)| {
            // Simulated faults of one kind may overlap: they are numbered.
            let is_same = |op: &Op| op.f == begin.f && op.value.get("number") == begin.value.get("number");
            let end = faults[n..].iter().find(|op| is_same(op) && phase(op, "end"));
            let nodes = begin.value.get("nodes").map(Value::to_string).unwrap_or_default();
            Shade {
                from: begin.time,
                to: end.map_or(end_of_run, |op| op.time),
                label: format!("{} {nodes}", begin.f),
                begin,
            }
        })
        .collect()
}
