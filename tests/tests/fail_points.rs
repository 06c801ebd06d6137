//! Nodes that die at every fail point there is (`storage::fail_point`), and at hundreds of random passages of any of them, while clients
//! write: what was acknowledged is there afterwards, no transaction by half, and all replicas are equal.
//!
//! They run in the build that breaks on demand (`cluster-scripts/test` makes it). `FLOTILLA_CRASHES` says how often nodes die at random.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::fail_point::FailPoint::{self, *};
use tests::pairs::{Writer, check, create};
use tests::{Cluster, is_running, pause, sabotaged_binary};

/// How often nodes die at random, unless it is said.
const CRASHES: u64 = 12;
/// A point that is not passed within this time is never passed.
const PASSED_WITHIN_MS: u64 = 30_000;

/// A cluster whose nodes can be told where to die, and what was acknowledged by it.
struct Doomed {
    cluster: Cluster,
    trap: PathBuf,
    writers: i64,
    acknowledged: Vec<i64>,
    died: BTreeMap<String, usize>,
}

impl Doomed {
    async fn start(nodes: usize) -> Result<Self> {
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

    fn write(&mut self) -> Writer {
        self.writers += 1;
        let urls = (1..=self.cluster.nodes).map(|n| self.cluster.url(n)).collect();
        Writer::start(urls, self.writers * 1_000_000)
    }

    /// Node `n` is to die at its `number`th passage from now on; what tells of it.
    fn doom(&self, n: usize, point: &str, number: u64) -> Result<PathBuf> {
        let path = |ending: &str| -> Result<PathBuf> {
            let mut name = self.trap.clone().into_os_string();
            name.push(format!(".{}{ending}", self.cluster.pid(n)?));
            Ok(name.into())
        };
        std::fs::write(path("")?, format!("{point} {number}"))?;
        path(".died")
    }

    /// Waits until node `n` has died there, and starts it again.
    async fn outlive(&mut self, n: usize, died: &std::path::Path) -> Result<()> {
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
        self.cluster.script(&["start", &n.to_string()])?;
        Ok(())
    }

    /// Has node `n` die at a point while clients write and `provoke` is done, and checks what is left.
    async fn die(&mut self, n: usize, point: FailPoint, provoke: &[&str]) -> Result<()> {
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

    async fn all_is_well(&self, n: usize) -> Result<()> {
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

    /// The shards of the table `rights`: group, first key, and the nodes of its voters.
    async fn shards(&self, asked: usize) -> Result<Vec<(u64, String, Vec<u64>)>> {
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
            let nodes = replicas.iter().filter_map(|replica| replica["node"].as_u64()).collect();
            Some((shard["group"].as_u64()?, shard["start"].as_str()?.to_owned(), nodes))
        };
        let shards = shards.as_array().context("a list of shards")?.iter();
        // Each bucket of the hash begins with its number.
        Ok(shards.filter_map(shard).filter(|(_, start, _)| start.len() > 4).collect())
    }

    /// A shard, and a key in the midst of its rows.
    async fn to_cut(&self, asked: usize) -> Result<(String, String)> {
        let (group, start, _) = self.shards(asked).await?.into_iter().nth(1).context("a shard of rights")?;
        Ok((format!("g{group}"), format!("{start}8000000000100000")))
    }

    async fn split(&self, asked: usize) -> Result<String> {
        let (shard, key) = self.to_cut(asked).await?;
        // It may be so already.
        let _ = self.cluster.admin(asked, &["split", &shard, "--at", &key]);
        Ok(shard)
    }

    async fn merge(&self, asked: usize, shard: &str) -> Result<()> {
        let before = self.shards(asked).await?.len();
        for _ in 0..3 {
            let merged = self.cluster.admin(asked, &["merge", shard, "--timeout", "30"]);
            if merged.is_ok() || self.shards(asked).await?.len() < before {
                return Ok(());
            }
        }
        bail!("{shard} does not absorb its neighbour\n{}", self.cluster.logs())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_dies_at_every_fail_point_and_nothing_is_lost() -> Result<()> {
    let mut doomed = Doomed::start(4).await?;
    // By clients' writes alone, and by the checkpointer: on nodes that have the shards that are written. One of the four may have none,
    // as a table's shards are pieces of its database's.
    for (round, point) in [LogUnwritten, LogWritten, ApplyWritten, CheckpointFlushed].into_iter().enumerate()
    {
        let (shard, _) = doomed.to_cut(1).await?;
        let n = doomed.holder(&shard, round).await?;
        doomed.die(n, point, &[]).await?;
    }
    // By a split: on one of the nodes that have the shard.
    for (round, point) in
        [SplitApplied, GroupFlushed, GroupBallot, LogPurged, GroupLogged, VoteSaved].into_iter().enumerate()
    {
        let (shard, key) = doomed.to_cut(1).await?;
        let n = doomed.holder(&shard, round).await?;
        doomed.die(n, point, &["split", &shard, "--at", &key]).await?;
        doomed.split(n).await?;
        doomed.merge(n, &shard).await?;
    }
    // By a merge.
    for (round, point) in [FreezeApplied, AbsorbApplied, AbsorbedFlushed].into_iter().enumerate() {
        let shard = doomed.split(1).await?;
        doomed.cluster.admin(1, &["status", "--wait", "60"])?;
        let n = doomed.holder(&shard, round).await?;
        doomed.die(n, point, &["merge", &shard, "--timeout", "20"]).await?;
        // It may have been called off.
        if doomed.is_cut(&shard).await? {
            doomed.merge(n, &shard).await?;
        }
    }
    // By a move: on the node that a replica goes to, or on the one that it leaves.
    let comes = [
        ReplicaBallot,
        SnapshotSpooled,
        SnapshotRenamed,
        ImportBuilt,
        ImportMarked,
        ImportCleared,
        ImportIngested,
        ImportFilled,
        ImportFinished,
        MembersWritten,
    ];
    let goes = [RemovalBallot, RemovalWiped, RemovalDone];
    for point in comes.into_iter().chain(goes) {
        let (shard, from, to) = doomed.to_move().await?;
        let n = if goes.contains(&point) { from } else { to };
        let (from, to) = (doomed.cluster.name(from)?, doomed.cluster.name(to)?);
        doomed.die(n, point, &["move", &shard, "--from", &from, "--to", &to, "--timeout", "5"]).await?;
        // A move to a node that is down is given up.
        doomed.until_moved(&shard, &from, &to).await?;
    }
    let never: Vec<&str> = FailPoint::ALL
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !doomed.died.contains_key(*name))
        .collect();
    ensure!(never.is_empty(), "nobody has died at {never:?}, but at {:?}", doomed.died);
    for n in 1..=4 {
        check(&doomed.cluster, n, &doomed.acknowledged).await?;
    }
    Ok(())
}

impl Doomed {
    /// The numbers of nodes by their ids.
    fn number(&self, id: u64) -> Result<usize> {
        for n in 1..=self.cluster.nodes {
            if self.cluster.name(n)? == format!("n{id}") {
                return Ok(n);
            }
        }
        bail!("there is no n{id}")
    }

    /// One of the nodes that have a shard.
    async fn holder(&self, shard: &str, round: usize) -> Result<usize> {
        let shards = self.shards(1).await?;
        let (_, _, nodes) =
            shards.iter().find(|(group, ..)| shard == format!("g{group}")).context("a shard")?;
        self.number(nodes[round % nodes.len()])
    }

    /// Whether the shard ends where [`Doomed::split`] cuts.
    async fn is_cut(&self, shard: &str) -> Result<bool> {
        let shards = self.shards(1).await?;
        let at = shards.iter().position(|(group, ..)| shard == format!("g{group}")).context("a shard")?;
        Ok(shards.get(at + 1).is_some_and(|(_, start, _)| start.ends_with("8000000000100000")))
    }

    /// A shard, a node that has a replica of it, and one that has none.
    async fn to_move(&self) -> Result<(String, usize, usize)> {
        let (group, _, nodes) =
            self.shards(1).await?.into_iter().nth(2).context("a third shard of rights")?;
        let numbers: Vec<usize> = nodes.iter().map(|id| self.number(*id)).collect::<Result<_>>()?;
        let to = (1..=self.cluster.nodes).find(|n| !numbers.contains(n)).context("a node without it")?;
        Ok((format!("g{group}"), numbers[0], to))
    }

    async fn until_moved(&self, shard: &str, from: &str, to: &str) -> Result<()> {
        let mut last = Vec::new();
        for _ in 0..30 {
            if let Ok(shards) = self.shards(1).await {
                let found = shards.into_iter().find(|(group, ..)| shard == format!("g{group}"));
                last = found.map(|(_, _, nodes)| nodes).unwrap_or_default();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_die_at_random_passages_and_nothing_is_lost() -> Result<()> {
    let crashes = std::env::var("FLOTILLA_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(CRASHES);
    let seed = std::env::var("FLOTILLA_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut random = StdRng::seed_from_u64(seed);
    let mut doomed = Doomed::start(3).await?;
    let mut writer = doomed.write();
    for crash in 1..=crashes {
        let n = random.random_range(1..=3);
        // Few passages are soon; many are somewhere in the load.
        let number = 1 << random.random_range(0..8);
        let died = doomed.doom(n, "any", random.random_range(number..2 * number))?;
        if random.random_bool(0.2) {
            let asked = n % 3 + 1;
            let shard = doomed
                .split(asked)
                .await
                .with_context(|| format!("crash {crash} of node {n}\n{}", doomed.cluster.logs()))?;
            let _ = doomed.merge(asked, &shard).await;
        }
        doomed.outlive(n, &died).await.with_context(|| format!("crash {crash}"))?;
        if crash % 10 == 0 || crash == crashes {
            let acknowledged = writer.finish().await?;
            ensure!(!acknowledged.is_empty(), "nothing was written\n{}", doomed.cluster.logs());
            doomed.acknowledged.extend(acknowledged);
            for n in 1..=3 {
                doomed.all_is_well(n).await.with_context(|| format!("after crash {crash}"))?;
            }
            eprintln!("{crash} crashes, {} transactions: {:?}", doomed.acknowledged.len(), doomed.died);
            writer = doomed.write();
        }
    }
    writer.finish().await?;
    Ok(())
}
