//! What is wanted of a node changes: it is drained, emptied, or serves again.
//!
//! ```text
//!            drain ─────▶ draining ──────┐ decommission
//!   active ◀─ undrain ──┘                ▼
//!     │  ▲                        decommissioning ── emptied ──▶ decommissioned
//!     │  └──── recommission ─────────────┴────────────────────────────┘
//!     └─────── decommission ─────────────▲
//! ```

use proto::meta::change_duty::Change;
use proto::meta::{ChangeDuty, CommandResult, Node, NodeDuty};
use storage::ids::NodeId;

use super::rejected;
use crate::state::State;

/// A change to what is so already changes nothing.
pub fn apply(state: &mut State, command: ChangeDuty) -> CommandResult {
    let id = NodeId(command.node);
    let Some(node) = state.nodes().get(&id).cloned() else {
        return rejected(format!("there is no node {id}"));
    };
    use NodeDuty::{NodeActive, NodeDecommissioned, NodeDecommissioning, NodeDraining};
    let duty = match (command.change(), node.duty()) {
        (Change::Drain, NodeActive | NodeDraining) => NodeDraining,
        (Change::Drain, NodeDecommissioning | NodeDecommissioned) => {
            return rejected(format!(
                "{id} is being decommissioned; it leads nothing, and can be stopped when it is empty"
            ));
        }
        (Change::Undrain, NodeActive | NodeDraining) => NodeActive,
        (Change::Undrain, NodeDecommissioning | NodeDecommissioned) => {
            return rejected(format!(
                "{id} is being decommissioned: `flotilla admin recommission {id}` keeps it"
            ));
        }
        (Change::Decommission, NodeDecommissioned) => NodeDecommissioned,
        (Change::Decommission, _) => NodeDecommissioning,
        (Change::Recommission, NodeDraining) => NodeDraining,
        (Change::Recommission, _) => NodeActive,
        // It may have been kept meanwhile.
        (Change::Emptied, NodeDecommissioning) => NodeDecommissioned,
        (Change::Emptied, stays) => stays,
        (Change::Unspecified, _) => return rejected("a change of duty that this version does not know"),
    };
    if duty != node.duty() {
        state.put_node(Node { duty: duty.into(), ..node });
    }
    CommandResult { node: id.0, ..Default::default() }
}
