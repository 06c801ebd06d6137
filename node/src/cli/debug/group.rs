//! `flotilla debug group`.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;
use raft::inspect;
use serde_json::{Value as Json, json};
use storage::Cf;
use storage::digest::{Digest, Digester};
use storage::ids::GroupId;
use storage::inspect::Inspection;

use super::{Place, or_dash};
use crate::cli::admin::names::META_GROUP;
use crate::cli::admin::{self, shards};
use crate::exit::Failure;

/// So much is read between two signs of progress.
const STEP_BYTES: u64 = 64 << 20;

/// Arguments of `flotilla debug group`.
#[derive(Args)]
pub(super) struct GroupArgs {
    #[command(flatten)]
    place: Place,
    /// g3, or meta
    group: String,
    /// Do not read the rows
    #[arg(long)]
    no_digest: bool,
}

/// Prints it.
pub(super) fn run(args: &GroupArgs, as_json: bool) -> Result<(), Failure> {
    let files = args.place.open()?;
    crate::cli::print(&page(&files, args, as_json)?)?;
    super::shown(&files)
}

/// A replica on a page.
fn page(files: &Inspection, args: &GroupArgs, as_json: bool) -> Result<String, Failure> {
    let group = super::group(files, &args.group)?;
    let unreadable = |error: raft::Fatal| super::unreadable(files, group, &error);
    let replica = inspect::replica(files, group).map_err(unreadable)?;
    let engine = files.engine();
    let meta = group.0 == META_GROUP;
    let descriptor = match meta {
        true => None,
        false => txn::shard::load_descriptor(engine, group).map_err(unreadable)?,
    };
    let safe_point = match meta {
        true => None,
        false => Some(txn::shard::load_safe_point(engine, group).map_err(unreadable)?),
    };
    let spans = txn::shard::spans(group, descriptor.as_ref());
    let digests = match args.no_digest {
        true => None,
        false => Some(digest(files, group, &spans)?),
    };
    if as_json {
        let mut page = super::store::json(&replica);
        page["group"] = json!(group.0);
        page["descriptor"] = json!(descriptor.as_ref().map(|d| json!({
            "start": hex::encode(&d.range.start), "end": hex::encode(&d.range.end), "epoch": d.epoch.0,
        })));
        page["safe_point"] = json!(safe_point.map(|at| at.0));
        page["rows"] = json!(digests.as_ref().map(|digests| {
            let line = |(cf, digest): (Cf, &Digest)| {
                json!({ "family": cf.name(), "rows": digest.rows, "bytes": digest.bytes, "sha256": hex::encode(digest.hash) })
            };
            Cf::ALL.into_iter().zip(digests).map(line).collect::<Vec<Json>>()
        }));
        return Ok(admin::pretty(&page));
    }
    let leaving = if replica.leaving { ", being removed" } else { "" };
    let which = format!("{}{leaving}", or_dash(replica.replica.as_ref()));
    let mut page = vec![("replica", which), ("members", replica.members.clone())];
    if let Some((term, voted_for, leads)) = replica.vote {
        let known = if leads { ", which leads" } else { "" };
        page.push(("vote", format!("{term}, for {voted_for}{known}")));
    }
    page.push((
        "log",
        format!("after {} to {}", or_dash(replica.purged.as_ref()), or_dash(replica.last.as_ref())),
    ));
    page.push(("committed", or_dash(replica.committed.as_ref())));
    page.push((
        "applied",
        format!("{} (flushed; the rest is applied again)", or_dash(replica.applied.as_ref())),
    ));
    if let Some(removed) = replica.removed {
        page.push(("removed", removed.to_string()));
    }
    if let Some(d) = &descriptor {
        let (start, end) = (shards::key(&d.range.start, "-∞"), shards::key(&d.range.end, "∞"));
        page.push(("range", format!("{start} to {end}, epoch {}", d.epoch)));
    }
    if let Some(at) = safe_point {
        page.push(("safe point", at.to_string()));
    }
    for (cf, digest) in Cf::ALL.into_iter().zip(digests.iter().flatten()) {
        let hash = hex::encode(&digest.hash[..8]);
        page.push((cf.name(), format!("{} rows, {} bytes, sha256 {hash}…", digest.rows, digest.bytes)));
    }
    Ok(page.iter().map(|(name, value)| format!("{name:<11} {value}\n")).collect())
}

/// Reads all rows, and says on a terminal how far it is.
fn digest(
    files: &Inspection,
    group: GroupId,
    spans: &[(Cf, storage::ids::KeyRange)],
) -> Result<[Digest; Cf::ALL.len()], Failure> {
    let mut digester = Digester::new(files.engine().snapshot(), spans);
    let (mut read, mut shown) = (0, false);
    while let Some(bytes) = digester.step(STEP_BYTES).map_err(Failure::Store)? {
        read += bytes;
        if std::io::stderr().is_terminal() && bytes >= STEP_BYTES {
            // Progress is no result: where it can't be written, nothing is lost.
            let _ = write!(std::io::stderr(), "\r{group}: {} MiB read", read >> 20);
            shown = true;
        }
    }
    if shown {
        let _ = writeln!(std::io::stderr());
    }
    Ok(digester.finish())
}
