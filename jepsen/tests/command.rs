//! The command line: what it refuses, and its exit status.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    jepsen("run", arguments)
}

fn jepsen(subcommand: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    let output: Output = command.arg(subcommand).args(arguments).output().expect("jepsen runs");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

#[test]
fn a_database_that_runs_already_is_not_broken() {
    let elsewhere = "postgresql://root@127.0.0.1:1/postgres";
    let (status, said) = run(&["register", "--cluster", elsewhere, "--faults", "kill"]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("only a cluster of one's own is broken"), "{said}");
}

#[test]
fn nothing_was_shown_where_there_was_no_time_for_a_run() {
    let (status, said) = run(&["register", "--total", "0s"]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("no time for a run"), "{said}");
}

#[test]
fn what_does_not_exist_is_refused() {
    for arguments in [["no-such-workload", "--faults", "kill"], ["register", "--faults", "no-such-fault"]] {
        let (status, said) = run(&arguments);
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains("no-such-"), "{said}");
    }
}

#[test]
fn measurements_say_what_they_take() {
    for subcommand in ["gaps", "idle", "catchup"] {
        let (status, said) = jepsen(subcommand, &["--help"]);
        assert_eq!(status, Some(0), "{said}");
        assert!(said.starts_with("Measure "), "{said}");
        for option in ["--base-port", "--out", "--table", "--cluster-script"] {
            assert!(said.contains(option), "{subcommand} has no {option}: {said}");
        }
    }
}

#[test]
fn a_measurement_refuses_what_it_does_not_understand() {
    for arguments in [["--bytes", "1 heap"], ["--snapshot-rate", "0"], ["--clients", "1"]] {
        let (status, said) = jepsen("catchup", &arguments);
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains(arguments[0]), "{said}");
    }
}
