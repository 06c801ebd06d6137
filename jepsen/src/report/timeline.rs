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
/// Calls drawn, at most, beside those that are part of an anomaly.
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
        // What is over in a moment is to be seen, too.
        let size = ((x(shade.to) - x(shade.from)).max(1.0), height - TOP + 12.0);
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
    let mut drawn = 0;
    for call in history.calls() {
        let Process::Client(process) = call.invoke.process else { continue };
        let is_marked =
            marked.contains(&call.invoke.index) || call.complete.is_some_and(|op| marked.contains(&op.index));
        drawn += 1;
        if drawn > CALLS_MAX && !is_marked {
            continue;
        }
        let row = if process >= LAST_PROCESS { rows - 1 } else { process % clients.max(1) };
        let y = TOP + row as f64 * ROW;
        let from = x(call.invoke.time);
        let to = call.complete.map_or(x(call.invoke.time + 1_000_000_000), |op| x(op.time));
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
        let is_whole = cycle.len() == anomaly.ops.len();
        cycle.extend(cycle.first().copied());
        if cycle.len() > 2 {
            svg.polyline(&cycle, "#7030a0");
        }
        // Each edge says why it is there; nearer to where it ends, so that those to and fro don't cover each other.
        for (ends, label) in cycle.windows(2).zip(&anomaly.edges).filter(|_| is_whole) {
            let ((x1, y1), (x2, y2)) = (ends[0], ends[1]);
            svg.text((x1 + (x2 - x1) * 0.65 + 3.0, y1 + (y2 - y1) * 0.65 - 3.0), label);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker;
    use crate::history::edn;

    #[test]
    fn the_cycle_of_a_g_single_is_drawn_with_its_edges() {
        let text = include_str!("../../corpus/list-append/g-single.edn");
        let history = History::new(edn::read(text).unwrap()).unwrap();
        let verdict = (checker::find("list-append").unwrap().check)(&history);
        let cycle = verdict.anomalies.iter().find(|anomaly| anomaly.name == "G-single").unwrap();
        assert_eq!(cycle.edges.len(), cycle.ops.len());
        assert_eq!(cycle.edges.iter().filter(|edge| **edge == "rw").count(), 1, "{:?}", cycle.edges);
        let svg = draw(&history, 3, std::slice::from_ref(&verdict));
        assert!(svg.contains("stroke=\"#7030a0\""), "no cycle in {svg}");
        for edge in &cycle.edges {
            assert!(svg.contains(&format!(">{edge}</text>")), "no {edge} in {svg}");
        }
        assert!(svg.matches("stroke=\"black\"").count() >= cycle.ops.len(), "{svg}");
    }

    #[test]
    fn what_is_wrong_is_drawn_however_late_it_comes() {
        let op = |process: usize, kind: &str, index: usize| {
            format!(
                "{{:index {index}, :type :{kind}, :process {process}, :f :read, :value nil, :time {index}}}\n"
            )
        };
        let count = CALLS_MAX + 10;
        let text: String = (0..count).map(|n| op(0, "invoke", 2 * n) + &op(0, "ok", 2 * n + 1)).collect();
        let history = History::new(edn::read(&text).unwrap()).unwrap();
        let mut verdict = Verdict::new("linear");
        verdict.anomaly("late", "the last one", vec![2 * (count - 1)]);
        let svg = draw(&history, 1, &[verdict]);
        assert_eq!(svg.matches("stroke=\"black\"").count(), 1);
    }
}
