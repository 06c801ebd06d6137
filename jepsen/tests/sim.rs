//! The simulator: that it repeats itself, that it finds what is there to be found, and that a number of seeds is clean.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use jepsen::history::{History, Op, Process, Value};
use jepsen::report;
use jepsen::sim::duties::META_MEMBER;
use jepsen::sim::plan::{Deed, Fault, Plan, Wish};
use jepsen::sim::workload;
use serde_json::Value as Json;

/// The clean run: a few minutes on two processors that have other things to do.
const MANY: &[&str] = &["--seeds", "50", "--time", "4s", "--calls", "80"];

fn sim(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    command.arg("sim").args(arguments).output().expect("jepsen runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn trace(seed: &str, path: &Path) -> String {
    let path = path.to_str().expect("a path that is text");
    let output = sim(&["--seed", seed, "--json", "--trace", path]);
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

/// Bit by bit: the verdict, the hash of everything that happened, and its text.
#[test]
fn a_seed_does_the_same_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let others = [
        seeds(|plan| stands_for(plan, Wish::Join) && stands_for(plan, Wish::Retire)).next(),
        seeds(|plan| stands_for(plan, Wish::Rebuild)).next(),
        seeds(|plan| plan.presplit).next(),
    ];
    for seed in [3, 11, 12].into_iter().chain(others.into_iter().flatten()) {
        let seed = &seed.to_string()[..];
        let (first, second) = (trace(seed, &one), trace(seed, &two));
        assert_eq!(first, second, "seed {seed}");
        let (one, two) = (std::fs::read(&one).expect("a trace"), std::fs::read(&two).expect("a trace"));
        assert!(one.len() > 100_000, "the trace of seed {seed} is short");
        assert!(one == two, "the traces of seed {seed} differ, though their hashes do not");
    }
}

#[test]
fn different_seeds_do_different_things() {
    let (one, two) = (sim(&["--seed", "1", "--json"]), sim(&["--seed", "2", "--json"]));
    assert_ne!(text(&one), text(&two));
}

#[test]
fn seeds_are_clean() {
    let output = sim(MANY);
    assert!(output.status.success(), "{}", text(&output));
}

/// A machine with this defect is found out within so many seeds, and the seed is told, with what it takes.
fn finds_out(broken: &str, workload: &str, time: &str, seeds: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().to_str().expect("a path that is text");
    let what = ["--broken", broken, "--workload", workload, "--time", time, "--seeds", seeds, "--out", out];
    let output = sim(&what);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let folder = said.lines().find_map(|line| line.trim().strip_prefix("in ")).expect("a folder");
    for name in [
        "history.edn",
        "latency.svg",
        "schedule.json",
        "timeline.svg",
        "trace",
        "verdict.json",
        "verdict.txt",
    ] {
        assert!(Path::new(folder).join(name).is_file(), "no {name}: {said}");
    }
    let command = said.lines().find_map(|line| line.trim().strip_prefix("jepsen ")).expect("a command");
    let again: Vec<&str> = command.split_whitespace().skip(1).collect();
    let again = sim(&again);
    assert_eq!(again.status.code(), Some(1), "the shrunk run fails, too: {}", text(&again));
}

/// Clocks that race do no harm if no read relies on a lease.
#[test]
fn clocks_that_race_do_no_harm_to_reads_by_quorum() {
    let racing = ["--broken", "racing-clocks", "--workload", "register", "--time", "12s"];
    let output = sim(&[&racing[..], &["--quorum-reads", "--seeds", "12"]].concat());
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn disks_that_lie_are_found_out() {
    finds_out("lying-disks", "list-append", "6s", "60");
}

#[test]
fn clocks_that_race_are_found_out() {
    finds_out("racing-clocks", "register", "12s", "20");
}

/// How long clients work if nothing else is said.
const USUAL_NS: u64 = 6_000_000_000;

/// What is wanted of shards one by one.
const SHARDS: [Wish; 4] = [Wish::Split, Wish::Merge, Wish::Move, Wish::Transfer];

fn plan(seed: u64) -> Plan {
    let workloads: Vec<&'static str> = workload::ALL.iter().map(|entry| entry.name).collect();
    Plan::draw(seed, &workloads, USUAL_NS, None)
}

fn stands_for(plan: &Plan, wanted: Wish) -> bool {
    plan.faults.iter().any(|fault| matches!(fault.deed, Deed::Operate { wish, .. } if wish == wanted))
}

/// Seeds whose plans are like that, and stand for faults, too.
fn seeds(are_meant: impl Fn(&Plan) -> bool) -> impl Iterator<Item = u64> {
    let breaks = |fault: &Fault| !matches!(fault.deed, Deed::Operate { .. });
    (1..10_000).filter(move |seed| {
        let plan = plan(*seed);
        are_meant(&plan) && plan.faults.iter().any(breaks)
    })
}

/// Whether a plan stands for what can be done with shards, of every kind, on nodes that replicas can move between.
fn is_varied(plan: &Plan) -> bool {
    plan.nodes > plan.replicas && SHARDS.into_iter().all(|wish| stands_for(plan, wish))
}

/// Runs a seed, in which nothing must be wrong; what it tells of itself.
fn report_of(seed: u64) -> Json {
    let output = sim(&["--seed", &seed.to_string(), "--json"]);
    let said = text(&output);
    assert!(matches!(output.status.code(), Some(0 | 2)), "seed {seed}: {said}");
    let line = said.lines().find(|line| line.starts_with('{')).expect("a line of JSON");
    serde_json::from_str(line).expect("a line of JSON")
}

/// How often an operation was done.
fn done(report: &Json, name: &str) -> u64 {
    report["operations"][name][0].as_u64().unwrap_or_default()
}

/// Of those about a node, the node is one that there may be.
#[test]
fn every_wish_comes_in_some_seed() {
    for wanted in Wish::ALL {
        let seed = seeds(|plan| stands_for(plan, wanted)).next();
        let plan = plan(seed.unwrap_or_else(|| panic!("{} never comes", wanted.name())));
        let places = plan.places() as u64;
        let exists = |deed: &Deed| match deed {
            Deed::Operate { wish, dice, asked } => {
                *asked < plan.nodes && (!wish.is_of_node() || *dice < places)
            }
            _ => true,
        };
        assert!(plan.faults.iter().all(|fault| exists(&fault.deed)), "{:?}", plan.faults);
    }
}

/// It is not enough that nothing fails: they must have been done.
#[test]
fn shards_are_split_and_merged_and_replicas_and_leaders_move_while_faults_strike() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds(is_varied).take(8) {
        let report = report_of(seed);
        for wish in SHARDS {
            *counts.entry(wish.name()).or_default() += done(&report, wish.name());
        }
    }
    assert!(counts.len() == SHARDS.len() && counts.values().all(|count| *count > 0), "{counts:?}");
}

/// Faults are in the way of what is wanted; in one of so many seeds it is done all the same.
const SEEDS_EACH: usize = 12;

/// What goes by this name is done in a seed that stands for the wish and for faults.
fn is_done_under_faults(wish: Wish, name: &str) {
    let mut seeds = seeds(|plan| stands_for(plan, wish)).take(SEEDS_EACH);
    assert!(seeds.any(|seed| done(&report_of(seed), name) > 0), "{name} is never done");
}

#[test]
fn nodes_join_while_faults_strike() {
    is_done_under_faults(Wish::Join, Wish::Join.name());
}

#[test]
fn nodes_are_drained_and_emptied_while_faults_strike() {
    for wish in [Wish::Drain, Wish::Decommission, Wish::Retire] {
        is_done_under_faults(wish, wish.name());
    }
}

#[test]
fn dead_nodes_are_replaced_while_faults_strike() {
    for wish in [Wish::Rebuild, Wish::Repair] {
        is_done_under_faults(wish, wish.name());
    }
}

/// Nobody asks for that.
#[test]
fn members_of_the_meta_group_are_replaced_with_their_nodes() {
    is_done_under_faults(Wish::Retire, META_MEMBER);
}

#[test]
fn shards_are_split_and_merged_by_themselves_while_faults_strike() {
    for wish in [Wish::Small, Wish::Large] {
        is_done_under_faults(wish, wish.name());
    }
}

/// Leaving one out leaves all others as they are, and a schedule says what it is.
#[test]
fn operations_are_numbered_among_the_faults() {
    let plan = plan(seeds(is_varied).next().expect("one of so many"));
    let merge = |fault: &Fault| matches!(fault.deed, Deed::Operate { wish: Wish::Merge, .. });
    let number = plan.faults.iter().position(merge).expect("a merge");
    let rest: Vec<usize> = (0..plan.faults.len()).filter(|n| *n != number).collect();
    let chosen = plan.chosen(Some(&rest[..]));
    assert_eq!(chosen.len() + 1, plan.faults.len());
    assert!(chosen.iter().all(|(n, fault)| plan.faults[*n] == *fault));
    let shown = plan.faults[number].json(number);
    assert_eq!((&shown["fault"], &shown["number"]), (&Json::from("merge"), &Json::from(number)));
    assert!(shown["about"].as_str().is_some_and(|about| about.contains("a merge of two shards")), "{shown}");
}

/// The same program, which breaks its promises on demand (`storage::sabotage`); `cluster-scripts/test` builds it.
#[test]
fn a_merge_that_waits_for_nobody_is_found_out() {
    let broken = Path::new(env!("CARGO_BIN_EXE_jepsen")).with_file_name("jepsen-sabotaged");
    let hint =
        "build it with: cargo build --workspace --bin jepsen --features node/sabotage, and copy it there";
    assert!(broken.is_file(), "there is no {}; {hint}", broken.display());
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    command.args(["sim", "--seeds", "50", "--out"]).arg(dir.path());
    command.env("JEPSEN_BIN", &broken).env("FLOTILLA_SABOTAGE", "absorb-unseen");
    let output = command.output().expect("jepsen runs");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    // The sound program does the same without failing.
    let line = said.lines().find_map(|line| line.trim().strip_prefix("jepsen ")).expect("a command");
    let again: Vec<&str> = line.split_whitespace().skip(1).collect();
    let again = sim(&again);
    assert!(matches!(again.status.code(), Some(0 | 2)), "{said}\nand the sound program: {}", text(&again));
}

/// The reason stands behind the checker's name.
#[test]
fn a_seed_that_is_undecided_says_why_and_is_no_success() {
    let output = sim(&["--seed", "701", "--calls", "3", "--time", "1s"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let why = said.lines().find_map(|line| line.strip_prefix("undecided: ")).expect("it is undecided");
    let (_, reason) = why.split_once(": ").expect("a checker");
    assert!(!reason.trim().is_empty(), "{said}");
}

/// How long clients work in a short history.
const SHORT_NS: u64 = 2_000_000_000;

/// A seed that stands for one pause, which ends while clients work.
fn seed_with_a_pause() -> (u64, Fault) {
    let found = (1..100_000).find_map(|seed| {
        let plan = Plan::draw(seed, &["register"], SHORT_NS, None);
        match &plan.faults[..] {
            [fault] if matches!(fault.deed, Deed::Pause(_)) && fault.at_ns + fault.for_ns < SHORT_NS => {
                Some((seed, fault.clone()))
            }
            _ => None,
        }
    });
    found.expect("one of so many")
}

#[test]
fn a_fault_begins_and_ends_in_the_history_and_is_shaded() {
    let (seed, fault) = seed_with_a_pause();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("history.edn");
    let file = path.to_str().expect("a path that is text");
    let seed = seed.to_string();
    let output =
        sim(&["--seed", &seed, "--workload", "register", "--time", "2s", "--calls", "40", "--history", file]);
    let said = text(&output);
    let history = History::load(&path).unwrap_or_else(|error| panic!("{error:#}: {said}"));
    let is_fault = |op: &&Op| op.process == Process::Nemesis && op.value.get("phase").is_some();
    let faults: Vec<&Op> = history.ops().iter().filter(is_fault).collect();
    let [begin, end] = &faults[..] else { panic!("{faults:?} of seed {seed}: {said}") };
    for (op, phase) in [(begin, "begin"), (end, "end")] {
        assert_eq!(op.f, "pause", "{op}");
        assert_eq!(op.value.get("phase").and_then(Value::as_name), Some(phase), "{op}");
        let nodes = op.value.get("nodes").and_then(Value::as_ints).expect("nodes");
        assert!(nodes.len() == 1 && (1..=5).contains(&nodes[0]), "{op}");
    }
    assert_eq!(begin.value.get("nodes"), end.value.get("nodes"));
    let lasted = end.time - begin.time;
    assert!((fault.for_ns..fault.for_ns + 1_000_000).contains(&lasted), "{begin} to {end}");
    let svg = report::timeline(&history, 3, &[]);
    assert!(svg.contains(">pause ["), "{svg}");
}

/// What an exploration of so many seeds, from the fourth on, makes of a program in the simulator's place.
fn exploration(script: &str, dir: &Path, seeds: &str) -> Output {
    let mut command = stand_in(script, dir);
    command.args(["sim", "--seeds", seeds, "--from", "4", "--out"]).arg(dir.join("out"));
    command.output().expect("jepsen runs")
}

/// `jepsen`, whose simulations are a program that does as it is told.
fn stand_in(script: &str, dir: &Path) -> Command {
    let program = dir.join("program");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a program");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).expect("a program that can be run");
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    command.env("JEPSEN_BIN", &program);
    command
}

/// One seed that fails.
fn explores(script: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let output = exploration(script, dir.path(), "1");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    let folder = said.lines().find_map(|line| line.trim().strip_prefix("in ")).expect("a folder");
    for name in ["verdict.txt", "schedule.json"] {
        assert!(Path::new(folder).join(name).is_file(), "no {name}: {said}");
    }
    said
}

/// The line of a run that found this, or nothing.
fn line(failure: &str) -> String {
    format!(r#"echo '{{"seed":4,"failure":{failure},"undecided":null,"faults":[0,1,2],"calls":1}}'"#)
}

#[test]
fn what_fails_in_another_way_when_faults_are_left_out_is_not_what_was_looked_for() {
    let (found, other) = (line(r#""list-append: G1a""#), line(r#""bank: wrong-total""#));
    // With all faults, and with the last one only: the failure. Without that one: another failure.
    let said = explores(&format!(
        r#"case "$*" in *"--faults 0,1"*|*"--faults none"*|*"--faults 0 "*|*"--faults 1 "*) {other} ;; *) {found} ;; esac"#
    ));
    assert!(said.contains("FAILED: list-append: G1a"), "{said}");
    assert!(said.contains("--faults 2"), "{said}");
}

#[test]
fn a_run_that_died_is_shrunk_too() {
    // It dies whatever is left out.
    let said = explores("echo broken >&2; kill -ABRT $$");
    assert!(said.contains("FAILED: the process ended with"), "{said}");
    assert!(said.contains("--faults none --calls 1\n"), "{said}");
}

#[test]
fn of_a_run_that_died_the_calls_it_takes_are_found() {
    let clean = line("null");
    let said = explores(&format!(
        r#"calls=1000000
while [ $# -gt 0 ]; do
    if [ "$1" = --calls ]; then calls=$2; fi
    shift
done
if [ $calls -lt 20 ]; then {clean}; else echo broken >&2; kill -ABRT $$; fi"#
    ));
    assert!(said.contains("FAILED: the process ended with"), "{said}");
    assert!(said.contains("--faults none --calls 20\n"), "{said}");
}

#[test]
fn undecided_seeds_are_no_failures_unless_there_are_many() {
    let clean = line("null");
    let undecided = clean.replace(r#""undecided":null"#, r#""undecided":"progress: only 3 calls succeeded""#);
    let script = format!(r#"case "$*" in *"--seed 4 "*) {undecided}; exit 2 ;; *) {clean} ;; esac"#);
    for (seeds, status) in [("40", 0), ("10", 2)] {
        let dir = tempfile::tempdir().expect("a directory");
        let output = exploration(&script, dir.path(), seeds);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains("(1 undecided)") && !said.contains("FAILED"), "{said}");
    }
}

#[test]
fn a_harness_that_fails_is_told_from_a_seed_that_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = exploration("echo no room >&2; exit 2", dir.path(), "1");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("no room") && !said.contains("FAILED"), "{said}");
    for (script, status) in [("exit 0", 0), ("exit 1", 1), ("exit 2", 2), ("kill -ABRT $$", 1)] {
        let dir = tempfile::tempdir().expect("a directory");
        let output = stand_in(script, dir.path()).args(["sim", "--seed", "4"]).output().expect("jepsen runs");
        assert_eq!(output.status.code(), Some(status), "{script}: {}", text(&output));
    }
}
