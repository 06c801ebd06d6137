//! Faults: what is done to a cluster, and undone.
//!
//! A fault is a way to choose victims, to harm them and to heal them. Which, when and whom is drawn from the run's seed
//! beforehand ([`schedule`]), so that a run can be done again, as far as real processes allow.
//!
//! What is tried need not happen: a cluster refuses an operator's command, a node has nothing yet to be damaged. [`Harm`] says what came of
//! it; only what was done counts.
//!
//! To add one: a line in [`ALL`], with commands of the cluster script for harm and healing, or which links it hits.

mod all;
pub mod clock;
pub mod disk;
pub mod flip;
pub mod members;
pub mod schedule;
mod which;

use std::time::Duration;

use anyhow::{Context, Result};

pub use self::all::ALL;
use self::disk::Ailment;
use self::flip::Place;
use self::members::Change;
use self::which::{Which, hit};
use crate::cluster::Cluster;
use crate::links::{Links, Trouble};
use crate::run::sleep;

/// So long disks lie before the power is cut.
const LIES_LAST: Duration = Duration::from_millis(1_500);

/// How many nodes are hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    /// One of them.
    One,
    /// As many as may be missing: the smaller half.
    Minority,
    /// The smallest majority.
    Majority,
    /// All.
    All,
    /// The leader of the meta-group, whoever that is at the time: shard map, oracle.
    MetaLeader,
    /// The leader of one of the shards that hold the workload's table.
    ShardLeader,
}

/// The meta-group's number.
const META_GROUP: u64 = 1;
/// The first database's: it holds the rows of tables that have no shards of their own.
const SHARD_GROUP: u64 = 3;
/// More than replicas of a shard: else nothing can move.
const NODES_TO_MOVE: usize = 4;
/// The fewest of which the smaller half is more than one.
const NODES_TO_HALVE: usize = 5;

/// Whom a fault hits, when it comes to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The nodes.
    pub nodes: Vec<usize>,
    /// The group whose leader is meant.
    pub group: Option<u64>,
}

/// What came of an attempt to do harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Harm {
    /// It is done.
    Done,
    /// The cluster has refused it, or there was nothing to do it to.
    Refused(String),
    /// It is done, and the database did what no database may: the anomaly's name, and what happened.
    Wrong(&'static str, String),
}

impl Harm {
    /// Of several victims: what is done to one is done.
    fn and(self, other: Harm) -> Harm {
        match (self, other) {
            (wrong @ Harm::Wrong(..), _) | (_, wrong @ Harm::Wrong(..)) => wrong,
            (Harm::Done, _) | (_, Harm::Done) => Harm::Done,
            (refused, _) => refused,
        }
    }
}

impl Victims {
    /// Of so many nodes.
    pub fn count(self, nodes: usize) -> usize {
        match self {
            Victims::One | Victims::MetaLeader | Victims::ShardLeader => 1,
            Victims::Minority => (nodes.saturating_sub(1) / 2).max(1),
            Victims::Majority => nodes / 2 + 1,
            Victims::All => nodes,
        }
    }
}

/// What is done to them.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// A command of the cluster script, and the one that undoes it.
    Process(&'static str, &'static str),
    /// The disk is ill; the node is started again afterwards if the ailment ends processes.
    Disk(Ailment),
    /// Killed, and what was not synced is gone.
    PowerCut,
    /// The same, after the disks had lied about syncs for a while.
    LyingPowerCut,
    /// A byte on a disk is another one.
    Flip(Place),
    /// Wall clocks jump, forward or back.
    Clock,
    /// … to and fro, again and again.
    Strobe,
    /// An operator's command.
    Members(Change),
    /// Links between the victims and the others are in trouble.
    Network(Which, Trouble),
    /// The victim is made to lead all that it has, and then it is cut off.
    LeadAndCut,
}

/// Faults that a campaign tries together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Nodes end and stand still.
    Process,
    /// Disks forget, stall, fill up, lie.
    Disk,
    /// Wall clocks are wrong.
    Clock,
    /// Links are cut, slow, lossy.
    Network,
    /// Whatever hits a leader because it leads.
    Leader,
    /// Replicas, leaders and nodes come and go, by operators' commands.
    Members,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 6] =
        [Family::Process, Family::Disk, Family::Clock, Family::Network, Family::Leader, Family::Members];

    /// As a table names it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Process => "process",
            Family::Disk => "disk",
            Family::Clock => "clock",
            Family::Network => "network",
            Family::Leader => "leader",
            Family::Members => "members",
        }
    }
}

/// An entry of the registry.
#[derive(Debug)]
pub struct Fault {
    /// What it is called.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Whom it hits.
    pub victims: Victims,
    deed: Deed,
    /// How long it lasts, at least and at most.
    pub lasts: (Duration, Duration),
}

impl Fault {
    /// Whether the links must pass through the harness.
    pub fn needs_links(&self) -> bool {
        matches!(self.deed, Deed::Network(..) | Deed::LeadAndCut)
    }

    /// With which others it is tried.
    pub fn family(&self) -> Family {
        match (self.victims, self.deed) {
            (Victims::MetaLeader | Victims::ShardLeader, _) => Family::Leader,
            (_, Deed::Members(_)) => Family::Members,
            (_, Deed::Process(..)) => Family::Process,
            (_, Deed::Disk(_) | Deed::PowerCut | Deed::LyingPowerCut | Deed::Flip(_)) => Family::Disk,
            (_, Deed::Clock | Deed::Strobe) => Family::Clock,
            (_, Deed::Network(..)) => Family::Network,
            (_, Deed::LeadAndCut) => Family::Leader,
        }
    }

    /// Whom it hits now: those that were drawn, or whoever leads. `dice` chooses among the shards of the workload's table.
    pub async fn target(&self, cluster: &Cluster, table: &str, drawn: &[usize], dice: u64) -> Target {
        let group = match self.victims {
            Victims::MetaLeader => META_GROUP,
            Victims::ShardLeader => cluster.shard_of(table, dice).await.unwrap_or(SHARD_GROUP),
            _ => return Target { nodes: cluster.present(drawn), group: None },
        };
        match cluster.leader(group).await {
            Ok(leader) => Target { nodes: vec![leader], group: Some(group) },
            // If nobody knows the leader, somebody else will do.
            Err(_) => Target { nodes: cluster.present(drawn), group: None },
        }
    }

    /// How many nodes a cluster needs for it to do anything, or to differ from the others.
    fn nodes_min(&self) -> usize {
        match self.deed {
            Deed::Members(Change::Move | Change::Leave | Change::MetaMember) => NODES_TO_MOVE,
            Deed::Network(Which::Both, _) if self.victims == Victims::Minority => NODES_TO_HALVE,
            _ => 1,
        }
    }

    /// Whether it is another one of the list on so few nodes.
    pub fn is_another(&self, nodes: usize) -> bool {
        self.nodes_min() == NODES_TO_HALVE && nodes < NODES_TO_HALVE
    }

    /// Whether it needs something on every disk before it begins: [`flip::prepare`].
    pub fn needs_rows(&self) -> bool {
        matches!(self.deed, Deed::Flip(_))
    }

    /// Whether the nodes must be started with the library that breaks disks and clocks.
    pub fn needs_disk(&self) -> bool {
        matches!(self.deed, Deed::Disk(_) | Deed::PowerCut | Deed::LyingPowerCut | Deed::Clock | Deed::Strobe)
    }

    /// Whether a database can be expected to survive it. What isn't fair shows that the harness notices.
    pub fn is_fair(&self) -> bool {
        !matches!(self.deed, Deed::LyingPowerCut)
    }

    /// Does it. `dice` decides what is left to chance.
    pub async fn harm(
        &self,
        cluster: &Cluster,
        links: Option<&Links>,
        victims: &[usize],
        dice: u64,
    ) -> Result<Harm> {
        let nothing_yet = || Harm::Refused("there are no victims".to_owned());
        match self.deed {
            Deed::Process(harm, _) => cluster.each(harm, victims).await?,
            Deed::Disk(ailment) => disk::infect(cluster, victims, ailment)?,
            Deed::Clock => return clock::put_wrong(cluster, victims, dice, false).await,
            Deed::Strobe => return clock::put_wrong(cluster, victims, dice, true).await,
            Deed::Members(change) => {
                let mut harm = nothing_yet();
                for node in victims {
                    harm = members::harm(cluster, *node, change, dice).await?.and(harm);
                }
                return Ok(harm);
            }
            Deed::Flip(place) => {
                let mut harm = nothing_yet();
                for node in victims {
                    harm = flip::harm(cluster, *node, place, dice).await?.and(harm);
                }
                return Ok(harm);
            }
            Deed::PowerCut | Deed::LyingPowerCut => {
                if !self.is_fair() {
                    disk::infect(cluster, victims, Ailment::Lies)?;
                    sleep(LIES_LAST).await;
                }
                cluster.each("kill", victims).await?;
                // Not before: one honest sync makes all lies good.
                if !self.is_fair() {
                    disk::cure(cluster, victims)?;
                }
                victims.iter().try_for_each(|node| disk::tear(cluster, *node, dice))?;
            }
            Deed::Network(which, trouble) => {
                let links = links.context("the links don't pass through the harness")?;
                links.set(hit(which, victims, &cluster.all(), dice).into_iter().map(|link| (link, trouble)));
            }
            Deed::LeadAndCut => {
                let links = links.context("the links don't pass through the harness")?;
                for node in victims {
                    members::harm(cluster, *node, Change::LeadAll, dice).await?;
                }
                let cut = hit(Which::Both, victims, &cluster.all(), dice);
                links.set(cut.into_iter().map(|link| (link, Trouble::Cut)));
            }
        }
        Ok(Harm::Done)
    }

    /// Undoes it.
    pub async fn heal(&self, cluster: &Cluster, links: Option<&Links>, victims: &[usize]) -> Result<()> {
        match self.deed {
            Deed::Process(_, heal) => cluster.each(heal, victims).await,
            Deed::Disk(ailment) => {
                disk::cure(cluster, victims)?;
                // A node whose log could not be written leaves. One that is about to must not be taken for one that runs.
                if ailment == Ailment::Full {
                    cluster.each("stop", victims).await?;
                }
                cluster.each("start", victims).await
            }
            Deed::PowerCut | Deed::LyingPowerCut => cluster.each("start", victims).await,
            Deed::Clock | Deed::Strobe => clock::set(cluster, victims, 0, Duration::ZERO),
            Deed::Members(change) => {
                for node in victims {
                    members::heal(cluster, *node, change).await?;
                }
                Ok(())
            }
            Deed::Flip(_) => {
                for node in victims {
                    flip::heal(cluster, *node).await?;
                }
                Ok(())
            }
            Deed::LeadAndCut => {
                links.context("the links don't pass through the harness")?.set([]);
                for node in victims {
                    members::heal(cluster, *node, Change::LeadAll).await?;
                }
                Ok(())
            }
            Deed::Network(..) => {
                links.context("the links don't pass through the harness")?.set([]);
                Ok(())
            }
        }
    }
}

/// By name.
pub fn find(name: &str) -> Option<&'static Fault> {
    ALL.iter().find(|fault| fault.name == name)
}

/// How many nodes a cluster has that is to meet these faults.
pub fn nodes_for(nodes: usize, faults: &[&'static Fault]) -> usize {
    faults.iter().map(|fault| fault.nodes_min()).max().unwrap_or(1).max(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_moves_something_has_where_to() {
        let nodes = |names: &[&str]| {
            let faults: Vec<&Fault> = names.iter().map(|name| find(name).unwrap()).collect();
            nodes_for(3, &faults)
        };
        assert_eq!(nodes(&["kill", "partition", "split", "drain"]), 3);
        for alone in ["move", "membership", "meta-member"] {
            assert_eq!(nodes(&["partition", alone]), 4, "{alone}");
        }
        assert_eq!(nodes(&["partition-halves", "move"]), 5);
        assert_eq!(nodes_for(7, &[find("move").unwrap()]), 7);
        let halves = find("partition-halves").unwrap();
        assert!(halves.is_another(3) && halves.is_another(4) && !halves.is_another(5));
        assert_eq!(halves.victims.count(5), 2);
    }

    #[test]
    fn of_several_victims_what_happened_to_one_has_happened() {
        let refused = || Harm::Refused("no".to_owned());
        let wrong = || Harm::Wrong("served-from-damage", "it serves".to_owned());
        assert_eq!(refused().and(Harm::Done), Harm::Done);
        assert_eq!(Harm::Done.and(refused()), Harm::Done);
        assert_eq!(refused().and(refused()), refused());
        assert_eq!(Harm::Done.and(wrong()), wrong());
        assert_eq!(wrong().and(refused()), wrong());
    }

    #[test]
    fn every_family_has_faults() {
        for family in Family::ALL {
            assert!(ALL.iter().any(|fault| fault.is_fair() && fault.family() == family), "{family:?}");
        }
    }
}
