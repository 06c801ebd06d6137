//! Clusters of real processes, for the end-to-end tests.
//!
//! A [`Cluster`] is started through `cluster-scripts/cluster`, as a user would, in a directory and on ports of its own; it
//! is taken down and wiped when dropped. The binary under test is `$FLOTILLA_BIN`, or the debug build. Nothing here looks
//! inside the product: tests speak PostgreSQL's protocol, HTTP and signals.

pub mod peer;
pub mod ports;

pub mod bank;
pub mod doomed;
pub mod pairs;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio_postgres::NoTls;

use crate::ports::Ports;

/// How long a client waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate lives in the workspace").to_owned()
}

/// The binary under test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FLOTILLA_BIN") {
        return path.into();
    }
    // This test's own executable is in <target>/debug/deps.
    let me = std::env::current_exe().expect("the test has a path");
    let debug = me.ancestors().find(|p| p.join("flotilla").is_file());
    debug.map(|p| p.join("flotilla")).expect("build the binary first: cargo build --bin flotilla")
}

/// The binary that breaks its promises on demand (`storage::sabotage`); `cluster-scripts/test` builds it.
pub fn sabotaged_binary() -> Result<PathBuf> {
    let path = match std::env::var_os("FLOTILLA_SABOTAGED_BIN") {
        Some(path) => path.into(),
        None => binary().with_file_name("flotilla-sabotaged"),
    };
    let hint = "build it with: cargo build --workspace --bin flotilla --test verify --features node/sabotage, and copy it there";
    anyhow::ensure!(path.is_file(), "there is no {}; {hint}", path.display());
    Ok(path)
}

/// A cluster of processes.
pub struct Cluster {
    /// How many nodes.
    pub nodes: usize,
    ports: Ports,
    dir: tempfile::TempDir,
    environment: Vec<(String, std::ffi::OsString)>,
}

impl Cluster {
    /// Starts a cluster; returns when all nodes are ready.
    pub fn start(nodes: usize) -> Result<Self> {
        let cluster = Self::prepare(nodes)?;
        cluster.script(&["up", "--nodes", &nodes.to_string()])?;
        Ok(cluster)
    }

    /// A place for a cluster, with nothing started.
    pub fn prepare(nodes: usize) -> Result<Self> {
        Ok(Self { nodes, ports: Ports::take()?, dir: tempfile::tempdir()?, environment: Vec::new() })
    }

    /// The nodes that are started from now on find this in their environment.
    pub fn set_environment(&mut self, name: &str, value: impl Into<std::ffi::OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// The process of node `n`.
    pub fn pid(&self, n: usize) -> Result<u32> {
        let path = self.node_dir(n).join("pid");
        let said = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(said.trim().parse()?)
    }

    /// Runs `cluster-scripts/cluster` for this cluster; what it prints.
    pub fn script(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(root().join("cluster-scripts/cluster"))
            .args(args)
            .arg("--dir")
            .arg(self.dir.path())
            .args(["--base-port", &self.ports.base.to_string()])
            .env("FLOTILLA_BIN", binary())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()?;
        if !output.status.success() {
            bail!("cluster {args:?} failed: {}\n{}", text(&output), self.logs());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `flotilla admin` against node `n`; what it prints, or what it complains of.
    pub fn admin(&self, n: usize, args: &[&str]) -> Result<String> {
        let host = format!("127.0.0.1:{}", self.rpc_port(n));
        let output = Command::new(binary()).args(["admin", "--host", &host]).args(args).output()?;
        ensure!(output.status.success(), "admin {args:?}: {}", text(&output));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same with `--json`, read.
    pub fn admin_json(&self, n: usize, args: &[&str]) -> Result<serde_json::Value> {
        let args: Vec<&str> = std::iter::once("--json").chain(args.iter().copied()).collect();
        Ok(serde_json::from_str(&self.admin(n, &args)?)?)
    }

    /// Runs `flotilla admin check` against node 1; what comes of it, whatever that is.
    pub fn check(&self, args: &[&str]) -> Result<Output> {
        let host = format!("127.0.0.1:{}", self.rpc_port(1));
        Ok(Command::new(binary()).args(["admin", "check", "--host", &host]).args(args).output()?)
    }

    /// The name of node `n` for operators. (Nodes are numbered as they join.)
    pub fn name(&self, n: usize) -> Result<String> {
        let address = format!("127.0.0.1:{}", self.sql_port(n));
        for asked in 1..=self.nodes {
            let Ok(nodes) = self.admin_json(asked, &["nodes"]) else { continue };
            let node = nodes.as_array().into_iter().flatten().find(|node| node["sql"] == *address);
            if let Some(id) = node.and_then(|node| node["id"].as_u64()) {
                return Ok(format!("n{id}"));
            }
        }
        bail!("no node serves at {address}")
    }

    /// Where node `n` (from 1) keeps its data and log.
    pub fn node_dir(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("node-{n}"))
    }

    /// The port of node `n` for SQL.
    pub fn sql_port(&self, n: usize) -> u16 {
        self.ports.base + n as u16
    }

    /// The port of node `n` for other nodes.
    pub fn rpc_port(&self, n: usize) -> u16 {
        self.ports.base + 20 + n as u16
    }

    /// The port of node `n` for HTTP.
    pub fn http_port(&self, n: usize) -> u16 {
        self.ports.base + 40 + n as u16
    }

    /// The URL of node `n`.
    pub fn url(&self, n: usize) -> String {
        format!("postgresql://root@127.0.0.1:{}/postgres?sslmode=disable", self.sql_port(n))
    }

    /// The end of each node's log, for a failing test's message.
    pub fn logs(&self) -> String {
        (1..=self.nodes)
            .map(|n| {
                let log = std::fs::read_to_string(self.node_dir(n).join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                format!("--- node {n}\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
            })
            .collect()
    }

    /// Connects to node `n`.
    pub async fn connect(&self, n: usize) -> Result<tokio_postgres::Client> {
        connect(&self.url(n)).await
    }

    /// Runs `psql -X` on node `n` with `script` as its input.
    pub fn psql(&self, n: usize, args: &[&str], script: &str) -> Result<Output> {
        psql(&self.url(n), args, script)
    }

    /// The one value that `sql` gives on node `n`.
    pub async fn value(&self, n: usize, sql: &str) -> Result<String> {
        let client = self.connect(n).await?;
        for message in client.simple_query(sql).await.with_context(|| format!("{sql}\n{}", self.logs()))? {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                return Ok(row.get(0).unwrap_or("NULL").to_owned());
            }
        }
        bail!("{sql} gave no row")
    }

    /// The node that leads the first shard of the database `postgres`. (Nodes are numbered as they join: their ids may be others.)
    pub async fn leader(&self) -> Result<usize> {
        let sql = "SELECT n.sql_address FROM flotilla.shards s JOIN flotilla.nodes n ON n.node_id = s.leader
                   WHERE s.database_name = 'postgres' ORDER BY s.start_key LIMIT 1";
        let address = self.value(1, sql).await?;
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
        let leader = (1..=self.nodes).find(|n| Some(self.sql_port(*n)) == port);
        leader.with_context(|| format!("no node serves at {address}"))
    }

    /// The node that leads the meta-group, as node `asked` knows it.
    pub fn meta_leader(&self, asked: usize) -> Result<usize> {
        let status = self.admin_json(asked, &["meta", "status"])?;
        self.number(status["leader"].as_u64().context("a leader of the meta-group")?)
    }

    /// The node that has this id.
    pub fn number(&self, id: u64) -> Result<usize> {
        for n in 1..=self.nodes {
            if self.name(n)? == format!("n{id}") {
                return Ok(n);
            }
        }
        bail!("there is no n{id}")
    }

    /// Runs pgbench against node `n`.
    pub fn pgbench(&self, n: usize, args: &[&str]) -> Result<String> {
        let output = Command::new("pgbench")
            .args(["-h", "127.0.0.1", "-p", &self.sql_port(n).to_string(), "-U", "root"])
            .args(args)
            .arg("postgres")
            .output()?;
        ensure!(output.status.success(), "pgbench {args:?}: {}\n{}", text(&output), self.logs());
        Ok(text(&output))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        if let Err(error) = self.script(&["wipe"]) {
            eprintln!("the cluster could not be taken down: {error:#}");
        }
    }
}

/// Connects, and drives the connection in the background.
pub async fn connect(url: &str) -> Result<tokio_postgres::Client> {
    let mut config: tokio_postgres::Config = url.parse()?;
    config.connect_timeout(CONNECT_TIMEOUT);
    let (client, connection) = config.connect(NoTls).await?;
    #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
    tokio::spawn(async move {
        // An error of the connection is an error of the statements on it.
        let _ = connection.await;
    });
    Ok(client)
}

/// Runs `psql -X` with `script` as its input.
pub fn psql(url: &str, args: &[&str], script: &str) -> Result<Output> {
    use std::io::Write;
    let mut child = Command::new("psql")
        .arg("-X")
        .args(args)
        .arg(url)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .context("psql")?;
    let mut input = child.stdin.take().context("psql has an input")?;
    let script = script.to_owned();
    #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
    let writer = std::thread::spawn(move || {
        // psql may end before it has read everything.
        let _ = input.write_all(script.as_bytes());
    });
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
    Ok(output)
}

/// Everything that a process printed.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The SQLSTATE of an error.
pub fn sqlstate(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(|| format!("{error}"), |code| code.code().to_owned())
}

/// Whether any of a process' threads is there: others may outlive the first, and hold its files and ports. (One that nobody has
/// waited for yet has ended, too.)
pub fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    let tasks = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    !state.is_empty() && (!state.starts_with('Z') || tasks() > 1)
}

/// Sleeps between two looks at something that takes its time.
pub async fn pause(millis: u64) {
    #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
