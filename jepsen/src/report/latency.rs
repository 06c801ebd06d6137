//! Latency of each call (logarithmic) above, calls per second below, with faults shaded.

use super::shades;
use super::svg::Svg;
use crate::history::{History, Kind};

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 30.0;
const LATENCY_HEIGHT: f64 = 300.0;
const RATE_TOP: f64 = TOP + LATENCY_HEIGHT + 40.0;
const RATE_HEIGHT: f64 = 140.0;
/// From 0.1 ms to 100 s.
const DECADES: f64 = 6.0;
const LEAST_NS: f64 = 1e5;

/// Draws it.
pub fn draw(history: &History) -> String {
    let end_ns = history.ops().last().map_or(0, |op| op.time).max(1) as f64;
    let x = |ns: f64| LEFT + ns / end_ns * (WIDTH - LEFT - 20.0);
    let y = |ns: f64| {
        let decades = (ns.max(LEAST_NS) / LEAST_NS).log10().min(DECADES);
        TOP + LATENCY_HEIGHT * (1.0 - decades / DECADES)
    };
    let mut svg = Svg::new(WIDTH, RATE_TOP + RATE_HEIGHT + 30.0);
    for (n, shade) in shades(history).iter().enumerate() {
        let (from, to) = (x(shade.from as f64), x(shade.to as f64));
        let size = ((to - from).max(1.0), RATE_TOP + RATE_HEIGHT - TOP);
        svg.rect((from, TOP), size, "#fbe3c0", "", &shade.begin.to_string());
        // Alternating heights: faults may follow each other closely.
        svg.text((from, TOP - 4.0 - (n % 2) as f64 * 12.0), &shade.label);
    }
    for (decade, label) in ["0.1 ms", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"].iter().enumerate() {
        let at = y(LEAST_NS * 10f64.powi(decade as i32));
        svg.line((LEFT, at), (WIDTH - 20.0, at), "#dddddd");
        svg.text((4.0, at + 4.0), label);
    }
    let buckets = (end_ns / 1e9).ceil() as usize + 1;
    let kinds =
        [(Kind::Ok, "#58a55c", "ok"), (Kind::Fail, "#909090", "failed"), (Kind::Info, "#d64541", "unknown")];
    let mut rates = vec![vec![0u32; buckets]; kinds.len()];
    for call in history.calls() {
        let Some(done) = call.complete else { continue };
        let Some(kind) = kinds.iter().position(|(kind, ..)| *kind == done.kind) else { continue };
        rates[kind][(done.time as f64 / 1e9) as usize] += 1;
        let at = (x(call.invoke.time as f64), y((done.time - call.invoke.time) as f64));
        svg.rect(at, (2.0, 2.0), kinds[kind].1, "", "");
    }
    let most = rates.iter().flatten().copied().max().unwrap_or(1).max(1);
    for (n, (_, colour, label)) in kinds.iter().enumerate() {
        let points: Vec<(f64, f64)> = rates[n]
            .iter()
            .enumerate()
            .map(|(second, count)| {
                let height = RATE_HEIGHT * f64::from(*count) / f64::from(most);
                (x((second as f64 * 1e9).min(end_ns)), RATE_TOP + RATE_HEIGHT - height)
            })
            .collect();
        svg.polyline(&points, colour);
        let left = LEFT + n as f64 * 90.0;
        svg.rect((left, RATE_TOP - 18.0), (10.0, 10.0), colour, "", "");
        svg.text((left + 14.0, RATE_TOP - 9.0), label);
    }
    svg.text((4.0, RATE_TOP + 10.0), &format!("{most}/s"));
    for second in (0..=(end_ns / 1e9) as u64).step_by(5) {
        svg.text((x(second as f64 * 1e9), RATE_TOP + RATE_HEIGHT + 16.0), &format!("{second} s"));
    }
    svg.finish()
}
