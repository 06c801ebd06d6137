//! A round, from the first call to the last look.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::bulk::{Bulk, Written};
use super::load::{Finished, Load, Plan, served};
use super::watch::{caught_up, received};
use super::{Arrived, Options, Phase, Round, SNAPSHOT_RATE, Sent};
use crate::cluster::Cluster;
use crate::history::Clock;
use crate::observe::process;
use crate::run::sleep;

/// The node that goes away. Not the first one: operators' questions are asked there first.
const VICTIM: usize = 3;
/// Connections are made, and plans, before it counts.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long the replicas of new tables may take to be where they belong.
const COMPLETE_LIMIT: Duration = Duration::from_secs(120);
/// The node is killed again when so much of what was written has come: one part of this many.
const MIDWAY: u64 = 4;
/// Replicas that can't be looked at are looked at again for so long.
const CHECK_PATIENCE: Duration = Duration::from_secs(60);
const CHECK_PAUSE: Duration = Duration::from_secs(2);
/// How `admin check` ends if something could not be looked at.
const CHECK_INCOMPLETE: i32 = 7;

/// Where rounds take place.
pub(super) struct Stage<'a> {
    pub options: &'a Options,
    pub cluster: &'a Cluster,
    pub tell: &'a dyn Fn(&str),
}

impl Stage<'_> {
    pub async fn round(&self, n: usize, interrupted: bool) -> Result<Round> {
        let Self { options, cluster, tell } = *self;
        let survivors: Vec<usize> = cluster.all().into_iter().filter(|node| *node != VICTIM).collect();
        let urls: Vec<String> = survivors.iter().map(|node| cluster.url(*node)).collect();
        let snapshot_rate = cluster.operate(&["settings", "get", SNAPSHOT_RATE]).await?;
        let bulk = Bulk::new(options, &urls, &format!("catchup_rows_{n}"));
        bulk.create().await?;
        let plan = Plan::new(options, &urls, &format!("catchup_load_{n}"));
        plan.create().await?;
        let id = cluster.id(VICTIM).await?;
        self.complete(id).await?;

        let load = Load::start(plan);
        sleep(WARM_UP).await;
        let begun = load.elapsed();
        tell("a constant load, while all nodes are there");
        sleep(options.before).await;

        let killed = load.elapsed();
        cluster.each("kill", &[VICTIM]).await?;
        tell(&format!("node {VICTIM} is away"));
        let written = bulk.write(tell).await?;

        let sent_before = Sent::by(cluster, &survivors).await?;
        let returned = load.elapsed();
        let before = match interrupted {
            true => self.interrupt(id, written.bytes() / MIDWAY).await?,
            false => Arrived::default(),
        };
        let deadline = returned + options.limit;
        let watching = caught_up(cluster, (VICTIM, id), load.clock(), deadline, tell);
        let ((), caught_up) = futures::try_join!(self.start(), watching)?;
        let ended = caught_up.unwrap_or_else(|| load.elapsed());
        if caught_up.is_some() {
            tell("it has caught up");
            sleep(options.after).await;
        }
        let stopped = load.elapsed();
        let last = Arrived::at(cluster, VICTIM).await;
        // One that has not caught up may not answer either.
        let last = if caught_up.is_some() { last? } else { last.unwrap_or_default() };
        let sent = Sent::by(cluster, &survivors).await?.since(sent_before);
        let clients = load.finish().await?;

        let asked = if caught_up.is_some() { VICTIM } else { survivors[0] };
        let mut failures = self.lost(&bulk, &written, &clients, asked).await?;
        if interrupted && (sent.resumes == 0.0 || sent.spared_bytes == 0.0) {
            failures.push("no snapshot went on where it was when the node was killed".to_owned());
        }
        match caught_up {
            Some(_) => failures.extend(self.check().await?),
            None => {
                failures.push(format!("the node has not caught up within {} s", options.limit.as_secs()));
            }
        }
        let phases = [
            (Phase::Before, begun, killed),
            (Phase::Away, killed, returned),
            (Phase::Back, returned, ended),
            (Phase::After, ended, stopped),
        ];
        // Without an end of the one before there is no last one.
        let phases = &phases[..if caught_up.is_some() { 4 } else { 3 }];
        let served = phases.iter().flat_map(|(phase, from, to)| {
            [false, true].map(|writes| (*phase, served(clients.calls(), writes, *from, *to)))
        });
        let errors = phases.iter().flat_map(|(phase, from, to)| {
            clients.errors(*from, *to).into_iter().map(move |(why, count)| (*phase, why, count))
        });
        Ok(Round {
            interrupted,
            written_bytes: written.bytes(),
            refused: written.refused,
            away: returned - killed,
            snapshot_rate: snapshot_rate["value"].as_str().context("the value of a setting")?.to_owned(),
            arrived: before.and(last),
            sent,
            caught_up: caught_up.map(|at| at - returned),
            served: served.collect(),
            errors: errors.collect(),
            failures,
        })
    }

    /// Waits until the node (its id) has all its replicas. After a round, placement still brings leaders back to it: that is waited
    /// for, but not for ever.
    async fn complete(&self, id: u64) -> Result<()> {
        if let Err(error) = self.cluster.settled().await {
            (self.tell)(&format!("going on all the same: {error:#}"));
        }
        let whole = caught_up(self.cluster, (VICTIM, id), Clock::start(), COMPLETE_LIMIT, self.tell);
        whole.await?.with_context(|| format!("node {VICTIM} does not get all its replicas"))?;
        Ok(())
    }

    /// Starts the node.
    async fn start(&self) -> Result<()> {
        let Err(error) = self.cluster.each("start", &[VICTIM]).await else { return Ok(()) };
        // It may need longer to be ready than the script waits: as long as it lives, it may yet catch up.
        let pid = process(self.cluster, VICTIM).await?;
        ensure!(Path::new("/proc").join(pid).exists(), "{error:#}");
        (self.tell)(&format!("{error:#}"));
        Ok(())
    }

    /// Starts the node (its id), and kills it again when so many bytes of snapshots have come to it. What had come is as of just
    /// before: what came until it died isn't counted.
    async fn interrupt(&self, id: u64, bytes: u64) -> Result<Arrived> {
        let undisturbed = async {
            self.start().await?;
            caught_up(self.cluster, (VICTIM, id), Clock::start(), self.options.limit, self.tell).await
        };
        tokio::select! {
            () = received(self.cluster, VICTIM, bytes) => {}
            ended = undisturbed => {
                ended?;
                bail!("too little came as snapshots for the node to be killed in the midst of it: more has to be written");
            }
        }
        let arrived = Arrived::at(self.cluster, VICTIM).await?;
        self.cluster.each("kill", &[VICTIM]).await?;
        (self.tell)(&format!("node {VICTIM} was killed again, and starts again"));
        Ok(arrived)
    }

    /// What a node doesn't find of all that was acknowledged.
    async fn lost(
        &self,
        bulk: &Bulk<'_>,
        written: &Written,
        clients: &Finished,
        node: usize,
    ) -> Result<Vec<String>> {
        (self.tell)("looking for every acknowledged row");
        let url = self.cluster.url(node);
        let mut found = Vec::new();
        let lost = bulk.lost(&url, written, self.tell).await?;
        if lost > 0 {
            found.push(format!("{lost} acknowledged rows of the bulk are missing or altered"));
        }
        found.extend(clients.lost(&url).await?);
        Ok(found)
    }

    /// What `flotilla admin check` has to say against the cluster.
    async fn check(&self) -> Result<Option<String>> {
        (self.tell)("comparing all replicas, and looking at all tables");
        let clock = Clock::start();
        loop {
            let check = self.cluster.check(self.options.limit).await?;
            match check.status {
                Some(0) => return Ok(None),
                Some(CHECK_INCOMPLETE) if clock.elapsed() < CHECK_PATIENCE => sleep(CHECK_PAUSE).await,
                _ => return Ok(Some(format!("admin check: {}", check.complaint))),
            }
        }
    }
}
