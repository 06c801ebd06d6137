//! Real processes: a cluster of three comes up, grows every group to three replicas, survives `kill -9`, and stops
//! cleanly. What the cluster does with data is tested in the crate `tests`.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits for them in real time")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tests::ports::Ports;

/// Generous: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

struct Node {
    store: PathBuf,
    ports: [u16; 3],
    join: String,
    process: Option<Child>,
}

impl Node {
    fn address(&self, port: usize) -> String {
        format!("127.0.0.1:{}", self.ports[port])
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.store.with_extension("log")).expect("a log");
        let child = Command::new(tests::binary())
            .args(["start", "--insecure", "--join", &self.join, "--store"])
            .arg(&self.store)
            .args(["--listen-sql", &self.address(0)])
            .args(["--listen-rpc", &self.address(1)])
            .args(["--listen-http", &self.address(2)])
            .stderr(Stdio::from(log))
            .spawn();
        self.process = Some(child.expect("the binary starts"));
    }

    fn signal(&self, signal: i32) {
        let pid = self.process.as_ref().expect("it runs").id();
        let killed = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
        assert!(killed.expect("kill runs").success());
    }

    /// The status of a GET, `None` if nobody answers.
    fn get(&self, path: &str) -> Option<u16> {
        let mut stream = TcpStream::connect(self.address(2)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.store.with_extension("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn nodes(dir: &Path, ports: &Ports, count: u16) -> Vec<Node> {
    let three = |node| [0, 1, 2].map(|k| ports.base + 3 * node + k);
    let ports: Vec<[u16; 3]> = (0..count).map(three).collect();
    let join: Vec<String> = ports.iter().map(|p| format!("127.0.0.1:{}", p[1])).collect();
    let node = |(i, ports): (usize, &[u16; 3])| {
        let store = dir.join(format!("node-{}", i + 1));
        Node { store, ports: *ports, join: join.join(","), process: None }
    };
    ports.iter().enumerate().map(node).collect()
}

fn flotilla(args: &[&str]) -> Output {
    Command::new(tests::binary()).args(args).output().expect("the binary runs")
}

fn until(what: &str, nodes: &[Node], mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > LIMIT {
            let logs: Vec<String> = nodes.iter().map(Node::log).collect();
            panic!("{what}: not within {LIMIT:?}\n{}", logs.join("\n----\n"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn settled(nodes: &[Node], by: usize) -> bool {
    let out = flotilla(&["admin", "status", "--json", "--host", &nodes[by].address(1)]);
    let Ok(status) = serde_json::from_slice::<serde_json::Value>(&out.stdout) else { return false };
    status["settled"] == true && status["nodes"] == nodes.len()
}

#[test]
fn three_nodes_form_a_cluster_and_survive_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports::take().expect("ports");
    let mut nodes = nodes(dir.path(), &ports, 3);
    nodes.iter_mut().for_each(Node::start);
    until("all listen", &nodes, || nodes.iter().all(|n| n.get("/health") == Some(200)));
    assert!(nodes.iter().all(|n| n.get("/ready") == Some(503)), "nothing is ready before init");

    let rpc = nodes[0].address(1);
    let out = flotilla(&["init", "--host", &rpc]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let again = flotilla(&["init", "--host", &rpc]);
    assert_eq!(again.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&again.stderr).contains("already initialised"));

    until("all are ready", &nodes, || nodes.iter().all(|n| n.get("/ready") == Some(200)));
    until("every group has three replicas", &nodes, || settled(&nodes, 1));

    // A node dies and comes back; the others go on meanwhile.
    nodes[0].signal(9);
    nodes[0].process.take().map(|mut p| p.wait());
    until("the others are ready without it", &nodes, || {
        nodes[1..].iter().all(|n| n.get("/ready") == Some(200))
    });
    let out = flotilla(&["admin", "shards", "--host", &nodes[2].address(1)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    nodes[0].start();
    until("it is back", &nodes, || nodes[0].get("/ready") == Some(200) && settled(&nodes, 0));

    // A clean stop is a clean exit, with all nodes going down at once, and what was there comes back.
    nodes.iter().for_each(|n| n.signal(15));
    for node in &mut nodes {
        let status = node.process.take().map(|mut p| p.wait().expect("it ends"));
        assert!(status.is_some_and(|s| s.success()), "{status:?}\n{}", node.log());
    }
    nodes.iter_mut().for_each(Node::start);
    until("the cluster is back", &nodes, || {
        nodes.iter().all(|n| n.get("/ready") == Some(200)) && settled(&nodes, 2)
    });
}

#[test]
fn refusals_are_one_line_with_a_status() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = dir.path().join("store");
    let store = store.to_str().expect("UTF-8");
    let start = |more: &[&str]| {
        let any =
            ["--listen-sql", "127.0.0.1:0", "--listen-rpc", "127.0.0.1:0", "--listen-http", "127.0.0.1:0"];
        let out = flotilla(&[&["start-single-node", "--store", store], &any[..], more].concat());
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        (out.status.code(), text.lines().last().unwrap_or_default().to_owned())
    };
    let (status, line) = start(&[]);
    assert!(status == Some(2) && line.contains("--insecure is missing"), "{status:?} {line}");

    let taken =
        TcpListener::bind("127.0.0.1:0").and_then(|l| Ok((l.local_addr()?.to_string(), l))).expect("a port");
    let out = flotilla(&["start", "--insecure", "--store", store, "--listen-sql", &taken.0]);
    let line = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(3) && line.contains(&taken.0), "{line}");

    std::fs::create_dir(store).expect("a directory");
    std::fs::write(dir.path().join("store/photo.jpg"), "not a store").expect("a file");
    let (status, line) = start(&["--insecure"]);
    assert!(status == Some(4) && line.contains("photo.jpg"), "{status:?} {line}");
}
