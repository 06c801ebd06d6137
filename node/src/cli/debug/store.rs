//! `flotilla debug store`.

use raft::inspect::{self, StoredReplica};
use serde_json::{Value as Json, json};
use storage::inspect::{Inspection, Tables};

use super::or_dash;
use crate::cli::admin;
use crate::exit::Failure;

/// The whole store on a page.
pub(super) fn run(files: &Inspection, as_json: bool) -> Result<String, Failure> {
    let [log, state] = files.tables().map_err(Failure::Store)?;
    let identity = files.identity().map_err(Failure::Store)?;
    let mut replicas = Vec::new();
    for group in files.groups().map_err(Failure::Store)? {
        replicas.push((
            group,
            inspect::replica(files, group).map_err(|error| super::unreadable(files, group, &error))?,
        ));
    }
    if as_json {
        let replicas: Vec<Json> = replicas
            .iter()
            .map(|(group, replica)| {
                let mut entry = json(replica);
                entry["group"] = json!(group.0);
                entry
            })
            .collect();
        return Ok(admin::pretty(&json!({
            "format": files.format(),
            "cluster": identity.map(|identity| format!("{:032x}", identity.cluster_id)),
            "node": identity.map(|identity| identity.node_id.0),
            "log": tables(&log),
            "state": tables(&state),
            "groups": replicas,
        })));
    }
    let mut text = format!("{}: format {}, ", files.dir().display(), files.format());
    text.push_str(&match identity {
        Some(identity) => format!("{} of cluster {:032x}\n\n", identity.node_id, identity.cluster_id),
        None => "of no cluster yet\n\n".to_owned(),
    });
    let mut table = admin::table(&["DATABASE", "FAMILY", "TABLES", "BYTES", "ENTRIES"]);
    for (database, tables) in [("log", &log), ("state", &state)] {
        for of in tables {
            let numbers = [of.files.to_string(), of.bytes.to_string(), of.entries.to_string()];
            table.add_row([&[database.to_owned(), of.family.clone()][..], &numbers[..]].concat());
        }
    }
    text.push_str(&admin::rendered(table));
    text.push('\n');
    let mut table =
        admin::table(&["GROUP", "REPLICA", "TERM", "PURGED", "LAST", "COMMITTED", "APPLIED", "MEMBERS"]);
    for (group, replica) in &replicas {
        table.add_row([
            group.to_string(),
            or_dash(replica.replica.as_ref()),
            or_dash(replica.vote.as_ref().map(|(term, ..)| term)),
            or_dash(replica.purged.as_ref()),
            or_dash(replica.last.as_ref()),
            or_dash(replica.committed.as_ref()),
            or_dash(replica.applied.as_ref()),
            replica.members.clone(),
        ]);
    }
    text.push_str(&admin::rendered(table));
    Ok(text)
}

/// A replica for programs.
pub(super) fn json(replica: &StoredReplica) -> Json {
    let place = |place: Option<inspect::Place>| {
        place.map(|place| json!({ "term": place.term.0, "index": place.index.0 }))
    };
    let vote = replica.vote.map(
        |(term, replica, leads)| json!({ "term": term.0, "replica": replica.0, "known_to_lead": leads }),
    );
    json!({
        "replica": replica.replica.map(|id| id.0),
        "leaving": replica.leaving,
        "vote": vote,
        "purged": place(replica.purged),
        "last": place(replica.last),
        "committed": place(replica.committed),
        "applied": place(replica.applied),
        "members": replica.members,
        "removed": replica.removed.map(|id| id.0),
    })
}

fn tables(tables: &[Tables]) -> Json {
    let line = |of: &Tables| json!({ "family": of.family, "tables": of.files, "bytes": of.bytes, "entries": of.entries });
    tables.iter().map(line).collect()
}
