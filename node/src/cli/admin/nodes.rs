//! `flotilla admin nodes`.

use proto::meta::{DescribeResponse, NodeDuty};
use serde_json::json;

use super::duty::duty;

/// The nodes.
pub fn print(cluster: &DescribeResponse, as_json: bool) -> String {
    if as_json {
        let nodes = cluster.nodes.iter().map(|node| {
            let addresses = node.addresses.clone().unwrap_or_default();
            let facts = node.facts.clone().unwrap_or_default();
            json!({
                "id": node.id, "alive": node.alive, "duty": duty(node), "silent_ms": node.silent_ms, "sql": addresses.sql,
                "rpc": addresses.rpc, "http": addresses.http, "replicas": node.replicas, "leaders": node.leaders,
                "sessions": facts.sessions, "locality": facts.locality, "disk_bytes": facts.capacity_bytes, "disk_used_bytes": facts.used_bytes,
            })
        });
        return super::pretty(&nodes.collect());
    }
    let mut table = super::table(&[
        "NODE",
        "STATE",
        "LAST HEARD",
        "SQL",
        "RPC",
        "HTTP",
        "REPLICAS",
        "LEADERS",
        "LOCALITY",
    ]);
    for node in &cluster.nodes {
        let addresses = node.addresses.clone().unwrap_or_default();
        let locality = node.facts.clone().unwrap_or_default().locality;
        let heard = node.silent_ms.map_or("never".to_owned(), |ms| format!("{:.1} s ago", ms as f64 / 1e3));
        let state = match (node.alive, node.duty()) {
            (true, NodeDuty::NodeActive) => "alive".to_owned(),
            (true, _) => duty(node).to_owned(),
            (false, NodeDuty::NodeActive) => "dead".to_owned(),
            (false, NodeDuty::NodeDecommissioned) => "decommissioned, gone".to_owned(),
            (false, _) => format!("{}, dead", duty(node)),
        };
        let (replicas, leaders) = (node.replicas.to_string(), node.leaders.to_string());
        let id = format!("n{}", node.id);
        table.add_row([
            &id,
            &state,
            &heard,
            &addresses.sql,
            &addresses.rpc,
            &addresses.http,
            &replicas,
            &leaders,
            &locality,
        ]);
    }
    super::rendered(table)
}
