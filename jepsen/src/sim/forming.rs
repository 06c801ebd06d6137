//! How a simulation begins: a cluster forms.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;

use super::node::SimNode;
use super::run::{FORM_MAX_NS, PAUSE, Simulation};
use super::workload::key;

impl Simulation {
    /// Waits until the nodes have found each other, and every group has as many voters as it shall.
    pub(super) fn form(&mut self) -> Result<()> {
        let founders = self.plan.nodes;
        let all_up = |nodes: &[SimNode]| nodes[..founders].iter().all(SimNode::is_up);
        self.run_until(FORM_MAX_NS, all_up).context("the cluster does not form")?;
        let splits = self.plan.splits as u32;
        let keys: Vec<_> = (0..splits).map(|n| key(n * self.workload.rows() / splits.max(1))).collect();
        let (formed, voters) = (Arc::new(Mutex::new(false)), self.plan.replicas);
        let done = formed.clone();
        let (place, meta) = self.asked()?;
        let mut settings = self.plan.settings.clone();
        settings.extend(self.options.quorum_reads.then_some(("read_consistency", "quorum")));
        self.in_node(place, move |client| async move {
            for (name, value) in settings {
                while meta.change_setting(name, value).await.is_err() {
                    client.seams.sleep(PAUSE).await;
                }
            }
            while client.database.split(&keys, true).await.is_err() {
                client.seams.sleep(PAUSE).await;
            }
            loop {
                let settled = meta.describe().await.is_ok_and(|cluster| {
                    let full = |group: &proto::meta::GroupStatus| {
                        group.replicas.iter().filter(|replica| !replica.learner).count() == voters
                    };
                    cluster.groups.iter().all(full)
                });
                if settled {
                    *done.lock() = true;
                    return;
                }
                client.seams.sleep(PAUSE).await;
            }
        });
        self.run_until(FORM_MAX_NS, |_| *formed.lock()).context("not every group becomes full")
    }
}
