//! `flotilla debug recover`: with a node stopped, and nothing else left.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use raft::recover::{Damaged, Found, Survivor, recover, release, survivors};
use serde_json::json;
use storage::ids::{GroupId, META_GROUP, NodeId, ReplicaId};
use storage::seam::Seams;
use storage::{Store, StoreOptions};

use crate::exit::Failure;

/// What whoever recovers the meta-group has to know.
const META_RECOVERED: &str = "g1 is the meta-group, which hands out timestamps by the clock of the node that leads it: before this node \
     is started, see that its clock is not behind those of the lost nodes. Ids and versions that may have been lost are left out.\n";

/// Arguments of `recover`.
#[derive(Args)]
pub struct RecoverArgs {
    /// The store's directory
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The nodes that never come back: n2,n3
    #[arg(long, value_name = "NODES", value_delimiter = ',', required = true)]
    lost: Vec<String>,
    /// Only these groups: g1 (the meta-group), g3
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    group: Vec<String>,
    /// Do it
    #[arg(long)]
    accept_data_loss: bool,
    /// Also with replicas in quarantine, whose rows differed from the others': where no other node has one
    #[arg(long, requires = "accept_data_loss")]
    accept_quarantined: bool,
}

/// What was found, and done.
struct Outcome {
    output: String,
    /// Which groups are left as they are, and why.
    left_alone: Vec<String>,
}

/// What is left as it is of a store's replicas, though somebody has accepted the loss.
#[derive(Default)]
struct LeftAlone {
    /// In quarantine, which nobody has accepted.
    quarantined: Vec<GroupId>,
    /// A snapshot was being installed.
    unfinished: Vec<GroupId>,
    /// Nobody can tell what they are.
    damaged: Vec<GroupId>,
}

impl LeftAlone {
    fn why(&self) -> Vec<String> {
        let all = [
            (
                &self.quarantined,
                "in quarantine, and not recovered; a replica on another node is better, and --accept-quarantined takes this one",
            ),
            (
                &self.unfinished,
                "a snapshot was being installed: what is here is not whole, and not recovered; take a replica on another node, or start this \
                 node, which goes on with the install, and stop it again",
            ),
            (
                &self.damaged,
                "what is here can't be read, and is not recovered; only a replica on another node can be",
            ),
        ];
        let told = all.into_iter().filter(|(groups, _)| !groups.is_empty()).map(|(groups, why)| {
            let groups: Vec<String> = groups.iter().map(GroupId::to_string).collect();
            format!("{}: {why}", groups.join(", "))
        });
        told.collect()
    }
}

/// Shows what would be done, or does it.
pub fn run(args: &RecoverArgs, as_json: bool) -> Result<(), Failure> {
    let Outcome { output, left_alone } = crate::runtime::build(1)?.block_on(recover_store(args, as_json))?;
    super::super::print(&output)?;
    if left_alone.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(left_alone.join("; ")))
}

fn number(name: &str, letter: char) -> Result<u64, Failure> {
    let number = name.trim().strip_prefix(letter).and_then(|number| number.parse().ok());
    number.ok_or_else(|| Failure::Usage(format!("{name:?}: {letter}2 is meant")))
}

/// The nodes of the voters; while the membership changes, of those of before and of those of after.
fn halves(survivor: &Survivor) -> Vec<Vec<NodeId>> {
    let nodes =
        |half: &BTreeSet<ReplicaId>| half.iter().filter_map(|id| survivor.voters.get(id)).copied().collect();
    survivor.halves.iter().map(nodes).collect()
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
}

/// A replica, and what speaks against it.
fn described(survivor: &Survivor) -> String {
    let halves: Vec<String> = halves(survivor).iter().map(|half| names(half)).collect();
    let (term, index) = survivor.last;
    let last = format!("last entry: term {} index {}", term.0, index.0);
    let mut text = format!("{}: voters {}; {last}", survivor.group, halves.join(", changing to "));
    // With its vote, or as one who only learnt.
    if !survivor.voters.contains_key(&survivor.replica) {
        text.push_str("; THIS REPLICA HAS NO VOTE, AND MAY BE FAR BEHIND");
    }
    if survivor.quarantined {
        text.push_str("; THIS REPLICA IS IN QUARANTINE: ITS ROWS DIFFERED FROM A MAJORITY'S");
    }
    if survivor.unfinished {
        text.push_str("; THIS REPLICA IS NOT WHOLE: A SNAPSHOT WAS BEING INSTALLED");
    }
    text
}

/// One of which nobody can tell what it is, nor whether its group has lost its majority.
fn told(damaged: &Damaged) -> String {
    let replica = damaged.replica.map_or_else(|| "a replica".to_owned(), |replica| replica.to_string());
    format!("{}: {replica} CAN'T BE READ: {}", damaged.group, crate::exit::chain(&damaged.why))
}

async fn recover_store(args: &RecoverArgs, as_json: bool) -> Result<Outcome, Failure> {
    let lost = args.lost.iter().map(|name| number(name, 'n').map(NodeId));
    let lost = lost.collect::<Result<BTreeSet<NodeId>, Failure>>()?;
    let only = args.group.iter().map(|name| number(name, 'g').map(GroupId));
    let only = only.collect::<Result<BTreeSet<GroupId>, Failure>>()?;
    if !args.store.join("IDENTITY").is_file() {
        return Err(Failure::Usage(format!("{} is no store of a node", args.store.display())));
    }
    let store = Store::open(&args.store, StoreOptions::default(), Seams::real()).map_err(Failure::Store)?;
    let me =
        store.identity().ok_or_else(|| Failure::Refused("the store belongs to no cluster".into()))?.node_id;
    if lost.contains(&me) {
        return Err(Failure::Usage(format!("this is the store of {me}, which is not lost")));
    }
    let Found { survivors: replicas, damaged: unread } = survivors(&store).map_err(Failure::other)?;
    let is_meant = |group: &GroupId| only.is_empty() || only.contains(group);
    let concerned = |s: &&Survivor| s.has_lost_its_majority(&lost) && is_meant(&s.group);
    let stuck: Vec<&Survivor> = replicas.iter().filter(concerned).collect();
    let damaged: Vec<&Damaged> = unread.iter().filter(|damaged| is_meant(&damaged.group)).collect();
    if stuck.is_empty() && damaged.is_empty() && args.accept_data_loss {
        store.log().close();
        let why = "no group here has lost its majority with those nodes: nothing was changed";
        return Err(Failure::Refused(why.into()));
    }
    let is_recovered =
        |s: &Survivor| args.accept_data_loss && !s.unfinished && (!s.quarantined || args.accept_quarantined);
    let mut left = LeftAlone::default();
    let mut text = format!("store of {me}: {} replicas\n", replicas.len() + unread.len());
    for survivor in &stuck {
        text.push_str(&described(survivor));
        if is_recovered(survivor) {
            if survivor.quarantined {
                release(&store, survivor).map_err(Failure::other)?;
            }
            recover(&store, survivor).await.map_err(Failure::other)?;
            text.push_str(&format!("; {} is the only member now", survivor.replica));
        } else if args.accept_data_loss {
            text.push_str("; left as it is");
            match survivor.unfinished {
                true => left.unfinished.push(survivor.group),
                false => left.quarantined.push(survivor.group),
            }
        }
        text.push('\n');
    }
    for damaged in &damaged {
        text.push_str(&told(damaged));
        if args.accept_data_loss {
            text.push_str("; left as it is");
            left.damaged.push(damaged.group);
        }
        text.push('\n');
    }
    if stuck.is_empty() {
        text.push_str("no group here has lost its majority with those nodes\n");
    } else if !args.accept_data_loss {
        text.push_str(
            "WHAT THE LOST NODES HAD ACKNOWLEDGED AND THIS ONE HAD NOT GOT WOULD BE LOST FOR GOOD. Of each group recover one survivor only: \
             that with the highest last entry (the term counts first), of those that are whole and not in quarantine. Nothing was changed; \
             --accept-data-loss does it.\n",
        );
    }
    if stuck.iter().any(|survivor| survivor.group == META_GROUP) {
        text.push_str(META_RECOVERED);
    }
    // Durable: the log's writer has answered.
    store.log().close();
    let group = |s: &&Survivor| {
        let voters: Vec<u64> = s.voters.values().map(|node| node.0).collect();
        let halves: Vec<Vec<u64>> =
            halves(s).iter().map(|half| half.iter().map(|node| node.0).collect()).collect();
        json!({
            "group": s.group.0, "replica": s.replica.0, "voters": voters, "term": s.last.0.0, "index": s.last.1.0,
            "halves": halves, "quarantined": s.quarantined, "unfinished": s.unfinished, "recovered": is_recovered(s),
        })
    };
    let unreadable = |damaged: &&Damaged| {
        json!({
            "group": damaged.group.0, "replica": damaged.replica.map(|replica| replica.0), "why": crate::exit::chain(&damaged.why),
        })
    };
    let output = match as_json {
        true => format!(
            "{:#}\n",
            json!({
                "node": me.0, "recovered": args.accept_data_loss, "groups": stuck.iter().map(group).collect::<Vec<_>>(),
                "damaged": damaged.iter().map(unreadable).collect::<Vec<_>>(),
            })
        ),
        false => text,
    };
    Ok(Outcome { output, left_alone: left.why() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_as_it_is_is_named_with_what_can_be_done() {
        let left = LeftAlone {
            quarantined: vec![GroupId(3)],
            unfinished: vec![GroupId(4), GroupId(5)],
            damaged: vec![GroupId(6)],
        };
        let why = left.why();
        assert_eq!(why.len(), 3, "{why:?}");
        assert!(
            why[0].starts_with("g3: in quarantine") && why[0].contains("--accept-quarantined"),
            "{why:?}"
        );
        assert!(why[1].starts_with("g4, g5: a snapshot was being installed"), "{why:?}");
        assert!(why[2].starts_with("g6: what is here can't be read"), "{why:?}");
        assert!(LeftAlone::default().why().is_empty());
    }
}
