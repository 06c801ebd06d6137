//! How a simulation ends: everything has been made whole, and must come to rest.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use proto::meta::change_duty::Change;
use proto::meta::{ChangeDutyRequest, DescribeResponse, NodeDuty};
use proto::shard as wire;
use storage::ids::GroupId;

use super::node::SimNode;
use super::plan::{MS, SECOND};
use super::run::{PAUSE, Simulation};
use super::world::Place;
use super::{automatic, census, host, replicas};

/// How long it may take, when everything is whole again, until the last calls have succeeded.
const RECOVER_MAX_NS: u64 = 60 * SECOND;
/// At the end, after the last calls: for replicas to become equal.
const SETTLE_NS: u64 = 2 * SECOND;
/// How long it may take until what operators have begun has ended, every group has its members, and all that is left over is cleaned
/// away: of the replicas at rest, each is looked at every five minutes only.
const TIDY_MAX_NS: u64 = 400 * SECOND;
/// How often that is looked at.
const TIDY_EVERY_NS: u64 = 500 * MS;
/// How long a replica that must not answer is asked.
const QUESTION_MS: u32 = 1_000;

impl Simulation {
    /// Everything is whole: the last calls must succeed, at every node that was not stopped for good; and all must come to rest.
    pub(super) fn recover(&mut self) -> Result<()> {
        let last = Arc::new(Mutex::new(0));
        let there: Vec<Place> = (0..self.nodes.len()).filter(|place| self.nodes[*place].lives()).collect();
        let all_up = |nodes: &[SimNode]| there.iter().all(|place| nodes[*place].is_up());
        self.run_until(RECOVER_MAX_NS, all_up).context("not every node comes back")?;
        // The last calls are to see what all others did.
        let record = self.record.clone();
        self.run_until(RECOVER_MAX_NS, |_| record.is_quiet()).context("calls never end")?;
        for place in &there {
            let done = last.clone();
            self.in_node(*place, |client| async move {
                client.last().await;
                *done.lock() += 1;
            });
        }
        self.run_until(RECOVER_MAX_NS, |_| *last.lock() == there.len())
            .context("the cluster does not recover: the last calls never succeed")?;
        self.tidy()?;
        let limit = host::now_ns() + RECOVER_MAX_NS;
        loop {
            let settled = host::now_ns() + SETTLE_NS;
            self.advance_to(settled)?;
            match replicas::compare(&self.nodes)? {
                None => return Ok(()),
                Some(behind) if host::now_ns() > limit => bail!("{behind}"),
                Some(_) => {}
            }
        }
    }

    /// Waits until what operators have begun has ended, and everything is where it shall be, and nowhere else.
    fn tidy(&mut self) -> Result<()> {
        let limit = host::now_ns() + TIDY_MAX_NS;
        let mut questioned = BTreeSet::new();
        loop {
            self.advance_to(host::now_ns() + TIDY_EVERY_NS)?;
            census::watch(&self.nodes)?;
            let cluster = self.describe()?;
            self.bring_back(&cluster)?;
            self.question(&cluster, &mut questioned)?;
            match census::compare(&self.nodes, &cluster, self.plan.replicas)? {
                None => return Ok(()),
                Some(unfinished) if host::now_ns() > limit => bail!("it does not come to rest: {unfinished}"),
                Some(_) => {}
            }
        }
    }

    /// The cluster, as the meta-group's leader sees it.
    fn describe(&mut self) -> Result<DescribeResponse> {
        let (place, meta) = self.asked()?;
        let told = Arc::new(Mutex::new(None));
        let tell = told.clone();
        self.in_node(place, |client| async move {
            loop {
                if let Ok(cluster) = meta.describe().await {
                    *tell.lock() = Some(cluster);
                    return;
                }
                client.seams.sleep(PAUSE).await;
            }
        });
        self.run_until(RECOVER_MAX_NS, |_| told.lock().is_some())
            .context("nobody says what the cluster looks like")?;
        let cluster = told.lock().take();
        cluster.context("nobody says what the cluster looks like")
    }

    /// What was wanted for a while only ends, should whoever wanted it be dead: nodes that are drained serve again, and shards are as
    /// large as usual.
    fn bring_back(&mut self, cluster: &DescribeResponse) -> Result<()> {
        let drained = cluster.nodes.iter().filter(|node| node.duty() == NodeDuty::NodeDraining);
        let drained: Vec<u64> = drained.map(|node| node.id).collect();
        let set = |name: &&str| cluster.settings.as_ref().is_some_and(|set| set.values.contains_key(*name));
        let set: Vec<&str> = automatic::SETTINGS.into_iter().filter(set).collect();
        if drained.is_empty() && set.is_empty() {
            return Ok(());
        }
        let (place, meta) = self.asked()?;
        let asked = Arc::new(Mutex::new(false));
        let done = asked.clone();
        self.in_node(place, |_| async move {
            // Whatever is refused is looked at again.
            for node in drained {
                let request = ChangeDutyRequest { node, change: Change::Undrain.into(), force: false };
                let _ = meta.change_duty(request).await;
            }
            for name in set {
                let _ = meta.change_setting(name, "").await;
            }
            *done.lock() = true;
        });
        self.run_until(RECOVER_MAX_NS, |_| *asked.lock())
            .context("nobody brings back what was wanted for a while")
    }

    /// Replicas that were removed, and those of shards that are gone, must not answer as long as they are there. Each is asked once:
    /// whoever is asked does not rest.
    fn question(
        &mut self,
        cluster: &DescribeResponse,
        questioned: &mut BTreeSet<(Place, GroupId)>,
    ) -> Result<()> {
        let mut strays = census::strays(&self.nodes, cluster);
        strays.retain(|stray| questioned.insert((stray.place, stray.group)));
        let (count, answers) = (strays.len(), Arc::new(Mutex::new(Vec::new())));
        for stray in strays {
            let read = wire::Read { keys: vec![stray.key], ..Default::default() };
            let body = Some(wire::request::Body::Read(read));
            let (group, timeout_ms) = (stray.group.0, QUESTION_MS);
            let request = wire::Request { id: 0, group, epoch: 0, timeout_ms, body, past: false };
            let (shards, answers, node) = (stray.shards, answers.clone(), stray.place + 1);
            self.nodes[stray.place].spawn(async move {
                let answer = shards.handle(request).await.body;
                let refused = matches!(answer, Some(wire::response::Body::Failure(_)));
                answers.lock().push((!refused).then(|| {
                    format!("g{group} is no longer on node {node}, which answers for it all the same")
                }));
            });
        }
        self.run_until(RECOVER_MAX_NS, |_| answers.lock().len() == count)
            .context("a replica that should be gone neither answers nor refuses")?;
        let wrong = answers.lock().iter().flatten().next().cloned();
        match wrong {
            None => Ok(()),
            Some(wrong) => bail!("{wrong}"),
        }
    }
}
