//! How far something is, on standard error: a bar that is written over on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use storage::seam::{Clock, SystemClock};

/// Cells of a bar.
const CELLS: u64 = 20;
/// Between two lines where nothing can be written over.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Before there is a rate, and a time that is left.
const RATE_AFTER: Duration = Duration::from_secs(1);

/// What has yet to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// How many.
    pub count: u64,
    /// Of what.
    pub unit: &'static str,
    /// How much that is. 0: not known, or nothing.
    pub bytes: u64,
}

/// Tells it.
pub struct Meter {
    gauge: Gauge,
    screen: Screen,
}

impl Meter {
    /// Nothing is told yet. What is done, and how fast, counts from the first time on.
    pub fn new() -> Self {
        Self { gauge: Gauge::default(), screen: Screen::new(std::io::stderr().is_terminal()) }
    }

    /// So it stands, and so much is left, if that can be counted.
    pub fn show(&mut self, text: &str, left: Option<Left>) {
        let now = SystemClock.now();
        let figures = left.map(|left| self.gauge.read(left, now));
        let line = self.screen.line(text, figures.as_ref());
        if let Some(output) = self.screen.output(line, now) {
            put(&output);
        }
    }

    /// It has ended.
    pub fn clear(&mut self) {
        put(&self.screen.end());
    }
}

fn put(output: &str) {
    let mut stderr = std::io::stderr();
    // Nobody reads it: then nobody is told.
    let _ = stderr.write_all(output.as_bytes());
    let _ = stderr.flush();
}

/// What was read off a [`Gauge`].
#[derive(Debug, PartialEq, Eq)]
struct Figures {
    bar: String,
    text: String,
}

/// Remembers how much there was to do, and since when. (If more comes, there was more.)
#[derive(Default)]
struct Gauge {
    since: Option<Instant>,
    count: u64,
    bytes: u64,
}

impl Gauge {
    fn read(&mut self, left: Left, now: Instant) -> Figures {
        let since = *self.since.get_or_insert(now);
        self.count = self.count.max(left.count);
        self.bytes = self.bytes.max(left.bytes);
        let (done, done_bytes) = (self.count - left.count, self.bytes - left.bytes);
        let mut text = format!("{done}/{} {}", self.count, left.unit);
        if self.bytes > 0 {
            text += &format!(", {} of {}", size(done_bytes as f64), size(self.bytes as f64));
        }
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        if done > 0 && seconds >= RATE_AFTER.as_secs_f64() {
            let rate = done as f64 / seconds;
            text += &format!(", {rate:.1}/s");
            if done_bytes > 0 {
                text += &format!(", {}/s", size(done_bytes as f64 / seconds));
            }
            if left.count > 0 {
                text += &format!(", {} left", span((left.count as f64 / rate).ceil() as u64));
            }
        }
        Figures { bar: bar(done, self.count), text }
    }
}

fn bar(done: u64, all: u64) -> String {
    let full = (done.min(all) * CELLS).checked_div(all).unwrap_or(CELLS);
    (0..CELLS).map(|cell| if cell < full { '#' } else { '-' }).collect()
}

fn size(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", units[unit]) }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// Decides what is written.
struct Screen {
    interactive: bool,
    shown: String,
    at: Option<Instant>,
}

impl Screen {
    fn new(interactive: bool) -> Self {
        Self { interactive, shown: String::new(), at: None }
    }

    fn line(&self, text: &str, figures: Option<&Figures>) -> String {
        match figures {
            None => text.to_owned(),
            Some(figures) if self.interactive => format!("[{}] {}; {text}", figures.bar, figures.text),
            Some(figures) => format!("{text} ({})", figures.text),
        }
    }

    fn output(&mut self, line: String, now: Instant) -> Option<String> {
        let soon = |at: Instant| now.saturating_duration_since(at) < LINE_EVERY;
        if line == self.shown || (!self.interactive && self.at.is_some_and(soon)) {
            return None;
        }
        self.at = Some(now);
        let output = if self.interactive { format!("\r\x1b[K{line}") } else { format!("{line}\n") };
        self.shown = line;
        Some(output)
    }

    fn end(&mut self) -> String {
        let shown = std::mem::take(&mut self.shown);
        if self.interactive && !shown.is_empty() { "\r\x1b[K".to_owned() } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(count: u64, bytes: u64) -> Left {
        Left { count, unit: "replicas", bytes }
    }

    #[test]
    fn first_count_is_the_whole_and_the_rate_counts_from_it() {
        let begin = SystemClock.now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut gauge = Gauge::default();
        let mut read = |count, bytes, seconds| gauge.read(left(count, bytes), at(seconds));
        let first = read(40, 4 << 30, 0);
        assert_eq!(first.bar, "--------------------");
        assert_eq!(first.text, "0/40 replicas, 0 B of 4.0 GiB");
        let some = read(30, 3 << 30, 4);
        assert_eq!(some.bar, "#####---------------");
        assert_eq!(some.text, "10/40 replicas, 1.0 GiB of 4.0 GiB, 2.5/s, 256.0 MiB/s, 12 s left");
        // More has come.
        assert_eq!(read(50, 3 << 30, 9).text, "0/50 replicas, 1.0 GiB of 4.0 GiB");
        let last = read(0, 0, 100);
        assert_eq!((&last.bar[..], last.text.ends_with("left")), ("####################", false));
    }

    #[test]
    fn what_can_not_be_weighed_is_only_counted() {
        let begin = SystemClock.now();
        let mut gauge = Gauge::default();
        assert_eq!(gauge.read(left(0, 0), begin).text, "0/0 replicas");
        assert_eq!(gauge.read(left(7_300, 0), begin).text, "0/7300 replicas");
        let later = gauge.read(left(7_200, 0), begin + Duration::from_secs(100));
        assert_eq!(later.text, "100/7300 replicas, 1.0/s, 2 h 0 min left");
        assert_eq!((span(59), span(61)), ("59 s".to_owned(), "1 min 1 s".to_owned()));
    }

    #[test]
    fn terminal_is_written_over_and_a_log_gets_lines_now_and_then() {
        let begin = SystemClock.now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let figures = Figures { bar: "##--".to_owned(), text: "1/2 groups".to_owned() };
        let mut terminal = Screen::new(true);
        let line = terminal.line("n4 gives", Some(&figures));
        let over = "\r\x1b[K[##--] 1/2 groups; n4 gives".to_owned();
        assert_eq!(terminal.output(line.clone(), at(0)), Some(over));
        assert_eq!(terminal.output(line, at(0)), None, "it stands there");
        assert!(terminal.output("more".to_owned(), at(0)).is_some());
        assert_eq!((terminal.end(), terminal.end()), ("\r\x1b[K".to_owned(), String::new()));

        let mut log = Screen::new(false);
        let line = log.line("n4 gives", Some(&figures));
        assert_eq!(log.output(line.clone(), at(0)), Some("n4 gives (1/2 groups)\n".to_owned()));
        assert_eq!(log.output("more".to_owned(), at(1)), None, "too soon");
        assert_eq!(log.output(line, at(9)), None, "nothing new");
        assert_eq!(log.output("more".to_owned(), at(9)), Some("more\n".to_owned()));
        assert_eq!(log.end(), "");
    }
}
