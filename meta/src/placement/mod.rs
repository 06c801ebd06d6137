//! Placement: a pure function from a description of the cluster to what should be done next.
//!
//! [`plan`] is asked again and again by the reconcile loop (see [`crate::reconcile`]); every answer is one step of
//! which the next answer sees the result. There is no state between two calls, so a failed step, a new leader of the
//! meta-group or an operator's hand need no special care: the next plan starts from what is. The same description
//! gives the same plan.
//!
//! ```text
//!   Description ──▶ view ──▶ survey: one look at each group ──▶ repair ──▶ leaders away ──▶ balance ──▶ leaders
//!   Policy ────────▶            sums per node, short lists        │        from where they     │         spread
//!                                                                │        shouldn't be        │            │
//!                                                                ▼                            ▼            ▼
//!                                                     Plan: steps, each with its reason ◀── split, merge ◀─┘
//! ```
//!
//! What it wants, the most important first:
//!
//! 1. a change of members that was begun is ended ([`repair`]);
//! 2. every group has as many voters as its rule says, or as there are nodes; what was lost is rebuilt elsewhere, the
//!    most endangered group first; nodes that are to be taken away are emptied ([`repair`]);
//! 3. replicas are where their rule wants them, and in as many failure domains as possible ([`locality`], [`rule`]);
//! 4. nobody leads from a node that is being drained ([`leaders`]);
//! 5. nodes have their shares of replicas, bytes and load ([`balance`], [`fill`]);
//! 6. leaders are spread: by load, first within each *family* (the shards of one table), so that a table's load is
//!    shared by all nodes, then over all. The meta-group's leader counts, but is moved only if its node has to lead
//!    nothing: the oracle stays where it is ([`leaders`]);
//! 7. shards that are too large or too hot are split, small cold neighbours merged ([`split_merge`]).
//!
//! What it never does:
//!
//! - move anything for nothing: within the bands of the [`Policy`] all is well, and every move for evenness lowers a
//!   cost that is never raised again, so moves end;
//! - take a group below its number of voters, or to a worse set of failure domains;
//! - have more going on at a time than the policy allows, or two things with one group;
//! - plan what can't be carried out ([`Capabilities`]).
//!
//! What it leaves alone: replicas on nodes that are down for a moment (they come back), and groups without a leader
//! (nobody to ask).
//!
//! A plan for 1,000,000 shards on 1,000 nodes takes a fraction of a second: `docs/placement.md` has figures, where the
//! ideas come from, and how the cluster's evenness develops.

mod balance;
mod budget;
mod choose;
mod description;
mod draft;
mod explain;
mod fill;
mod leaders;
pub mod locality;
mod operation;
mod policy;
mod repair;
mod rule;
mod split_merge;
mod survey;
mod view;

pub use description::{Description, Duty, Family, Group, Health, Load, Node, Replica};
pub use explain::{Evenness, Measure, Plan, Stalled, Step, Why};
pub use locality::{Locality, LocalityError};
pub use operation::Operation;
pub use policy::{Bands, Capabilities, Policy};
pub use rule::{Constraint, REPLICAS_MAX, Rule};

use draft::Draft;
use view::View;

/// What should be done next. An empty plan means that everything is as it should be, or that what is missing has to
/// come back first.
pub fn plan(cluster: &Description, policy: &Policy) -> Plan {
    let view = View::new(cluster, policy);
    let mut survey = survey::survey(&view);
    let before = survey.evenness(&view);
    let mut draft = Draft::new(cluster);
    draft.stalled = survey.stalled;
    repair::repair(&view, &mut survey, &mut draft);
    leaders::evacuate(&view, &mut survey, &mut draft);
    balance::balance(&view, &mut survey, &mut draft);
    leaders::spread(&view, &mut survey, &mut draft);
    split_merge::suggest(&view, &mut draft);
    let after = survey.evenness(&view);
    Plan { steps: draft.steps, stalled: draft.stalled, before, after }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
