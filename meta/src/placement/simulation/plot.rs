//! The plot: how evenness develops.

use std::fmt::Write as _;

use super::cluster::Pass;
use super::scenario::Outcome;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 190.0;
const MARGIN: f64 = 46.0;
const COLUMNS: usize = 2;
/// At most so many points a line.
const POINTS_MAX: usize = 240;
/// What a panel shows, the largest value at the top: parts of the mean.
const TOP: f64 = 2.5;

type Range = fn(&Pass) -> (u64, u64);
const LINES: [(&str, &str, Range); 3] = [
    ("replicas", "#1f6f8b", |pass| pass.before.replicas),
    ("load", "#d9822b", |pass| pass.before.load),
    ("leaders", "#7a9e3f", |pass| pass.before.leaders),
];

/// One panel for each outcome: the least and the most that a node has of everything, relative to where they meet, and
/// the moves of each plan.
pub fn draw(outcomes: &[Outcome]) -> String {
    let rows = outcomes.len().div_ceil(COLUMNS);
    let (width, height) = (COLUMNS as f64 * (WIDTH + MARGIN) + MARGIN, rows as f64 * (HEIGHT + 2.0 * MARGIN));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (place, outcome) in outcomes.iter().enumerate() {
        let left = MARGIN + (place % COLUMNS) as f64 * (WIDTH + MARGIN);
        let top = MARGIN + (place / COLUMNS) as f64 * (HEIGHT + 2.0 * MARGIN);
        let _ = writeln!(svg, "<g transform=\"translate({left:.0} {top:.0})\">");
        panel(&mut svg, outcome);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, outcome: &Outcome) {
    let passes = &outcome.passes;
    let x = |pass: usize| pass as f64 / (passes.len().max(2) - 1) as f64 * WIDTH;
    let y = |part: f64| HEIGHT * (1.0 - part.min(TOP) / TOP);
    let _ = writeln!(
        svg,
        "<text y=\"-22\" font-size=\"13\" font-weight=\"bold\">{}</text>\n\
         <text y=\"-7\">{} moves, {} needed at least</text>",
        outcome.name, outcome.moves, outcome.moves_min
    );
    // Moves, in the background.
    let most = passes.iter().map(|p| p.moves).max().unwrap_or(0).max(1);
    let mut area = String::from("M0 ");
    let _ = write!(area, "{HEIGHT}");
    for at in sampled(passes.len()) {
        let _ = write!(
            area,
            " L{:.1} {:.1}",
            x(at),
            HEIGHT - HEIGHT * 0.35 * passes[at].moves as f64 / most as f64
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"{area} L{WIDTH} {HEIGHT} Z\" fill=\"#dddddd\"/>\n\
         <text x=\"{WIDTH}\" y=\"10\" text-anchor=\"end\" fill=\"#888888\">moves per plan, at most {most}</text>"
    );
    for part in [0.0, 0.5, 1.0, 1.5, 2.0] {
        let _ = writeln!(
            svg,
            "<path d=\"M0 {0:.1} H{WIDTH}\" stroke=\"#e6e6e6\"/><text x=\"-6\" y=\"{1:.1}\" \
             text-anchor=\"end\">{part}</text>",
            y(part),
            y(part) + 4.0
        );
    }
    let _ = writeln!(svg, "<text x=\"0\" y=\"{:.0}\">0</text>", HEIGHT + 14.0);
    let _ = writeln!(
        svg,
        "<text x=\"{WIDTH}\" y=\"{:.0}\" text-anchor=\"end\">plan {}</text>",
        HEIGHT + 14.0,
        passes.len()
    );
    for (turn, (name, colour, range)) in LINES.into_iter().enumerate() {
        let (least, most) = passes.last().map(range).unwrap_or((0, 0));
        let mean = ((least + most) as f64 / 2.0).max(1.0);
        for end in [|(least, _): (u64, u64)| least, |(_, most): (u64, u64)| most] {
            let mut line = String::new();
            for at in sampled(passes.len()) {
                let letter = if line.is_empty() { 'M' } else { 'L' };
                let _ = write!(line, "{letter}{:.1} {:.1} ", x(at), y(end(range(&passes[at])) as f64 / mean));
            }
            let _ = writeln!(svg, "<path d=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", line.trim_end());
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" fill=\"{colour}\">{name}</text>",
            60.0 + 70.0 * turn as f64,
            HEIGHT + 14.0
        );
    }
}

/// Evenly, and the last one.
fn sampled(len: usize) -> impl Iterator<Item = usize> {
    let step = len.div_ceil(POINTS_MAX).max(1);
    (0..len).step_by(step).chain((len > 0 && !(len - 1).is_multiple_of(step)).then(|| len - 1))
}
