//! What sessions see of each other at each isolation level, step by step, on PostgreSQL and on Flotilla.
//!
//! `tests/isolation/NAME.spec` says which steps are taken in which order (in the manner of PostgreSQL's isolationtester),
//! `NAME.out` what came of them. Lines there that begin with a blank hold for both; where the two differ, `P` is PostgreSQL's and `F`
//! is Flotilla's. Both are run, and both must do what the file says.
//!
//! ```text
//! setup SQL                            before each run; `teardown SQL` after it
//! scenario NAME @ LEVEL, LEVEL         run once for each level
//!   a: SQL                             a step of session a (b, c …; each on a node of its own)
//! ```
//!
//! A step waits if it hasn't answered after a while; its answer is shown under the step that let it go on. How long is waited for
//! an answer depends on what the file expects, so that a slow machine makes no difference: [`ANSWER`] for one that should come,
//! [`SILENCE`] for one that shouldn't. `FLOTILLA_ISOLATION=NAME` runs one file; with `FLOTILLA_RECORD=1` the files are written anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::peer::Postgres;
use tests::{Cluster, connect, root, sqlstate};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::SimpleQueryMessage;

/// How long an answer is waited for that should come.
const ANSWER: Duration = Duration::from_secs(30);
/// After so long without an answer a step waits.
const SILENCE: Duration = Duration::from_millis(700);

struct Scenario {
    name: String,
    levels: Vec<String>,
    steps: Vec<(String, String)>,
}

#[derive(Default)]
struct Spec {
    setup: Vec<String>,
    teardown: Vec<String>,
    scenarios: Vec<Scenario>,
}

fn parse(text: &str) -> Result<Spec> {
    let mut spec = Spec::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(sql) = line.strip_prefix("setup ") {
            spec.setup.push(sql.to_owned());
        } else if let Some(sql) = line.strip_prefix("teardown ") {
            spec.teardown.push(sql.to_owned());
        } else if let Some(rest) = line.strip_prefix("scenario ") {
            let (name, levels) = rest.split_once(" @ ").context("a scenario has levels")?;
            let levels = levels.split(',').map(|level| level.trim().to_owned()).collect();
            spec.scenarios.push(Scenario { name: name.to_owned(), levels, steps: Vec::new() });
        } else {
            let (session, sql) = line.split_once(": ").with_context(|| format!("what is {line:?}?"))?;
            let scenario = spec.scenarios.last_mut().context("a step belongs to a scenario")?;
            scenario.steps.push((session.to_owned(), sql.to_owned()));
        }
    }
    Ok(spec)
}

/// What came of each step: the lines below it.
type Transcript = Vec<Vec<String>>;

/// Statements go in, answers come out, on a task of its own: a step that waits keeps nobody else from going on.
struct Session {
    statements: mpsc::Sender<(String, oneshot::Sender<String>)>,
    waiting: Option<oneshot::Receiver<String>>,
}

impl Session {
    async fn open(url: &str, level: &str) -> Result<Self> {
        let client = connect(url).await?;
        let set = format!("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}");
        client.batch_execute(&set).await?;
        let (statements, mut inbox) = mpsc::channel::<(String, oneshot::Sender<String>)>(1);
        #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
        tokio::spawn(async move {
            while let Some((sql, answer)) = inbox.recv().await {
                let result = client.simple_query(&sql).await;
                // Whoever asked may have given up.
                let _ = answer.send(describe(&sql, result));
            }
        });
        Ok(Self { statements, waiting: None })
    }

    /// The answer, if it comes within `patience`.
    async fn answer(&mut self, patience: Duration) -> Option<String> {
        let waiting = self.waiting.as_mut()?;
        let answer = tokio::time::timeout(patience, waiting).await.ok()?;
        self.waiting = None;
        Some(answer.unwrap_or_else(|_| "the session has ended".to_owned()))
    }
}

fn describe(sql: &str, result: Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>) -> String {
    let messages = match result {
        Ok(messages) => messages,
        Err(error) => return format!("ERROR {}", sqlstate(&error)),
    };
    let (mut rows, mut has_columns, mut count) = (Vec::new(), false, 0);
    for message in &messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                let values: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect();
                rows.push(format!("({})", values.join(", ")));
            }
            SimpleQueryMessage::RowDescription(_) => has_columns = true,
            SimpleQueryMessage::CommandComplete(n) => count = *n,
            _ => {}
        }
    }
    if has_columns {
        return if rows.is_empty() { "no rows".to_owned() } else { rows.join(" ") };
    }
    let word = sql.split_whitespace().next().unwrap_or_default().to_uppercase();
    match word.as_str() {
        "INSERT" | "UPDATE" | "DELETE" => format!("{word} {count}"),
        _ => "done".to_owned(),
    }
}

/// Takes the steps of a scenario. `expected`: what should come of them.
async fn run(
    spec: &Spec,
    scenario: &Scenario,
    level: &str,
    urls: &[String],
    expected: Option<&Transcript>,
) -> Result<Transcript> {
    let admin = connect(&urls[0]).await?;
    for sql in &spec.setup {
        admin.batch_execute(sql).await.with_context(|| sql.clone())?;
    }
    let mut sessions: BTreeMap<String, Session> = BTreeMap::new();
    for (name, _) in &scenario.steps {
        let node = usize::from(name.as_bytes()[0] - b'a') % urls.len();
        if !sessions.contains_key(name) {
            sessions.insert(name.clone(), Session::open(&urls[node], level).await?);
        }
    }
    let mut transcript = Transcript::new();
    for (number, (name, sql)) in scenario.steps.iter().enumerate() {
        let expected = expected.and_then(|all| all.get(number));
        let patience = |session: &str, silent: Duration| match expected {
            None => 3 * silent,
            Some(lines) if lines.iter().any(|l| *l == format!("{session}: waits")) => silent,
            Some(lines) if lines.iter().any(|l| l.starts_with(&format!("{session}: "))) => ANSWER,
            Some(_) => Duration::ZERO,
        };
        let mut lines = Vec::new();
        let session = sessions.get_mut(name).context("a session")?;
        if session.waiting.is_some() {
            // What it still waits for must be over before it goes on.
            match session.answer(patience(name, SILENCE).max(SILENCE)).await {
                Some(answer) => lines.push(format!("{name}: before: {answer}")),
                None => {
                    lines.push(format!("{name}: not run, it still waits"));
                    transcript.push(lines);
                    continue;
                }
            }
        }
        let (send, receive) = oneshot::channel();
        session.statements.send((sql.clone(), send)).await.ok().context("the session has ended")?;
        session.waiting = Some(receive);
        match session.answer(patience(name, SILENCE).max(SILENCE)).await {
            Some(answer) => lines.push(format!("{name}: {answer}")),
            None => lines.push(format!("{name}: waits")),
        }
        for (other, session) in sessions.iter_mut().filter(|(other, _)| *other != name) {
            if let Some(answer) = session.answer(patience(other, SILENCE)).await {
                lines.push(format!("{other}: {answer}"));
            }
        }
        transcript.push(lines);
    }
    drop(sessions);
    for sql in &spec.teardown {
        // Sessions that were in the middle of something go away in their own time.
        let mut left = 100;
        while let Err(error) = admin.batch_execute(sql).await {
            left -= 1;
            ensure!(left > 0, "{sql}: {error}");
            tests::pause(50).await;
        }
    }
    Ok(transcript)
}

/// What the file says of one run: PostgreSQL's part, or Flotilla's.
fn read(text: &str, title: &str, mine: char) -> Option<Transcript> {
    let mut transcript = Transcript::new();
    let mut lines = text.lines().skip_while(|line| *line != title);
    lines.next()?;
    for line in lines.take_while(|line| !line.starts_with("==")) {
        let (mark, rest) = line.split_at_checked(1)?;
        if let Some(result) = rest.strip_prefix("     ") {
            if mark == " " || mark.starts_with(mine) {
                transcript.last_mut()?.push(result.to_owned());
            }
        } else if !rest.trim().is_empty() {
            transcript.push(Vec::new());
        }
    }
    Some(transcript)
}

fn write(out: &mut String, scenario: &Scenario, title: &str, postgres: &Transcript, flotilla: &Transcript) {
    let _ = writeln!(out, "{title}");
    for (at, (session, sql)) in scenario.steps.iter().enumerate() {
        let _ = writeln!(out, "  {session}: {sql}");
        let mut put = |mark: char, lines: &[String]| {
            lines.iter().for_each(|line| {
                let _ = writeln!(out, "{mark}     {line}");
            });
        };
        match postgres[at] == flotilla[at] {
            true => put(' ', &postgres[at]),
            false => {
                put('P', &postgres[at]);
                put('F', &flotilla[at]);
            }
        }
    }
    out.push('\n');
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_see_of_each_other_what_the_level_says() -> Result<()> {
    let postgres = Postgres::start()?;
    let cluster = Cluster::start(3)?;
    let on_postgres = [postgres.url()];
    let on_flotilla: Vec<String> = (1..=3).map(|node| cluster.url(node)).collect();
    let only = std::env::var("FLOTILLA_ISOLATION").ok();
    let record = std::env::var_os("FLOTILLA_RECORD").is_some();
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("tests/isolation"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "spec"))
        .filter(|path| only.as_deref().is_none_or(|only| path.file_stem().is_some_and(|stem| stem == only)))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "there is something to run");
    let mut wrong = Vec::new();
    for file in files {
        let spec = parse(&fs::read_to_string(&file)?).with_context(|| file.display().to_string())?;
        let recorded = fs::read_to_string(file.with_extension("out")).unwrap_or_default();
        let mut out = String::new();
        for scenario in &spec.scenarios {
            for level in &scenario.levels {
                let title = format!("== {} @ {level}", scenario.name);
                let expected = |mine| if record { None } else { read(&recorded, &title, mine) };
                let (p, f) = (expected('P'), expected('F'));
                let p = run(&spec, scenario, level, &on_postgres, p.as_ref()).await.context("PostgreSQL")?;
                let f = run(&spec, scenario, level, &on_flotilla, f.as_ref()).await;
                let f = f.with_context(|| format!("{title}\n{}", cluster.logs()))?;
                write(&mut out, scenario, &title, &p, &f);
            }
        }
        if record {
            fs::write(file.with_extension("out"), &out)?;
        } else if out != recorded {
            let at = out.lines().zip(recorded.lines()).take_while(|(a, b)| a == b).count();
            let show = |text: &str| {
                text.lines()
                    .skip(at.saturating_sub(12))
                    .take(20)
                    .map(|l| format!("  {l}\n"))
                    .collect::<String>()
            };
            let name = file.display();
            wrong.push(format!(
                "{name}, line {}\nrecorded:\n{}now:\n{}",
                at + 1,
                show(&recorded),
                show(&out)
            ));
        }
    }
    if !wrong.is_empty() {
        bail!("{}\n{}", wrong.join("\n"), cluster.logs());
    }
    Ok(())
}
