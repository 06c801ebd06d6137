use proptest::prelude::*;

use super::*;

fn op(process: Process, kind: Kind, f: &str, value: Value) -> Op {
    Op { index: 0, process, kind, f: f.to_owned(), value, time: 7, error: None }
}

#[test]
fn what_jepsen_writes_is_read() {
    let text = "; a comment
        {:type :invoke, :f :txn, :value [[:append 3 1] [:r 4 nil]], :process 0, :time 10, :index 0}
        #jepsen.history.Op{:index 1 :time 20 :type :info :process 0 :f :txn :value nil
                           :error [:conn \"lost \\\"it\\\"\"]}
        {:type :info :f :start #_ignored :process :nemesis :value #{1 2}}";
    let history = History::new(edn::read(text).unwrap()).unwrap();
    assert_eq!(history.ops().len(), 3);
    let call = history.calls().next().unwrap();
    assert_eq!(call.outcome(), Kind::Info);
    assert_eq!(call.invoke.value.to_string(), "[[:append 3 1] [:r 4 nil]]");
    assert_eq!(call.complete.unwrap().error.as_deref(), Some("[:conn \"lost \\\"it\\\"\"]"));
    assert_eq!(history.ops()[2].value, Value::vector([1, 2]));
}

#[test]
fn a_vector_around_the_whole_is_read() {
    let text = "[{:type :invoke :process 1 :f :read :value nil} {:type :ok :process 1 :f :read :value 5}]";
    assert_eq!(edn::read(text).unwrap().len(), 2);
}

#[test]
fn malformed_text_is_an_error() {
    for text in ["{:type :invoke", "{:type}", "\"", "]", "{:type :maybe :process 1}", "#_", &"[".repeat(100)]
    {
        assert!(edn::read(text).is_err(), "{text}");
    }
}

#[test]
fn a_process_does_one_thing_at_a_time() {
    let client = Process::Client(1);
    let twice =
        vec![op(client, Kind::Invoke, "read", Value::Nil), op(client, Kind::Invoke, "read", Value::Nil)];
    assert!(History::new(twice).is_err());
    assert!(History::new(vec![op(client, Kind::Ok, "read", Value::Nil)]).is_err());
}

#[test]
fn what_is_recorded_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::create(folder.path(), Clock::start(), 2).unwrap();
    recorder.record(Process::Client(3), Kind::Invoke, "write", &Value::pair(1, 2), None);
    assert!(!recorder.is_full());
    recorder.record(Process::Client(3), Kind::Info, "write", &Value::pair(1, 2), Some("lost\nit"));
    assert!(recorder.is_full());
    recorder.finish().unwrap();
    let edn = History::load(&folder.path().join("history.edn")).unwrap();
    assert_eq!(edn, History::load(&folder.path().join("history.json")).unwrap());
    assert_eq!(edn.ops()[1].error.as_deref(), Some("lost\nit"));
    assert!(edn.ops()[0].time <= edn.ops()[1].time);
}

#[test]
fn json_is_read_as_an_array_and_by_lines() {
    let ops = [
        op(Process::Client(3), Kind::Invoke, "write", Value::pair(1, 2)),
        Op { index: 1, ..op(Process::Client(3), Kind::Info, "write", Value::pair(1, 2)) },
        Op { index: 2, ..op(Process::Nemesis, Kind::Info, SPLIT_AT, Value::Int(4)) },
    ];
    let array = json::write_all(&ops);
    assert_eq!(array.lines().count(), ops.len() + 2, "{array}");
    let document: Vec<serde_json::Value> = serde_json::from_str(&array).unwrap();
    assert_eq!(document.len(), ops.len());
    let pretty = serde_json::to_string_pretty(&document).unwrap();
    let lines: Vec<String> = ops.iter().map(json::write).collect();
    let broken_off = array.trim_end().trim_end_matches(']');
    for text in [&array[..], &pretty, &lines.join("\n"), &document_line(&document), broken_off] {
        assert_eq!(json::read(text).unwrap(), ops, "{text}");
    }
    assert!(json::read("[\n]\n").unwrap().is_empty());
    assert!(json::read(&json::write_all(&[])).unwrap().is_empty());
    assert!(json::read(&array.replace("write", "\"")).is_err());
}

/// All on one line.
fn document_line(document: &[serde_json::Value]) -> String {
    serde_json::to_string(document).unwrap()
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        "[a-z][a-z-]{0,5}".prop_map(Value::Keyword),
        ".{0,6}".prop_map(Value::Text),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Vector),
            prop::collection::vec(("[a-z]{1,3}".prop_map(Value::Keyword), inner), 0..3).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn values_survive_edn(value in any_value()) {
        prop_assert_eq!(edn::value(&value.to_string()).unwrap(), value);
    }
}
