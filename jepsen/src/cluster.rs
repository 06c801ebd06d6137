//! A cluster of real processes on this machine, by way of `cluster-scripts/cluster`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;
use tokio::process::Command;

use crate::fault::Harm;
use crate::run::sleep;

/// How often a cluster that doesn't settle is asked.
const SETTLE_TRIES: usize = 150;
const SETTLE_PAUSE: Duration = Duration::from_millis(200);
/// How long one node may take to answer an operator: a paused one never does.
const ADMIN_TIMEOUT: Duration = Duration::from_millis(700);
/// … if it has to do something for it.
const OPERATE_TIMEOUT: Duration = Duration::from_secs(4);

/// Nodes that may join while it runs, at most.
const SPARES_MAX: usize = 3;
/// The script has no ports for more.
const NUMBER_MAX: usize = 19;
/// How long everything may take to move off a node that goes.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(45);

/// Which nodes there are now; a node that took another one's place is in its place.
#[derive(Clone, Debug, Default)]
pub struct Present(Arc<Mutex<Vec<usize>>>);

impl Present {
    fn with<T>(&self, nodes: usize, look: impl FnOnce(&mut Vec<usize>) -> T) -> T {
        let mut present = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if present.is_empty() {
            present.extend(1..=nodes);
        }
        look(&mut present)
    }
}

/// What `flotilla admin check` came to.
#[derive(Clone, Debug)]
pub struct Check {
    /// All of it.
    pub said: Json,
    /// What is wrong, or could not be looked at, in a line.
    pub complaint: String,
    /// Its exit status: 0 if all is as it should be, 7 if something could not be looked at, 8 if something is wrong.
    pub status: Option<i32>,
}

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
    /// Cluster-wide settings, by name, that are made when it has started.
    pub settings: Vec<(String, String)>,
    /// Data and logs of the nodes.
    pub dir: PathBuf,
    /// The first of its ports.
    pub base_port: u16,
    /// How many nodes, to begin with.
    pub nodes: usize,
    /// Those that are there; all of them until one is replaced.
    pub present: Present,
    /// Whether nodes reach each other through [`links`](crate::links).
    pub proxies: bool,
}

impl Cluster {
    /// The script that came with this program, in a folder above it; or else that of the checkout which it was built from.
    pub fn default_script() -> PathBuf {
        const SCRIPT: &str = "cluster-scripts/cluster";
        let program = std::env::current_exe().unwrap_or_default();
        let above =
            program.ancestors().skip(1).map(|folder| folder.join(SCRIPT)).find(|script| script.is_file());
        above.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(SCRIPT))
    }

    /// Starts all nodes, the first time or again.
    pub async fn up(&self) -> Result<()> {
        self.present.with(self.nodes, Vec::clear);
        let nodes = self.nodes.to_string();
        let mut arguments = vec!["up", "--nodes", &nodes];
        arguments.extend(self.proxies.then_some("--rpc-proxies"));
        self.script(&arguments).await
    }

    /// Makes the settings.
    pub async fn configure(&self) -> Result<()> {
        for (name, value) in &self.settings {
            self.operate(&["settings", "set", name, value]).await?;
        }
        Ok(())
    }

    /// Stops all nodes and deletes their data.
    pub async fn wipe(&self) -> Result<()> {
        self.script(&["wipe"]).await
    }

    /// Stops all nodes, whether they run or not; their data stay.
    pub async fn down(&self) -> Result<()> {
        self.script(&["down"]).await
    }

    /// `kill`, `start`, `stop`, `pause` or `resume` of some nodes, at the same time.
    pub async fn each(&self, command: &str, nodes: &[usize]) -> Result<()> {
        let numbers: Vec<String> = nodes.iter().map(usize::to_string).collect();
        let calls = numbers.iter().map(async |node| self.script(&[command, node]).await);
        futures::future::try_join_all(calls).await.map(|_| ())
    }

    /// The numbers of all nodes that are there.
    pub fn all(&self) -> Vec<usize> {
        self.present.with(self.nodes, |present| present.clone())
    }

    /// All numbers that nodes may ever have.
    pub fn numbers(&self) -> impl Iterator<Item = usize> + use<> {
        1..=(self.nodes + SPARES_MAX).min(NUMBER_MAX)
    }

    /// Those that are in the places of these now.
    pub fn present(&self, drawn: &[usize]) -> Vec<usize> {
        self.present.with(self.nodes, |present| {
            drawn.iter().filter_map(|node| present.get(node.checked_sub(1)?).copied()).collect()
        })
    }

    /// Adds a node, and takes this one away when nothing is left on it. A cluster that can't be rid of it keeps both.
    pub async fn replace(&self, victim: usize) -> Result<Harm> {
        let highest = self.all().into_iter().max().unwrap_or(self.nodes);
        let taker = highest + 1;
        if !self.numbers().any(|number| number == taker) {
            return Ok(Harm::Refused(format!("{SPARES_MAX} nodes have joined already")));
        }
        if let Err(error) = self.script(&["add"]).await {
            // It may run all the same, and is to be ended with the others.
            let _ = self.script(&["up", "--nodes", &taker.to_string()]).await;
            self.present.with(self.nodes, |present| present.push(taker));
            return Err(error);
        }
        self.present.with(self.nodes, |present| present.push(taker));
        let number = victim.to_string();
        let removal = ["remove", &number[..]];
        match tokio::time::timeout(REMOVE_TIMEOUT, self.script(&removal)).await {
            Ok(Ok(())) => {
                self.present.with(self.nodes, |present| {
                    present.retain(|node| *node != taker);
                    present.iter_mut().filter(|node| **node == victim).for_each(|node| *node = taker);
                });
                return Ok(Harm::Done);
            }
            Ok(Err(error)) => return Ok(Harm::Refused(format!("{error:#}"))),
            Err(_) => {}
        }
        let name = format!("n{}", self.id(victim).await?);
        self.operate(&["recommission", &name, "--no-wait"]).await?;
        Ok(Harm::Refused(format!("node {victim} is not empty after {} s", REMOVE_TIMEOUT.as_secs())))
    }

    /// Where clients connect.
    pub fn urls(&self) -> Vec<String> {
        self.all().into_iter().map(|node| self.url(node)).collect()
    }

    /// Where clients of one node connect.
    pub fn url(&self, node: usize) -> String {
        let port = usize::from(self.base_port) + node;
        format!("postgresql://root@127.0.0.1:{port}/postgres?sslmode=disable")
    }

    /// Where a node listens for others.
    pub fn rpc_port(&self, node: usize) -> u16 {
        self.base_port.saturating_add(20 + node as u16)
    }

    /// Where a node answers HTTP.
    pub fn http_port(&self, node: usize) -> u16 {
        self.base_port.saturating_add(40 + node as u16)
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

    /// The group of one of the shards that hold rows of a table.
    pub async fn shard_of(&self, table: &str, dice: u64) -> Result<u64> {
        anyhow::ensure!(!table.is_empty(), "no table is known");
        let shards = self.ask(&["shards", table], ADMIN_TIMEOUT).await?;
        pick_shard(&shards, dice).with_context(|| format!("no shard holds {table}"))
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

    /// What `flotilla admin check` says, asked of one node after the other, each of which may take so long.
    pub async fn check(&self, limit: Duration) -> Result<Check> {
        let mut last = String::new();
        for node in self.all() {
            let mut check = Command::new(self.binary()?);
            check.args(["admin", "check", "--json", "--host", &format!("127.0.0.1:{}", self.rpc_port(node))]);
            check.stdin(Stdio::null()).kill_on_drop(true);
            match tokio::time::timeout(limit, check.output()).await {
                // Whether or not they are equal, it prints what it has seen.
                Ok(Ok(output)) if !output.stdout.is_empty() => {
                    let said =
                        serde_json::from_slice(&output.stdout).context("reading what admin check says")?;
                    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    return Ok(Check { said, complaint, status: output.status.code() });
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

/// One of the shards that `flotilla admin shards TABLE` lists. Those that begin within a table are its own; what begins before holds
/// rows of it only if it has none.
fn pick_shard(shards: &Json, dice: u64) -> Option<u64> {
    let all: Vec<&Json> = shards.as_array()?.iter().filter(|shard| shard["start"].is_string()).collect();
    let own: Vec<&Json> = all.iter().copied().filter(|shard| !shard["table"].is_null()).collect();
    let from = if own.is_empty() { all } else { own };
    from.get((dice % from.len().max(1) as u64) as usize)?["group"].as_u64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster() -> Cluster {
        Cluster {
            script: PathBuf::new(),
            binary: None,
            preload: None,
            environment: Vec::new(),
            settings: Vec::new(),
            dir: PathBuf::new(),
            base_port: 28_000,
            nodes: 3,
            present: Present::default(),
            proxies: false,
        }
    }

    #[test]
    fn dice_choose_among_a_tables_own_shards() {
        let shard = |group: u64, table: Json| json!({ "group": group, "start": "00", "table": table });
        let shards =
            json!([shard(3, Json::Null), shard(8, json!(7)), shard(9, json!(7)), shard(10, json!(7))]);
        let picked: Vec<u64> = (0..4).filter_map(|dice| pick_shard(&shards, dice)).collect();
        assert_eq!(picked, [8, 9, 10, 8]);
        assert_eq!(
            pick_shard(&json!([shard(3, Json::Null)]), 5),
            Some(3),
            "a table without shards of its own"
        );
        assert_eq!(pick_shard(&json!([]), 5), None);
    }

    #[test]
    fn a_node_that_took_anothers_place_is_hit_for_it() {
        let cluster = cluster();
        assert_eq!(cluster.present(&[1, 3]), [1, 3]);
        cluster.present.with(3, |present| present[1] = 4);
        assert_eq!(cluster.all(), [1, 4, 3]);
        assert_eq!(cluster.present(&[1, 2]), [1, 4]);
        assert!(cluster.clone().all().contains(&4), "clones see it, too");
        assert_eq!(cluster.numbers().max(), Some(6));
    }
}
