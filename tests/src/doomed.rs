//! A cluster whose nodes die where they are told to (`storage::fail_point`), while clients write.
//!
//! After each death the node is started again, and what was acknowledged has to be there, no transaction by half, and all replicas equal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use storage::fail_point::FailPoint::{self, *};

use crate::pairs::{Writer, check, create};
use crate::{Cluster, is_running, pause, sabotaged_binary};

/// A point that is not passed within this time is never passed.
const PASSED_WITHIN_MS: u64 = 30_000;

/// The steps of a move, at which `membership_steps.rs` has each party die; `fail_points.rs` has nodes die at all other points.
pub const STEPS: [FailPoint; 9] = [
    LearnerWritten,
    JointWritten,
    UniformWritten,
    SnapshotSending,
    ReplicaAllotted,
    ReplicaMade,
    LearnerAdded,
    LeaderMoved,
    VotersChanged,
];

/// A cluster whose nodes can be told where to die, and what was acknowledged by it.
pub struct Doomed {
    /// Its processes.
    pub cluster: Cluster,
    trap: PathBuf,
    writers: i64,
    /// The ids of the transactions that were acknowledged.
    pub acknowledged: Vec<i64>,
    /// How often nodes have died, by the point's name.
    pub died: BTreeMap<String, usize>,
}

/// A shard of the table `rights`.
pub struct Shard {
    /// As operators call it.
    pub name: String,
    /// Its first key, in hexadecimal digits.
    start: String,
    /// The node that leads it.
    pub leader: u64,
    /// The nodes that have a replica.
    pub nodes: Vec<u64>,
}

impl Doomed {
    /// A cluster of so many nodes, in which placement moves nothing by itself.
    pub async fn start(nodes: usize) -> Result<Self> {
        let mut cluster = Cluster::prepare(nodes)?;
        let trap = cluster.node_dir(1).with_file_name("trap");
        cluster.set_environment("FLOTILLA_BIN", sabotaged_binary()?);
        cluster.set_environment("FLOTILLA_FAIL_POINT", &trap);
        cluster.script(&["up", "--nodes", &nodes.to_string()])?;
        // What is where is for the test to say.
        cluster.admin(1, &["settings", "set", "rebalance", "off"])?;
        cluster.admin(1, &["settings", "set", "shard_merge", "off"])?;
        create(&cluster).await?;
        cluster.admin(1, &["status", "--wait", "30"])?;
        Ok(Self { cluster, trap, writers: 0, acknowledged: Vec::new(), died: BTreeMap::new() })
    }

    /// Clients write from now on.
    pub fn write(&mut self) -> Writer {
        self.writers += 1;
        let urls = (1..=self.cluster.nodes).map(|n| self.cluster.url(n)).collect();
        Writer::start(urls, self.writers * 1_000_000)
    }

    /// Node `n` is to die at its `number`th passage from now on; what tells of it.
    pub fn doom(&self, n: usize, point: &str, number: u64) -> Result<PathBuf> {
        let path = |ending: &str| -> Result<PathBuf> {
            let mut name = self.trap.clone().into_os_string();
            name.push(format!(".{}{ending}", self.cluster.pid(n)?));
            Ok(name.into())
        };
        std::fs::write(path("")?, format!("{point} {number}"))?;
        path(".died")
    }

    /// Waits until node `n` has died there, and starts it again.
    pub async fn outlive(&mut self, n: usize, died: &Path) -> Result<()> {
        let mut waited = 0;
        while !died.exists() {
            ensure!(waited < PASSED_WITHIN_MS, "node {n} has not come to the point\n{}", self.cluster.logs());
            pause(20).await;
            waited += 20;
        }
        let pid = self.cluster.pid(n)?;
        while is_running(pid) {
            pause(5).await;
        }
        *self.died.entry(std::fs::read_to_string(died)?).or_default() += 1;
        // The next process may be given this one's number, and is not to be told the same.
        for file in [died, &died.with_extension("")] {
            std::fs::remove_file(file).with_context(|| file.display().to_string())?;
        }
        self.cluster.script(&["start", &n.to_string()])?;
        Ok(())
    }

    /// Has node `n` die at a point while clients write and `provoke` is done, and checks what is left.
    pub async fn die(&mut self, n: usize, point: FailPoint, provoke: &[&str]) -> Result<()> {
        let writer = self.write();
        let died = self.doom(n, point.name(), 1)?;
        if !provoke.is_empty() {
            let asked = n % self.cluster.nodes + 1;
            // Who waits for it may be told that it failed.
            let _ = self.cluster.admin(asked, provoke);
        }
        let outlived = self.outlive(n, &died).await;
        let acknowledged = writer.finish().await?;
        ensure!(!acknowledged.is_empty(), "nothing was written while node {n} died\n{}", self.cluster.logs());
        self.acknowledged.extend(acknowledged);
        outlived.with_context(|| format!("{} on node {n}", point.name()))?;
        self.all_is_well(n).await.with_context(|| format!("after {} on node {n}", point.name()))
    }

    /// What has to be so whatever has happened, as node `n` sees it.
    pub async fn all_is_well(&self, n: usize) -> Result<()> {
        self.cluster.admin(n, &["status", "--wait", "60"])?;
        check(&self.cluster, n, &self.acknowledged).await.with_context(|| self.cluster.logs())?;
        self.replicas_are_equal(n).await?;
        for n in 1..=self.cluster.nodes {
            let log = std::fs::read_to_string(self.cluster.node_dir(n).join("log"))?;
            ensure!(!log.contains("HAS FAILED"), "a replica has failed on node {n}\n{}", self.cluster.logs());
        }
        Ok(())
    }

    /// All of them, but those that are still being built when it is first asked.
    async fn replicas_are_equal(&self, n: usize) -> Result<()> {
        for _ in 0..60 {
            match self.cluster.admin(n, &["check"]) {
                Ok(_) => return Ok(()),
                Err(error) if format!("{error:#}").contains(": 0 differ") => pause(500).await,
                Err(error) => return Err(error).with_context(|| self.cluster.logs()),
            }
        }
        bail!("there are replicas that can't be looked at\n{}", self.cluster.logs())
    }

    /// The shards of the table `rights`.
    pub async fn shards(&self, asked: usize) -> Result<Vec<Shard>> {
        let mut shards = self.cluster.admin_json(asked, &["shards", "rights"]);
        // Whoever is asked asks others for the table's name, of whom one is dead.
        for _ in 0..50 {
            if shards.is_ok() {
                break;
            }
            pause(100).await;
            shards = self.cluster.admin_json(asked, &["shards", "rights"]);
        }
        let shards = shards.with_context(|| self.cluster.logs())?;
        let shard = |shard: &serde_json::Value| {
            let replicas = shard["replicas"].as_array()?;
            Some(Shard {
                name: format!("g{}", shard["group"].as_u64()?),
                start: shard["start"].as_str()?.to_owned(),
                leader: shard["leader"].as_u64().unwrap_or(0),
                nodes: replicas.iter().filter_map(|replica| replica["node"].as_u64()).collect(),
            })
        };
        let shards = shards.as_array().context("a list of shards")?.iter();
        // Each bucket of the hash begins with its number.
        Ok(shards.filter_map(shard).filter(|shard| shard.start.len() > 4).collect())
    }

    /// The third of them, which no split and no merge concerns.
    pub async fn third(&self) -> Result<Shard> {
        self.shards(1).await?.into_iter().nth(2).context("a third shard of rights")
    }

    /// A shard, and a key in the midst of its rows.
    pub async fn to_cut(&self, asked: usize) -> Result<(String, String)> {
        let Shard { name, start, .. } =
            self.shards(asked).await?.into_iter().nth(1).context("a shard of rights")?;
        Ok((name, format!("{start}8000000000100000")))
    }

    /// Cuts a shard of the table in two, if it isn't; its name.
    pub async fn split(&self, asked: usize) -> Result<String> {
        let (shard, key) = self.to_cut(asked).await?;
        // It may be so already.
        let _ = self.cluster.admin(asked, &["split", &shard, "--at", &key]);
        Ok(shard)
    }

    /// Has a shard absorb its neighbour.
    pub async fn merge(&self, asked: usize, shard: &str) -> Result<()> {
        let before = self.shards(asked).await?.len();
        for _ in 0..3 {
            let merged = self.cluster.admin(asked, &["merge", shard, "--timeout", "30"]);
            if merged.is_ok() || self.shards(asked).await?.len() < before {
                return Ok(());
            }
        }
        bail!("{shard} does not absorb its neighbour\n{}", self.cluster.logs())
    }

    /// One of the nodes that have a shard.
    pub async fn holder(&self, shard: &str, round: usize) -> Result<usize> {
        let shards = self.shards(1).await?;
        let nodes = &shards.iter().find(|found| found.name == shard).context("a shard")?.nodes;
        self.cluster.number(nodes[round % nodes.len()])
    }

    /// Whether the shard ends where [`Doomed::split`] cuts.
    pub async fn is_cut(&self, shard: &str) -> Result<bool> {
        let shards = self.shards(1).await?;
        let at = shards.iter().position(|found| found.name == shard).context("a shard")?;
        Ok(shards.get(at + 1).is_some_and(|next| next.start.ends_with("8000000000100000")))
    }

    /// A shard, a node that has a replica of it, and one that has none.
    pub async fn to_move(&self) -> Result<(String, usize, usize)> {
        let Shard { name, nodes, .. } = self.third().await?;
        let numbers: Vec<usize> = nodes.iter().map(|id| self.cluster.number(*id)).collect::<Result<_>>()?;
        let to = (1..=self.cluster.nodes).find(|n| !numbers.contains(n)).context("a node without it")?;
        Ok((name, numbers[0], to))
    }

    /// Waits until a replica of the shard has moved; says again that it is to, as operators do.
    pub async fn until_moved(&self, shard: &str, from: &str, to: &str) -> Result<()> {
        let mut last = Vec::new();
        for _ in 0..30 {
            if let Ok(shards) = self.shards(1).await {
                let found = shards.into_iter().find(|found| found.name == shard);
                last = found.map(|found| found.nodes).unwrap_or_default();
                if last.len() == 3 && last.iter().any(|id| format!("n{id}") == to) {
                    return Ok(());
                }
            }
            let _ = self.cluster.admin(1, &["move", shard, "--from", from, "--to", to, "--timeout", "10"]);
            pause(200).await;
        }
        bail!("{shard} does not come to {to}: it is on {last:?}\n{}", self.cluster.logs())
    }
}
