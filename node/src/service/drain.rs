//! Does what is wanted of the node as far as its clients are concerned: a node that is drained sends them elsewhere.
//!
//! What is wanted is replicated by the meta-group, and told to the node in the answers to its reports. That the node leads nothing while
//! it is drained is for placement to see to.

use std::sync::Arc;
use std::time::Duration;

use meta::MetaClient;
use proto::meta::NodeDuty;
use sql::server::Server;
use storage::ids::NodeId;
use storage::seam::Seams;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::readiness::Readiness;

/// How long transactions may go on at a node that is drained.
pub const GRACE: Duration = Duration::from_secs(10);
/// Between two looks at what is wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A node whose sessions come and go with what is wanted of it.
pub struct Obedient {
    /// The node.
    pub node: NodeId,
    /// Knows what is wanted.
    pub meta: Arc<MetaClient>,
    /// Its SQL server, open.
    pub sql: Server,
    /// What it says of itself.
    pub readiness: Arc<Readiness>,
    /// The clock.
    pub seams: Seams,
}

impl Obedient {
    /// Runs until cancelled. The sessions are left as they are then.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.until(true) => {}
            }
            // First of all, so that no load balancer sends anybody who is refused.
            self.readiness.set_drained(true);
            info!("drained: sessions end between two transactions, and new ones are refused");
            let drained = async {
                self.sql.drain(GRACE).await;
                info!("all sessions have ended");
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.until(false) => {}
                () = drained => {}
            }
            self.sql.open();
            self.readiness.set_drained(false);
            info!("not drained any more: sessions are let in");
        }
    }

    /// Completes when the node is to be drained, or not to be.
    async fn until(&self, drained: bool) {
        while (self.meta.duty(self.node) == Some(NodeDuty::NodeDraining)) != drained {
            self.seams.beat(LOOK_EVERY).await;
        }
    }
}
