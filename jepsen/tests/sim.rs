//! The simulator: that it repeats itself, that it finds what is there to be found, and that a number of seeds is clean.

use std::path::Path;
use std::process::{Command, Output};

/// The clean run: a few minutes on two processors that have other things to do.
const MANY: &[&str] = &["--seeds", "200", "--time", "4s", "--calls", "80"];

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
    for seed in ["3", "11", "12"] {
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
    let output = sim(&["--broken", broken, "--workload", workload, "--time", time, "--seeds", seeds]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let command = said.lines().find_map(|line| line.trim().strip_prefix("jepsen ")).expect("a command");
    let again: Vec<&str> = command.split_whitespace().skip(1).collect();
    let again = sim(&again);
    assert_eq!(again.status.code(), Some(1), "the shrunk run fails, too: {}", text(&again));
}

#[test]
fn disks_that_lie_are_found_out() {
    finds_out("lying-disks", "list-append", "6s", "60");
}

#[test]
fn clocks_that_race_are_found_out() {
    finds_out("racing-clocks", "register", "12s", "20");
}

/// A program in the simulator's place, which fails as it is told: what an exploration makes of it.
fn explores(script: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("program");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a program");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).expect("a program that can be run");
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    command.args(["sim", "--seeds", "1", "--from", "4", "--out"]).arg(dir.path().join("out"));
    let output = command.env("JEPSEN_BIN", &program).output().expect("jepsen runs");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    let folder = said.lines().find_map(|line| line.trim().strip_prefix("in ")).expect("a folder");
    assert!(Path::new(folder).join("verdict.txt").is_file(), "{said}");
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
    assert!(said.contains("--faults none"), "{said}");
}
