//! A cluster of real processes on this machine, by way of `cluster-scripts/cluster`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;
use tokio::process::Command;

use crate::run::sleep;

/// How often a cluster that doesn't settle is asked.
const SETTLE_TRIES: usize = 150;
const SETTLE_PAUSE: Duration = Duration::from_millis(200);
/// How long one node may take to answer an operator: a paused one never does.
const ADMIN_TIMEOUT: Duration = Duration::from_millis(700);
/// … if it has to do something for it.
const OPERATE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the comparison of all replicas may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(180);

/// A cluster and where it lives. Nodes are numbered from 1.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The script.
    pub script: PathBuf,
    /// The nodes' binary, if it isn't the one that the script takes by itself.
    pub binary: Option<PathBuf>,
    /// A library to load into the nodes: [`fault::disk`](crate::fault::disk).
    pub preload: Option<PathBuf>,
    /// Variables for the nodes' environment.
    pub environment: Vec<(String, String)>,
    /// Data and logs of the nodes.
    pub dir: PathBuf,
    /// The first of its ports.
    pub base_port: u16,
    /// How many nodes.
    pub nodes: usize,
    /// Whether nodes reach each other through [`links`](crate::links).
    pub proxies: bool,
}

impl Cluster {
    /// The script of this checkout.
    pub fn default_script() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-scripts/cluster")
    }

    /// Starts all nodes, the first time or again.
    pub async fn up(&self) -> Result<()> {
        let nodes = self.nodes.to_string();
        let mut arguments = vec!["up", "--nodes", &nodes];
        arguments.extend(self.proxies.then_some("--rpc-proxies"));
        self.script(&arguments).await
    }

    /// Stops all nodes and deletes their data.
    pub async fn wipe(&self) -> Result<()> {
        self.script(&["wipe"]).await
    }

    /// `kill`, `start`, `stop`, `pause` or `resume` of some nodes, at the same time.
    pub async fn each(&self, command: &str, nodes: &[usize]) -> Result<()> {
        let numbers: Vec<String> = nodes.iter().map(usize::to_string).collect();
        let calls = numbers.iter().map(async |node| self.script(&[command, node]).await);
        futures::future::try_join_all(calls).await.map(|_| ())
    }

    /// All nodes' numbers.
    pub fn all(&self) -> Vec<usize> {
        (1..=self.nodes).collect()
    }

    /// Where clients connect.
    pub fn urls(&self) -> Vec<String> {
        let url = |node| {
            format!(
                "postgresql://root@127.0.0.1:{}/postgres?sslmode=disable",
                usize::from(self.base_port) + node
            )
        };
        self.all().into_iter().map(url).collect()
    }

    /// Where a node listens for others.
    pub fn rpc_port(&self, node: usize) -> u16 {
        self.base_port.saturating_add(20 + node as u16)
    }

    /// Where the others think that it listens, if there are proxies.
    pub fn proxy_port(&self, node: usize) -> u16 {
        self.base_port.saturating_add(60 + node as u16)
    }

    /// What belongs to a node.
    pub fn node_dir(&self, node: usize) -> PathBuf {
        self.dir.join(format!("node-{node}"))
    }

    /// Where the script keeps a node's process id.
    pub fn pid_file(&self, node: usize) -> PathBuf {
        self.node_dir(node).join("pid")
    }

    /// A node's log.
    pub fn log(&self, node: usize) -> PathBuf {
        self.node_dir(node).join("log")
    }

    /// Waits until every shard has as many replicas as it should: before, a fault of one node may hit the only one.
    pub async fn settled(&self) -> Result<()> {
        let mut last = String::new();
        for _ in 0..SETTLE_TRIES {
            match self.admin("status").await {
                Ok(status) if status["settled"] == Json::Bool(true) => return Ok(()),
                Ok(status) => last = status.to_string(),
                Err(error) => last = format!("{error:#}"),
            }
            sleep(SETTLE_PAUSE).await;
        }
        bail!("the cluster does not settle: {last}")
    }

    /// The node that leads a group, as whoever answers first sees it.
    pub async fn leader(&self, group: u64) -> Result<usize> {
        let shards = self.admin("shards").await?;
        let shard = shards.as_array().into_iter().flatten().find(|shard| shard["group"] == group);
        let leader = shard.map(|shard| &shard["leader"]).context("no such group")?;
        let nodes = self.admin("nodes").await?;
        self.number(&nodes, leader)
    }

    /// The number of the node that has this id.
    fn number(&self, nodes: &Json, id: &Json) -> Result<usize> {
        let node = nodes.as_array().into_iter().flatten().find(|node| node["id"] == *id);
        // Nodes' ids come from the order in which they joined, ours from their ports.
        let address = node.and_then(|node| node["sql"].as_str()).context("it has no leader")?;
        let port: usize = address.rsplit(':').next().unwrap_or_default().parse().context("a port")?;
        let number = port.checked_sub(self.base_port.into()).context("a port of this cluster")?;
        anyhow::ensure!(self.all().contains(&number), "{address} is no node of this cluster");
        Ok(number)
    }

    /// The ids of all nodes that live, lowest first.
    pub async fn ids(&self) -> Result<Vec<u64>> {
        let nodes = self.admin("nodes").await?;
        let live = nodes.as_array().into_iter().flatten().filter(|node| node["alive"] == Json::Bool(true));
        Ok(live.filter_map(|node| node["id"].as_u64()).collect())
    }

    /// The id of the node with this number: ids come from the order in which nodes joined.
    pub async fn id(&self, number: usize) -> Result<u64> {
        let nodes = self.admin("nodes").await?;
        let address = format!(":{}", usize::from(self.base_port) + number);
        let is = |node: &&Json| node["sql"].as_str().is_some_and(|sql| sql.ends_with(&address));
        let node = nodes.as_array().into_iter().flatten().find(is);
        node.and_then(|node| node["id"].as_u64()).with_context(|| format!("node {number} is not known"))
    }

    /// What `flotilla admin check` says of the replicas.
    pub async fn check(&self) -> Result<Json> {
        let mut last = String::new();
        for node in self.all() {
            let mut check = Command::new(self.binary()?);
            check.args(["admin", "check", "--json", "--host", &format!("127.0.0.1:{}", self.rpc_port(node))]);
            check.stdin(Stdio::null()).kill_on_drop(true);
            match tokio::time::timeout(CHECK_TIMEOUT, check.output()).await {
                // Whether or not they are equal, it prints what it has seen.
                Ok(Ok(output)) if !output.stdout.is_empty() => {
                    return serde_json::from_slice(&output.stdout).context("reading what admin check says");
                }
                Ok(Ok(output)) => last = String::from_utf8_lossy(&output.stderr).into_owned(),
                Ok(Err(error)) => return Err(error).context("running admin check"),
                Err(_) => last = "no answer".to_owned(),
            }
        }
        bail!("admin check: {last}")
    }

    fn binary(&self) -> Result<PathBuf> {
        match &self.binary {
            Some(path) => Ok(path.clone()),
            None => Ok(std::env::var_os("FLOTILLA_BIN").context("FLOTILLA_BIN is not set")?.into()),
        }
    }

    /// What `flotilla admin COMMAND --json` says at the first node that answers.
    async fn admin(&self, command: &str) -> Result<Json> {
        self.ask(&[command], ADMIN_TIMEOUT).await
    }

    /// The same of a command that does something.
    pub async fn operate(&self, command: &[&str]) -> Result<Json> {
        self.ask(command, OPERATE_TIMEOUT).await
    }

    async fn ask(&self, command: &[&str], timeout: Duration) -> Result<Json> {
        let binary = self.binary()?;
        let mut last = String::new();
        for node in self.all() {
            let mut admin = Command::new(&binary);
            admin.args(["admin", "--json", "--host", &format!("127.0.0.1:{}", self.rpc_port(node))]);
            admin.args(command);
            admin.stdin(Stdio::null()).kill_on_drop(true);
            match tokio::time::timeout(timeout, admin.output()).await {
                Ok(Ok(output)) if output.status.success() => {
                    return serde_json::from_slice(&output.stdout).context("reading what admin says");
                }
                Ok(Ok(output)) => last = String::from_utf8_lossy(&output.stderr).into_owned(),
                Ok(Err(error)) => return Err(error).with_context(|| format!("running {}", binary.display())),
                Err(_) => last = "no answer".to_owned(),
            }
        }
        bail!("admin {}: {last}", command.join(" "))
    }

    async fn script(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.script);
        command
            .args(arguments)
            .arg("--dir")
            .arg(&self.dir)
            .arg("--base-port")
            .arg(self.base_port.to_string());
        if let Some(binary) = &self.binary {
            command.env("FLOTILLA_BIN", binary);
        }
        if let Some(library) = &self.preload {
            command.env("LD_PRELOAD", library);
        }
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = command.output().await.with_context(|| format!("running {}", self.script.display()))?;
        if !output.status.success() {
            bail!("cluster {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}
