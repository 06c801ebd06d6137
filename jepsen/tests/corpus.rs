//! The checkers' own test: each history of `corpus/CHECKER/` says in its head which anomalies it has, and its checker must
//! find those and no others. A clean history must be found clean.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jepsen::checker::{self, Validity};
use jepsen::history::{History, edn, json};

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// What a file's head promises.
fn expected(text: &str) -> BTreeSet<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("; expect: ")).expect("an expectation");
    line.split(", ").filter(|name| *name != "clean").map(str::to_owned).collect()
}

#[test]
fn each_history_has_the_anomalies_it_names_and_no_others() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for folder in entries(&corpus()) {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let checker = checker::find(&name).unwrap_or_else(|| panic!("no checker {name}"));
        for path in entries(&folder) {
            count += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let verdict = (checker.check)(&History::load(&path).unwrap());
            let mut found: BTreeSet<String> = verdict.names().into_iter().map(str::to_owned).collect();
            if verdict.validity == Validity::Unknown {
                found.insert("unknown".to_owned());
            }
            if found != expected(&text) {
                wrong.push(format!("{}: expected {:?}\n{verdict}", path.display(), expected(&text)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} are wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(count > 80, "only {count} histories");
}

#[test]
fn each_checker_has_a_clean_history_and_one_that_is_not() {
    for checker in checker::ALL {
        let expectations: Vec<bool> = entries(&corpus().join(checker.name))
            .iter()
            .map(|path| expected(&std::fs::read_to_string(path).unwrap()).is_empty())
            .collect();
        assert!(expectations.contains(&true), "{} has no clean history", checker.name);
        assert!(expectations.contains(&false), "{} has nothing to find", checker.name);
    }
}

#[test]
fn a_history_says_the_same_as_json() {
    for path in entries(&corpus()).iter().flat_map(|folder| entries(folder)) {
        let checker = checker::find(path.parent().unwrap().file_name().unwrap().to_str().unwrap()).unwrap();
        let ops = edn::read(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let again = History::new(json::read(&json::write_all(&ops)).unwrap()).unwrap();
        let (one, other) = ((checker.check)(&History::new(ops).unwrap()), (checker.check)(&again));
        assert_eq!(one.names(), other.names(), "{}", path.display());
    }
}
