//! `flotilla debug recover`: with a node stopped, and nothing else left.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use raft::recover::{Survivor, recover, survivors};
use serde_json::json;
use storage::ids::{GroupId, NodeId};
use storage::seam::Seams;
use storage::{Store, StoreOptions};

use crate::exit::Failure;

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
}

/// Shows what would be done, or does it.
pub fn run(args: &RecoverArgs, as_json: bool) -> Result<(), Failure> {
    let output = crate::runtime::build(1)?.block_on(recover_store(args, as_json))?;
    super::super::print(&output)
}

fn number(name: &str, letter: char) -> Result<u64, Failure> {
    let number = name.trim().strip_prefix(letter).and_then(|number| number.parse().ok());
    number.ok_or_else(|| Failure::Usage(format!("{name:?}: {letter}2 is meant")))
}

async fn recover_store(args: &RecoverArgs, as_json: bool) -> Result<String, Failure> {
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
    let replicas = survivors(&store).map_err(Failure::other)?;
    let concerned =
        |s: &&Survivor| s.has_lost_its_majority(&lost) && (only.is_empty() || only.contains(&s.group));
    let stuck: Vec<&Survivor> = replicas.iter().filter(concerned).collect();
    let mut text = format!("store of {me}: {} replicas\n", replicas.len());
    for survivor in &stuck {
        let voters: Vec<String> = survivor.voters.values().map(NodeId::to_string).collect();
        let (term, index) = survivor.last;
        let last = format!("last entry: term {} index {}", term.0, index.0);
        text.push_str(&format!("{}: voters {}; {last}", survivor.group, voters.join(" ")));
        // With its vote, or as one who only learnt.
        if !survivor.voters.contains_key(&survivor.replica) {
            text.push_str("; THIS REPLICA HAS NO VOTE, AND MAY BE FAR BEHIND");
        }
        if args.accept_data_loss {
            recover(&store, survivor).await.map_err(Failure::other)?;
            text.push_str(&format!("; {} is the only member now", survivor.replica));
        }
        text.push('\n');
    }
    if stuck.is_empty() {
        text.push_str("no group here has lost its majority with those nodes\n");
    } else if !args.accept_data_loss {
        text.push_str(
            "WHAT THE LOST NODES HAD ACKNOWLEDGED AND THIS ONE HAD NOT GOT WOULD BE LOST FOR GOOD. Of each group recover one survivor only: \
             that with the highest last entry (the term counts first). Nothing was changed; --accept-data-loss does it.\n",
        );
    }
    // Durable: the log's writer has answered.
    store.log().close();
    let group = |s: &&Survivor| {
        let voters: Vec<u64> = s.voters.values().map(|node| node.0).collect();
        json!({ "group": s.group.0, "replica": s.replica.0, "voters": voters, "term": s.last.0.0, "index": s.last.1.0 })
    };
    Ok(match as_json {
        true => format!(
            "{:#}\n",
            json!({ "node": me.0, "recovered": args.accept_data_loss, "groups": stuck.iter().map(group).collect::<Vec<_>>() })
        ),
        false => text,
    })
}
