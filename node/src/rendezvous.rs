//! How nodes that were all stopped find each other again.
//!
//! A node learns the others' addresses from the leader of the meta-group and remembers them in its store. If all are
//! stopped before that was written, or come back under other addresses, nobody can reach anybody, so there never is a
//! leader to ask. So, while no leader has answered, the nodes of the join list are asked who they are.

use std::sync::Arc;
use std::time::Duration;

use meta::MetaClient;
use proto::admin as pb;
use proto::meta::MapNode;
use storage::ids::NodeId;
use storage::seam::Seams;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cli::admin::connect_over;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one node may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(700);
/// After so long without an answer of the leader, the others are asked again.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Who asks whom.
pub struct Rendezvous {
    /// The cluster this node belongs to: strangers' answers count for nothing.
    pub cluster_id: u128,
    /// This node.
    pub node: NodeId,
    /// The join list.
    pub targets: Vec<String>,
    /// What learns of the answers.
    pub client: Arc<MetaClient>,
    /// Time.
    pub seams: Seams,
}

impl Rendezvous {
    /// Runs until cancelled.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            if self.lonely() {
                for target in &self.targets {
                    self.ask(target).await;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.seams.beat(PAUSE) => {}
            }
        }
    }

    fn lonely(&self) -> bool {
        self.client.last_contact().is_none_or(|at| self.seams.clock.now() - at > SILENCE_MAX)
    }

    async fn ask(&self, target: &str) {
        let call = async {
            let mut admin = connect_over(&self.seams, target).await.map_err(|failure| failure.to_string())?;
            admin.node(pb::NodeRequest {}).await.map_err(|status| status.message().to_owned())
        };
        let answer = tokio::select! {
            answer = call => answer,
            () = self.seams.sleep(ANSWER_LIMIT) => Err("no answer".to_owned()),
        };
        match answer {
            Ok(answer) => self.learn(target, answer.into_inner()),
            Err(why) => debug!("asking {target} who it is: {why}"),
        }
    }

    fn learn(&self, target: &str, answer: pb::NodeResponse) {
        if answer.cluster_id.is_empty() || answer.node == self.node.0 {
            return;
        }
        if answer.cluster_id[..] != self.cluster_id.to_be_bytes() {
            warn!(
                "{target} of the join list belongs to another cluster, {}",
                hex::encode(&answer.cluster_id)
            );
            return;
        }
        let itself =
            MapNode { id: answer.node, addresses: answer.addresses, alive: true, ..Default::default() };
        self.client.learn_nodes(itself, answer.nodes);
    }
}
