//! Faults: what is done to a cluster, and undone.
//!
//! A fault is a way to choose victims, to harm them and to heal them. Which, when and whom is drawn from the run's seed
//! beforehand ([`schedule`]), so that a run can be done again, as far as real processes allow.
//!
//! To add one: a line in [`ALL`], with commands of the cluster script for harm and healing, or which links it hits.

pub mod disk;
pub mod flip;
pub mod members;
pub mod schedule;

use std::time::Duration;

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use self::disk::Ailment;
use self::flip::Place;
use self::members::Change;
use crate::cluster::Cluster;
use crate::links::{Link, Links, Trouble, between};
use crate::run::sleep;

/// So long disks lie before the power is cut.
const LIES_LAST: Duration = Duration::from_millis(1_500);

/// A strobing clock is wrong for so long, and right for so long.
const STROBE: Duration = Duration::from_millis(150);

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
    /// The leader of the first database's shard, which holds the rows of tables that have none of their own.
    ShardLeader,
}

/// The meta-group's number.
const META_GROUP: u64 = 1;
/// The first database's.
const SHARD_GROUP: u64 = 3;

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

/// Which links.
#[derive(Clone, Copy, Debug)]
enum Which {
    /// All between the victims and the others.
    Both,
    /// What the victims send.
    Outgoing,
    /// What they are sent.
    Incoming,
    /// All among the victims: the others reach everybody, and the victims each other only by way of them.
    Among,
    /// In a ring of all, each hears only the next ones, who make a majority with it: no two hear the same.
    Ring,
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

    /// Whom it hits now, if that is not what was drawn.
    pub async fn victims(&self, cluster: &Cluster, drawn: &[usize]) -> Vec<usize> {
        match self.victims {
            // If nobody knows the leader, somebody else will do.
            Victims::MetaLeader | Victims::ShardLeader => {
                let group = if self.victims == Victims::MetaLeader { META_GROUP } else { SHARD_GROUP };
                cluster.leader(group).await.map_or_else(|_| drawn.to_vec(), |leader| vec![leader])
            }
            _ => drawn.to_vec(),
        }
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
    ) -> Result<()> {
        match self.deed {
            Deed::Process(harm, _) => cluster.each(harm, victims).await,
            Deed::Disk(ailment) => disk::infect(cluster, victims, ailment),
            Deed::Clock => disk::set_clocks(cluster, victims, clock_error_ns(dice), Duration::ZERO),
            Deed::Strobe => disk::set_clocks(cluster, victims, clock_error_ns(dice), STROBE),
            Deed::Members(change) => {
                for node in victims {
                    members::harm(cluster, *node, change, dice).await?;
                }
                Ok(())
            }
            Deed::Flip(place) => {
                for node in victims {
                    flip::harm(cluster, *node, place, dice).await?;
                }
                Ok(())
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
                victims.iter().try_for_each(|node| disk::tear(cluster, *node))
            }
            Deed::Network(which, trouble) => {
                let links = links.context("the links don't pass through the harness")?;
                links.set(hit(which, victims, &cluster.all(), dice).into_iter().map(|link| (link, trouble)));
                Ok(())
            }
            Deed::LeadAndCut => {
                let links = links.context("the links don't pass through the harness")?;
                for node in victims {
                    members::harm(cluster, *node, Change::LeadAll, dice).await?;
                }
                let cut = hit(Which::Both, victims, &cluster.all(), dice);
                links.set(cut.into_iter().map(|link| (link, Trouble::Cut)));
                Ok(())
            }
        }
    }

    /// Undoes it.
    pub async fn heal(&self, cluster: &Cluster, links: Option<&Links>, victims: &[usize]) -> Result<()> {
        match self.deed {
            Deed::Process(_, heal) => cluster.each(heal, victims).await,
            Deed::Disk(ailment) => {
                disk::cure(cluster, victims)?;
                // A log that could not be written takes nothing any more: such a node needs its operator.
                if ailment == Ailment::Full {
                    cluster.each("stop", victims).await?;
                }
                cluster.each("start", victims).await
            }
            Deed::PowerCut | Deed::LyingPowerCut => cluster.each("start", victims).await,
            Deed::Clock | Deed::Strobe => disk::set_clocks(cluster, victims, 0, Duration::ZERO),
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

/// The links that are in trouble.
fn hit(which: Which, victims: &[usize], all: &[usize], dice: u64) -> Vec<Link> {
    let others: Vec<usize> = all.iter().copied().filter(|node| !victims.contains(node)).collect();
    let mut links = match which {
        Which::Among => between(victims, victims),
        Which::Ring => {
            let mut ring = all.to_vec();
            ring.shuffle(&mut StdRng::seed_from_u64(dice));
            let place = |node| ring.iter().position(|other| *other == node).unwrap_or(0);
            // From how far ahead each hears.
            let reach = ring.len() / 2;
            let heard = |(from, to): &Link| (place(*from) + ring.len() - place(*to)) % ring.len() <= reach;
            return between(all, all).into_iter().filter(|link| !heard(link)).collect();
        }
        _ => between(victims, &others),
    };
    links.retain(|(from, to)| match which {
        Which::Outgoing => victims.contains(from),
        Which::Incoming => victims.contains(to),
        Which::Both | Which::Among | Which::Ring => true,
    });
    links
}

/// From a tenth of a second to minutes, each size as likely, forward or back.
fn clock_error_ns(dice: u64) -> i64 {
    let magnitude = 100_000_000_i64 << (dice % 12);
    if dice & (1 << 32) == 0 { magnitude } else { -magnitude }
}

const fn millis(min_ms: u64, max_ms: u64) -> (Duration, Duration) {
    (Duration::from_millis(min_ms), Duration::from_millis(max_ms))
}

/// All faults.
pub const ALL: &[Fault] = &[
    Fault {
        name: "kill",
        about: "kill -9 of one node, started again",
        victims: Victims::One,
        deed: Deed::Process("kill", "start"),
        lasts: millis(500, 5_000),
    },
    Fault {
        name: "kill-majority",
        about: "kill -9 of a majority at once",
        victims: Victims::Majority,
        deed: Deed::Process("kill", "start"),
        lasts: millis(200, 3_000),
    },
    Fault {
        name: "kill-all",
        about: "kill -9 of all nodes at once: a power cut",
        victims: Victims::All,
        deed: Deed::Process("kill", "start"),
        lasts: millis(100, 2_000),
    },
    Fault {
        name: "pause",
        about: "SIGSTOP of one node, shorter and longer than an election takes",
        victims: Victims::One,
        deed: Deed::Process("pause", "resume"),
        lasts: millis(200, 6_000),
    },
    Fault {
        name: "pause-majority",
        about: "SIGSTOP of a majority",
        victims: Victims::Majority,
        deed: Deed::Process("pause", "resume"),
        lasts: millis(200, 4_000),
    },
    Fault {
        name: "pause-all",
        about: "SIGSTOP of all nodes: all leases end at once",
        victims: Victims::All,
        deed: Deed::Process("pause", "resume"),
        lasts: millis(200, 4_000),
    },
    Fault {
        name: "restart",
        about: "one node stopped gently and started again",
        victims: Victims::One,
        deed: Deed::Process("stop", "start"),
        lasts: millis(0, 2_000),
    },
    Fault {
        name: "power-cut",
        about: "kill -9 of one node, and what it had not synced is gone",
        victims: Victims::One,
        deed: Deed::PowerCut,
        lasts: millis(200, 3_000),
    },
    Fault {
        name: "power-cut-all",
        about: "the same of all nodes at once",
        victims: Victims::All,
        deed: Deed::PowerCut,
        lasts: millis(100, 1_000),
    },
    Fault {
        name: "lying-disks",
        about: "power-cut-all of disks that had lied about syncs: not among `all`, for it must be noticed",
        victims: Victims::All,
        deed: Deed::LyingPowerCut,
        lasts: millis(2_000, 3_000),
    },
    Fault {
        name: "flip-log",
        about: "kill -9 of one node, whose log is damaged: it must refuse to start until that is undone",
        victims: Victims::One,
        deed: Deed::Flip(Place::Log),
        lasts: millis(500, 3_000),
    },
    Fault {
        name: "flip-table",
        about: "the same with a table of its state, once there is one",
        victims: Victims::One,
        deed: Deed::Flip(Place::Table),
        lasts: millis(500, 3_000),
    },
    Fault {
        name: "disk-stall",
        about: "syncs of one node don't return",
        victims: Victims::One,
        deed: Deed::Disk(Ailment::Stall),
        lasts: millis(300, 6_000),
    },
    Fault {
        name: "clock-jump",
        about: "the wall clock of one node is wrong by 0.1 s to 3 minutes, fast or slow",
        victims: Victims::One,
        deed: Deed::Clock,
        lasts: millis(500, 8_000),
    },
    Fault {
        name: "clock-jump-all",
        about: "the same of all nodes at once",
        victims: Victims::All,
        deed: Deed::Clock,
        lasts: millis(500, 8_000),
    },
    Fault {
        name: "clock-strobe",
        about: "the wall clock of one node jumps to and fro, three times a second",
        victims: Victims::One,
        deed: Deed::Strobe,
        lasts: millis(1_000, 8_000),
    },
    Fault {
        name: "clock-strobe-all",
        about: "the same of all nodes at once",
        victims: Victims::All,
        deed: Deed::Strobe,
        lasts: millis(1_000, 8_000),
    },
    Fault {
        name: "disk-full",
        about: "nothing can be written by one node, which is restarted afterwards",
        victims: Victims::One,
        deed: Deed::Disk(Ailment::Full),
        lasts: millis(500, 4_000),
    },
    Fault {
        name: "partition",
        about: "one node reaches no other, and is reached by none",
        victims: Victims::One,
        deed: Deed::Network(Which::Both, Trouble::Cut),
        lasts: millis(500, 8_000),
    },
    Fault {
        name: "partition-leader",
        about: "the same of the node that leads the shard of ordinary tables",
        victims: Victims::ShardLeader,
        deed: Deed::Network(Which::Both, Trouble::Cut),
        lasts: millis(500, 8_000),
    },
    Fault {
        name: "partition-sole-leader",
        about: "one node is made to lead all that it has, so that it needs nobody to believe that it still does; then it is cut off",
        victims: Victims::One,
        deed: Deed::LeadAndCut,
        lasts: millis(6_000, 10_000),
    },
    Fault {
        name: "kill-leader",
        about: "kill -9 of that node",
        victims: Victims::ShardLeader,
        deed: Deed::Process("kill", "start"),
        lasts: millis(500, 4_000),
    },
    Fault {
        name: "pause-leader",
        about: "SIGSTOP of that node for so long that others lead, and then it wakes and finds questions",
        victims: Victims::ShardLeader,
        deed: Deed::Process("pause", "resume"),
        lasts: millis(2_500, 4_500),
    },
    Fault {
        name: "partition-halves",
        about: "the smaller half reaches nobody of the larger one",
        victims: Victims::Minority,
        deed: Deed::Network(Which::Both, Trouble::Cut),
        lasts: millis(500, 8_000),
    },
    Fault {
        name: "partition-ring",
        about: "each node hears a majority, and no two the same one",
        victims: Victims::All,
        deed: Deed::Network(Which::Ring, Trouble::Cut),
        lasts: millis(500, 8_000),
    },
    Fault {
        name: "partition-out",
        about: "nobody hears one node, which hears the others",
        victims: Victims::One,
        deed: Deed::Network(Which::Outgoing, Trouble::Cut),
        lasts: millis(500, 8_000),
    },
    Fault {
        name: "partition-in",
        about: "one node hears nobody, and the others hear it",
        victims: Victims::One,
        deed: Deed::Network(Which::Incoming, Trouble::Cut),
        lasts: millis(500, 8_000),
    },
    Fault {
        name: "kill-meta",
        about: "kill -9 of the meta-group's leader",
        victims: Victims::MetaLeader,
        deed: Deed::Process("kill", "start"),
        lasts: millis(500, 4_000),
    },
    Fault {
        name: "pause-meta",
        about: "SIGSTOP of the meta-group's leader",
        victims: Victims::MetaLeader,
        deed: Deed::Process("pause", "resume"),
        lasts: millis(500, 6_000),
    },
    Fault {
        name: "partition-meta",
        about: "the meta-group's leader reaches nobody",
        victims: Victims::MetaLeader,
        deed: Deed::Network(Which::Both, Trouble::Cut),
        lasts: millis(500, 6_000),
    },
    Fault {
        name: "partition-meta-out",
        about: "nobody hears the meta-group's leader",
        victims: Victims::MetaLeader,
        deed: Deed::Network(Which::Outgoing, Trouble::Cut),
        lasts: millis(500, 6_000),
    },
    Fault {
        name: "partition-meta-in",
        about: "the meta-group's leader hears nobody",
        victims: Victims::MetaLeader,
        deed: Deed::Network(Which::Incoming, Trouble::Cut),
        lasts: millis(500, 6_000),
    },
    Fault {
        name: "bridge",
        about: "a majority whose members hear the rest, but not each other",
        victims: Victims::Majority,
        deed: Deed::Network(Which::Among, Trouble::Cut),
        lasts: millis(500, 8_000),
    },
    Fault {
        name: "transfer-leader",
        about: "one node is made to lead all shards that it has",
        victims: Victims::One,
        deed: Deed::Members(Change::Transfer),
        lasts: millis(200, 2_000),
    },
    Fault {
        name: "move",
        about: "a replica moves from one node to another (of more nodes than replicas)",
        victims: Victims::One,
        deed: Deed::Members(Change::Move),
        lasts: millis(500, 4_000),
    },
    Fault {
        name: "split",
        about: "a shard is cut in two",
        victims: Victims::One,
        deed: Deed::Members(Change::Split),
        lasts: millis(200, 2_000),
    },
    Fault {
        name: "merge",
        about: "a shard absorbs its right neighbour, after it was brought to the same nodes",
        victims: Victims::One,
        deed: Deed::Members(Change::Merge),
        lasts: millis(200, 2_000),
    },
    Fault {
        name: "membership",
        about: "everything moves off one node, which is kept in the end (of more nodes than replicas)",
        victims: Victims::One,
        deed: Deed::Members(Change::Leave),
        lasts: millis(2_000, 8_000),
    },
    Fault {
        name: "drain",
        about: "one node hands over what it leads, and serves again in the end",
        victims: Victims::One,
        deed: Deed::Members(Change::Drain),
        lasts: millis(500, 4_000),
    },
    Fault {
        name: "lossy-link",
        about: "packets to and from one node are lost and sent again; connections break",
        victims: Victims::One,
        deed: Deed::Network(Which::Both, Trouble::Lossy),
        lasts: millis(1_000, 6_000),
    },
    Fault {
        name: "slow-link",
        about: "everything to and from one node takes 100 ms longer",
        victims: Victims::One,
        deed: Deed::Network(Which::Both, Trouble::Slow(Duration::from_millis(100))),
        lasts: millis(1_000, 6_000),
    },
];

/// By name.
pub fn find(name: &str) -> Option<&'static Fault> {
    ALL.iter().find(|fault| fault.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn in_a_ring_everyone_hears_a_majority_and_no_two_the_same() {
        for nodes in [3, 4, 5, 7] {
            let all: Vec<usize> = (1..=nodes).collect();
            let cut = hit(Which::Ring, &all, &all, 9);
            let heard = |to: usize| -> BTreeSet<usize> {
                all.iter().copied().filter(|from| !cut.contains(&(*from, to))).collect()
            };
            let majorities: BTreeSet<BTreeSet<usize>> = all.iter().map(|to| heard(*to)).collect();
            assert_eq!(majorities.len(), nodes, "{cut:?}");
            assert!(majorities.iter().all(|heard| 2 * heard.len() > nodes), "{majorities:?}");
        }
    }

    #[test]
    fn one_way_partitions_are_one_way() {
        assert_eq!(hit(Which::Outgoing, &[2], &[1, 2, 3], 0), [(2, 1), (2, 3)]);
        assert_eq!(hit(Which::Incoming, &[2], &[1, 2, 3], 0), [(1, 2), (3, 2)]);
        assert_eq!(hit(Which::Among, &[1, 2], &[1, 2, 3], 0), [(1, 2), (2, 1)]);
    }

    #[test]
    fn every_family_has_faults() {
        for family in Family::ALL {
            assert!(ALL.iter().any(|fault| fault.is_fair() && fault.family() == family), "{family:?}");
        }
    }
}
