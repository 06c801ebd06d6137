//! Faults that are none: what operators do, while clients work and other things break.
//!
//! A command that the cluster refuses (it is in trouble, there is no free node) is no trouble of the harness, but no fault either:
//! [`Harm`] says so. What counts is that clients notice nothing of those that it takes.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value as Json;

use super::Harm;
use crate::cluster::Cluster;
use crate::run::sleep;

/// How often it is tried to undo something, while nobody takes it.
const HEAL_TRIES: usize = 20;
const HEAL_PAUSE: Duration = Duration::from_millis(500);

/// So long a new leader takes at most until it serves and is known, if nothing is in its way.
const LEADERS_SETTLE: Duration = Duration::from_millis(600);
/// How often it is tried to make a node lead everything.
const LEAD_TRIES: usize = 5;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The victim is made to lead what it can.
    Transfer,
    /// … everything that it has, for as long as it lasts: placement does not spread leaders meanwhile.
    LeadAll,
    /// The victim gives its replica of some shard to a node that has none.
    Move,
    /// All shards of the victim move at once, and it leads nothing: it is decommissioned, and kept in the end.
    Leave,
    /// It is drained, as before a restart, and serves again in the end.
    Drain,
    /// A shard is cut in two, and nobody puts it together again (unless [`Change::Merge`] does).
    Split,
    /// A shard absorbs its right neighbour.
    Merge,
    /// The victim is no member of the meta-group any more; or it becomes one, if it was none.
    MetaMember,
    /// A new node joins, everything moves off the victim, and it goes for good.
    Replace,
}

/// Does it.
pub async fn harm(cluster: &Cluster, victim: usize, change: Change, dice: u64) -> Result<Harm> {
    let node = match cluster.id(victim).await {
        Ok(node) => node,
        Err(error) => return Ok(Harm::Refused(format!("{error:#}"))),
    };
    let name = format!("n{node}");
    let refused = |why: &str| Ok(Harm::Refused(why.to_owned()));
    Ok(match change {
        Change::Leave => refusable(cluster, &["decommission", &name, "--no-wait"]).await,
        Change::Drain => refusable(cluster, &["drain", &name, "--no-wait"]).await,
        Change::Transfer => transfer(cluster, node).await?.harm(),
        Change::LeadAll => {
            let off = refusable(cluster, &["settings", "set", "rebalance", "off"]).await;
            if off != Harm::Done {
                return Ok(off);
            }
            let mut harm = Harm::Refused("it leads all that it has".to_owned());
            // What `shards` says of leaders is not of this moment.
            for _ in 0..LEAD_TRIES {
                let transfers = transfer(cluster, node).await?;
                sleep(LEADERS_SETTLE).await;
                if transfers.to_go == 0 {
                    break;
                }
                harm = transfers.harm().and(harm);
            }
            harm
        }
        Change::Split => match pick(&data_shards(cluster).await?, dice) {
            Some(shard) => refusable(cluster, &["split", &group(shard)?]).await,
            None => return refused("there is no shard"),
        },
        Change::Merge => {
            let data = data_shards(cluster).await?;
            // (The last one has no right neighbour.)
            match data.split_last().and_then(|(_, before)| pick(before, dice)) {
                Some(shard) => refusable(cluster, &["merge", &group(shard)?, "--no-wait"]).await,
                None => return refused("no shard has a right neighbour"),
            }
        }
        Change::Move => {
            let held: Vec<Json> =
                shards(cluster).await?.into_iter().filter(|s| voters(s).any(|voter| voter == node)).collect();
            let Some(shard) = pick(&held, dice) else { return refused("it has no replica") };
            let free: Vec<u64> =
                cluster.ids().await?.into_iter().filter(|id| voters(shard).all(|v| v != *id)).collect();
            if free.is_empty() {
                return refused("all nodes have one");
            }
            let to = format!("n{}", free[(dice >> 32) as usize % free.len()]);
            refusable(cluster, &["move", &group(shard)?, "--from", &name, "--to", &to, "--no-wait"]).await
        }
        Change::MetaMember => {
            let shards = cluster.operate(&["shards"]).await.unwrap_or_default();
            let meta = shards.as_array().into_iter().flatten().find(|shard| shard["start"].is_null());
            let Some(meta) = meta else { return refused("nobody knows the meta-group") };
            let deed = if voters(meta).any(|voter| voter == node) { "remove" } else { "add" };
            refusable(cluster, &["meta", deed, &name, "--no-wait"]).await
        }
        Change::Replace => cluster.replace(victim).await?,
    })
}

/// Undoes it.
pub async fn heal(cluster: &Cluster, victim: usize, change: Change) -> Result<()> {
    let undo: &[&str] = match change {
        Change::Leave => &["recommission"],
        Change::Drain => &["undrain"],
        Change::LeadAll => &["settings", "set", "rebalance", "on"],
        // (A merge that can't come to its end yet is not to stand in the way of the next one for ever: it ends by itself.)
        Change::Transfer | Change::Move | Change::Split | Change::Merge => return Ok(()),
        Change::MetaMember | Change::Replace => return Ok(()),
    };
    // Other faults may be under way.
    let mut tries = 0;
    loop {
        let undone = async {
            if change == Change::LeadAll {
                return cluster.operate(undo).await;
            }
            let name = format!("n{}", cluster.id(victim).await?);
            cluster.operate(&[undo, &[&name, "--no-wait"]].concat()).await
        };
        match undone.await {
            Ok(_) => return Ok(()),
            Err(error) if tries >= HEAL_TRIES => return Err(error),
            Err(_) => tries += 1,
        }
        sleep(HEAL_PAUSE).await;
    }
}

/// What came of making a node lead all that it has.
#[derive(Clone, Copy, Debug, Default)]
struct Transfers {
    /// Shards that others led.
    to_go: usize,
    /// … and that were given to it.
    taken: usize,
}

impl Transfers {
    fn harm(self) -> Harm {
        match self.taken {
            0 => Harm::Refused(format!("none of {} shards is given to it", self.to_go)),
            _ => Harm::Done,
        }
    }
}

async fn transfer(cluster: &Cluster, node: u64) -> Result<Transfers> {
    let mut transfers = Transfers::default();
    for shard in shards(cluster).await? {
        if shard["leader"] != node && voters(&shard).any(|voter| voter == node) {
            transfers.to_go += 1;
            let asked = refusable(cluster, &["transfer-leader", &group(&shard)?, &format!("n{node}")]).await;
            transfers.taken += usize::from(asked == Harm::Done);
        }
    }
    Ok(transfers)
}

async fn refusable(cluster: &Cluster, arguments: &[&str]) -> Harm {
    match cluster.operate(arguments).await {
        Ok(_) => Harm::Done,
        // See the module.
        Err(error) => Harm::Refused(format!("{error:#}")),
    }
}

async fn shards(cluster: &Cluster) -> Result<Vec<Json>> {
    // While nobody answers, there is nothing to be moved.
    let shards = cluster.operate(&["shards"]).await.unwrap_or_default();
    Ok(shards.as_array().cloned().unwrap_or_default())
}

/// All but the meta-group and the system's, in the order of their keys.
async fn data_shards(cluster: &Cluster) -> Result<Vec<Json>> {
    let mut shards = shards(cluster).await?;
    shards.retain(|shard| shard["start"].as_str().is_some_and(|start| !start.is_empty()));
    Ok(shards)
}

fn pick(shards: &[Json], dice: u64) -> Option<&Json> {
    shards.get(dice as usize % shards.len().max(1))
}

fn group(shard: &Json) -> Result<String> {
    Ok(format!("g{}", shard["group"].as_u64().context("a shard has a group")?))
}

fn voters(shard: &Json) -> impl Iterator<Item = u64> + '_ {
    let replicas = shard["replicas"].as_array().into_iter().flatten();
    replicas.filter(|r| r["voter"] == Json::Bool(true)).filter_map(|r| r["node"].as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_given_nothing_leads_no_more_than_before() {
        assert_eq!(Transfers { to_go: 3, taken: 1 }.harm(), Harm::Done);
        assert!(matches!(Transfers { to_go: 3, taken: 0 }.harm(), Harm::Refused(_)));
        assert!(matches!(Transfers::default().harm(), Harm::Refused(_)));
    }
}
