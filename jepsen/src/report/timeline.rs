//! Operations per client over time, with faults shaded and anomalies framed.

use std::collections::{HashMap, HashSet};

use super::shades;
use super::svg::Svg;
use crate::checker::Verdict;
use crate::history::{Call, History, Kind, LAST_PROCESS, Process};

const PIXELS_PER_SECOND: f64 = 60.0;
const ROW: f64 = 14.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;
/// A wider picture opens in no viewer.
const WIDTH_MAX: f64 = 30_000.0;
/// Calls drawn, at most.
const CALLS_MAX: usize = 40_000;

/// Draws it. `clients` is how many there were: a client goes on under a new number when a call fails.
pub fn draw(history: &History, clients: u64, verdicts: &[Verdict]) -> String {
    let end = history.ops().last().map_or(0, |op| op.time) as f64 / 1e9;
    let scale = PIXELS_PER_SECOND.min(WIDTH_MAX / end.max(1.0));
    let x = |ns: u64| LEFT + ns as f64 / 1e9 * scale;
    let rows = clients.max(1) + 1;
    let height = TOP + rows as f64 * ROW + 20.0;
    let mut svg = Svg::new(LEFT + end * scale + 20.0, height);
    for (n, shade) in shades(history).iter().enumerate() {
        let size = (x(shade.to) - x(shade.from), height - TOP + 12.0);
        svg.rect((x(shade.from), TOP - 12.0), size, "#fbe3c0", "", &shade.begin.to_string());
        svg.text((x(shade.from), TOP - 16.0 - (n % 2) as f64 * 12.0), &shade.label);
    }
    for second in 0..=end as u64 {
        let at = x(second * 1_000_000_000);
        svg.line((at, TOP - 4.0), (at, height - 16.0), "#eeeeee");
        if second % 5 == 0 {
            svg.text((at, height - 4.0), &format!("{second} s"));
        }
    }
    for row in 0..rows {
        let name = if row + 1 == rows { "last".to_owned() } else { format!("client {row}") };
        svg.text((4.0, TOP + row as f64 * ROW + 10.0), &name);
    }
    let marked: HashSet<usize> =
        verdicts.iter().flat_map(|v| v.anomalies.iter().flat_map(|a| a.ops.iter().copied())).collect();
    let mut places: HashMap<usize, (f64, f64)> = HashMap::new();
    for call in history.calls().take(CALLS_MAX) {
        let Process::Client(process) = call.invoke.process else { continue };
        let row = if process >= LAST_PROCESS { rows - 1 } else { process % clients.max(1) };
        let y = TOP + row as f64 * ROW;
        let from = x(call.invoke.time);
        let to = call.complete.map_or(x(call.invoke.time + 1_000_000_000), |op| x(op.time));
        let is_marked =
            marked.contains(&call.invoke.index) || call.complete.is_some_and(|op| marked.contains(&op.index));
        let more = if is_marked { r#"stroke="black" stroke-width="1.5""# } else { "" };
        if is_marked {
            places.insert(call.invoke.index, (from, y + ROW / 2.0));
            places.extend(call.complete.map(|op| (op.index, (from, y + ROW / 2.0))));
        }
        svg.rect(
            (from, y + 2.0),
            ((to - from).max(0.8), ROW - 4.0),
            colour(&call),
            more,
            &title(&call, is_marked),
        );
    }
    for anomaly in verdicts.iter().flat_map(|verdict| &verdict.anomalies) {
        let mut cycle: Vec<(f64, f64)> =
            anomaly.ops.iter().filter_map(|op| places.get(op).copied()).collect();
        cycle.extend(cycle.first().copied());
        if cycle.len() > 2 {
            svg.polyline(&cycle, "#7030a0");
        }
    }
    svg.finish()
}

/// Green happened, grey did not, red is unknown.
fn colour(call: &Call<'_>) -> &'static str {
    match call.outcome() {
        Kind::Ok => "#58a55c",
        Kind::Fail => "#b0b0b0",
        _ => "#d64541",
    }
}

/// Long answers are cut, unless they are what is wrong.
fn title(call: &Call<'_>, whole: bool) -> String {
    let text =
        call.complete.map_or_else(|| call.invoke.to_string(), |op| format!("#{}– {op}", call.invoke.index));
    if whole || text.chars().count() <= 200 { text } else { text.chars().take(200).chain(['…']).collect() }
}
