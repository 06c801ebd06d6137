//! `flotilla debug log`: entries, one a line, as they are read. Commands are shown expanded: "4096 bytes in 512" takes 512 in the log.

use std::io::Write as _;

use clap::Args;
use prost::Message as _;
use raft::inspect::{self, Content, StoredEntry};
use serde_json::json;
use storage::ids::LogIndex;

use super::Place;
use crate::cli::admin::names::META_GROUP;
use crate::exit::Failure;

/// So much of an entry is shown in a line.
const WIDTH: usize = 160;

/// Arguments of `flotilla debug log`.
#[derive(Args)]
pub(super) struct LogArgs {
    #[command(flatten)]
    place: Place,
    /// g3, or meta
    group: String,
    /// The first index
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many entries
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// Show commands in full
    #[arg(long)]
    full: bool,
}

/// Prints as it reads: logs are long.
pub(super) fn run(args: &LogArgs, as_json: bool) -> Result<(), Failure> {
    let files = args.place.open()?;
    let group = super::group(&files, &args.group)?;
    let mut left = args.limit;
    let mut failure = None;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut show = |_, bytes| {
        if left == 0 {
            return false;
        }
        left -= 1;
        let line = match inspect::entry(bytes) {
            Ok(entry) if as_json => as_line(&entry, group.0 == META_GROUP),
            Ok(entry) => text(&entry, group.0 == META_GROUP, args.full),
            Err(error) => {
                failure = Some(super::unreadable(&files, group, &error));
                return false;
            }
        };
        match writeln!(out, "{line}") {
            // A pager that was closed has seen enough.
            Err(error) => {
                failure = (error.kind() != std::io::ErrorKind::BrokenPipe).then(|| Failure::other(error));
                false
            }
            Ok(()) => true,
        }
    };
    files.entries(group, LogIndex(args.from), &mut show).map_err(Failure::Store)?;
    if let Err(error) = out.flush()
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(Failure::other(error));
    }
    failure.map_or_else(|| super::shown(&files), Err)
}

fn text(entry: &StoredEntry, meta: bool, full: bool) -> String {
    let content = match &entry.content {
        Content::Blank => "(a leader begins)".to_owned(),
        Content::Members(members) => format!("members {members}"),
        Content::Command { bytes, compressed } => {
            let mut shown = command(bytes, meta);
            if !full && shown.len() > WIDTH {
                shown.truncate(shown.floor_char_boundary(WIDTH));
                shown.push('…');
            }
            let compressed = compressed.map_or_else(String::new, |stored| format!(" in {stored}"));
            format!("{} bytes{compressed}  {shown}", bytes.len())
        }
    };
    format!("{}  {content}", entry.place)
}

fn as_line(entry: &StoredEntry, meta: bool) -> String {
    let (kind, content, bytes, compressed) = match &entry.content {
        Content::Blank => ("blank", None, 0, None),
        Content::Members(members) => ("members", Some(members.clone()), 0, None),
        Content::Command { bytes, compressed } => {
            ("command", Some(command(bytes, meta)), bytes.len(), *compressed)
        }
    };
    let (term, index) = (entry.place.term.0, entry.place.index.0);
    json!({
        "term": term, "index": index, "kind": kind, "bytes": bytes, "compressed_bytes": compressed, "content": content,
    })
    .to_string()
}

/// A command of the meta-group, or of a shard, as the fields of its message.
fn command(bytes: &[u8], meta: bool) -> String {
    let shown = match meta {
        true => proto::meta::Command::decode(bytes).map(|c| c.command.map(|command| format!("{command:?}"))),
        false => proto::shard::Command::decode(bytes).map(|c| match (c.effect, c.closed) {
            (Some(effect), _) => Some(format!("{effect:?}")),
            (None, 0) => None,
            (None, closed) => Some(format!("Closed({})", storage::ids::Timestamp(closed))),
        }),
    };
    match shown {
        Ok(shown) => shown.unwrap_or_else(|| "(nothing that this version knows)".to_owned()),
        Err(error) => format!("(does not decode: {error})"),
    }
}
