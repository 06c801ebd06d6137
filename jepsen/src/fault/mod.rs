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

use self::disk::Ailment;
use self::flip::Place;
use self::members::Change;
use crate::cluster::Cluster;
use crate::links::{Links, Trouble, between};
use crate::run::sleep;

/// So long disks lie before the power is cut.
const LIES_LAST: Duration = Duration::from_millis(1_500);

/// How many nodes are hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    /// One of them.
    One,
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
    /// An operator's command.
    Members(Change),
    /// Links between the victims and the others are in trouble.
    Network(Which, Trouble),
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
        matches!(self.deed, Deed::Network(..))
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
        matches!(self.deed, Deed::Disk(_) | Deed::PowerCut | Deed::LyingPowerCut | Deed::Clock)
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
            Deed::Clock => disk::set_clocks(cluster, victims, clock_error_ns(dice)),
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
                let others: Vec<usize> = cluster.all().into_iter().filter(|n| !victims.contains(n)).collect();
                let hit = match which {
                    Which::Among => between(victims, victims),
                    _ => between(victims, &others),
                };
                links.set(
                    hit.into_iter()
                        .filter(|(from, to)| match which {
                            Which::Both | Which::Among => true,
                            Which::Outgoing => victims.contains(from),
                            Which::Incoming => victims.contains(to),
                        })
                        .map(|link| (link, trouble)),
                );
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
            Deed::Clock => disk::set_clocks(cluster, victims, 0),
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
            Deed::Network(..) => {
                links.context("the links don't pass through the harness")?.set([]);
                Ok(())
            }
        }
    }
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
