//! What a run leaves for its reader: the verdict and pictures.

mod latency;
mod svg;
pub mod table;
mod timeline;

pub use timeline::draw as timeline;

use anyhow::{Context, Result};
use serde_json::{Value as Json, json};

use crate::checker::{Validity, Verdict};
use crate::history::{History, Op, Process, Value};
use crate::run::{Options, Outcome, write_json};

/// Writes `verdict.json`, `verdict.txt`, `timeline.svg` and `latency.svg` into the run's folder.
pub fn write(outcome: &Outcome, history: &History, options: &Options) -> Result<()> {
    let json = json!({
        "workload": options.workload,
        "seed": options.seed,
        "valid": word(outcome.validity()),
        "operations": history.ops().len(),
        "checkers": outcome.verdicts.iter().map(verdict).collect::<Vec<_>>(),
        "troubles": outcome.troubles,
    });
    write_json(&outcome.folder, "verdict.json", &json)?;
    let save = |name: &str, text: String| {
        let path = outcome.folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    save("verdict.txt", text(outcome))?;
    save("timeline.svg", timeline::draw(history, options.clients, &outcome.verdicts))?;
    save("latency.svg", latency::draw(history))
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
            let end = faults[n..].iter().find(|op| op.f == begin.f && phase(op, "end"));
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
