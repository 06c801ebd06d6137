//! What operators want in SQL. `flotilla admin` asks the same of the same; but it waits for what it has begun, and here it is said.

use proto::meta::change_duty::Change;
use proto::meta::{self as pb, DescribeResponse};
use txn::order::Order;

use crate::membership::{self, Choice};
use crate::settings::Settings;
use crate::{Error, MetaClient, duty_name, names};

impl MetaClient {
    /// Begins, or does, what an operator wants; answers what that is.
    pub(crate) async fn carry_out(&self, order: Order) -> Result<String, Error> {
        match order {
            Order::Rebalance => Ok(planned(&self.describe().await?)),
            Order::Move { shard, from, to } => {
                let cluster = self.listed().await?;
                let group = names::group(&cluster, &shard)?;
                self.moved(group, names::node(&cluster, &from)?, names::node(&cluster, &to)?).await
            }
            Order::Split { shard, key } => {
                let group = names::group(&self.listed().await?, &shard)?;
                let key = match key {
                    Some(key) => key,
                    // First of all, so that it is the same however often the cut is tried.
                    None => {
                        let request = pb::SplitRequest { group, key: None, only_choose: true };
                        self.split(request).await?.key
                    }
                };
                let request = pb::SplitRequest { group, key: Some(key), only_choose: false };
                let done = self.split(request).await?;
                let key: String = done.key.iter().map(|byte| format!("{byte:02x}")).collect();
                Ok(format!("g{} begins at \\x{key}", done.group))
            }
            Order::Merge { shard } => {
                let group = names::group(&self.listed().await?, &shard)?;
                let begun = self.merge(pb::MergeRequest { group }).await?;
                Ok(format!("{}: g{group} absorbs g{}", begun.operation, begun.right))
            }
            Order::TransferLeader { shard, node } => {
                let cluster = self.listed().await?;
                let (group, to) = (names::group(&cluster, &shard)?, names::node(&cluster, &node)?);
                let done = self.transfer(pb::TransferRequest { group, to }).await?;
                Ok(format!("g{group} is led by n{}", done.leader))
            }
            Order::Drain { node } => self.duty_changed(&node, Change::Drain, false).await,
            Order::Undrain { node } => self.duty_changed(&node, Change::Undrain, false).await,
            Order::Decommission { node, force } => {
                self.duty_changed(&node, Change::Decommission, force).await
            }
            Order::Recommission { node } => self.duty_changed(&node, Change::Recommission, false).await,
            Order::Repair { node } => {
                let node = match node {
                    Some(name) => names::node(&self.listed().await?, &name)?,
                    None => 0,
                };
                let nodes = self.repair(pb::RepairRequest { node }).await?.nodes;
                let names: Vec<String> = nodes.iter().map(|node| format!("n{node}")).collect();
                Ok(match names.is_empty() {
                    true => "no node is down".to_owned(),
                    false => format!("not awaited any longer: {}", names.join(", ")),
                })
            }
            Order::Set { name, value } => {
                self.change_setting(&name, value.as_deref().unwrap_or_default()).await?;
                Ok(match value {
                    Some(value) => format!("{name} = {value}"),
                    None => format!("{name} has its default"),
                })
            }
            Order::Cancel { operation } => {
                let over = self.cancel(pb::CancelRequest { operation: operation.clone() }).await?.over;
                Ok(match over {
                    true => format!("{operation} is not under way any more"),
                    false => format!("{operation} is cancelled"),
                })
            }
            Order::MetaAdd { node, replacing } => {
                let cluster = self.listed().await?;
                let (node, replacing) = (names::node(&cluster, &node)?, named(&cluster, replacing)?);
                self.replaced(membership::add(&cluster, node, replacing)?).await
            }
            Order::MetaRemove { node, to } => {
                let cluster = self.listed().await?;
                let (node, to) = (names::node(&cluster, &node)?, named(&cluster, to)?);
                self.replaced(membership::remove(&cluster, node, to)?).await
            }
        }
    }

    /// Nodes and groups, without what placement would do with them.
    async fn listed(&self) -> Result<DescribeResponse, Error> {
        self.describe_as(pb::DescribeRequest { without_plan: true }).await
    }

    async fn moved(&self, group: u64, from: u64, to: u64) -> Result<String, Error> {
        let id = self.begin_move(pb::MoveRequest { group, from, to }).await?.operation;
        Ok(match id.is_empty() {
            true => format!("g{group} has moved from n{from} to n{to}"),
            false => format!("{id}: g{group} moves from n{from} to n{to}"),
        })
    }

    async fn replaced(&self, choice: Choice) -> Result<String, Error> {
        match choice {
            Choice::Move(from, to) => self.moved(storage::ids::META_GROUP.0, from, to).await,
            Choice::Already(node, what) => Ok(format!("n{node} {what} of the meta-group")),
        }
    }

    async fn duty_changed(&self, node: &str, change: Change, force: bool) -> Result<String, Error> {
        let node = names::node(&self.listed().await?, node)?;
        let request = pb::ChangeDutyRequest { node, change: change.into(), force };
        let duty = self.change_duty(request).await?.duty();
        Ok(format!("n{node} is {}", duty_name(duty)))
    }
}

fn named(cluster: &DescribeResponse, name: Option<String>) -> Result<Option<u64>, Error> {
    name.map(|name| names::node(cluster, &name)).transpose()
}

/// Placement needs no order to go on.
fn planned(cluster: &DescribeResponse) -> String {
    let plan = cluster.plan.clone().unwrap_or_default();
    let going = cluster.operations.iter().filter(|operation| operation.kind != "drain").count();
    let off = !Settings::new(cluster.settings.clone().unwrap_or_default()).rebalance();
    let hint =
        if off { "; the setting rebalance is off: nothing is moved for the sake of evenness" } else { "" };
    format!(
        "{going} steps under way, {} to be taken next; each node has: {}{hint}",
        plan.steps.len(),
        plan.before
    )
}
