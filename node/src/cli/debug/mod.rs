//! `flotilla debug`: what is in a stopped node's files.
//!
//! Everything here but `recover` opens the store for reading only ([`storage::inspect`]), so that a store that a node refuses to serve
//! can be looked at as well: what is damaged is told when it is read (exit status 5). A node that runs has its store locked: exit
//! status 4, as with a store of a format that this version doesn't read.

mod group;
mod log;
mod recover;
mod store;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use raft::Fatal;
use storage::ids::GroupId;
use storage::inspect::Inspection;

use super::admin::names;
use crate::exit::{self, Failure};

/// Arguments of `flotilla debug`.
#[derive(Args)]
pub struct DebugArgs {
    #[command(subcommand)]
    command: Debug,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Debug {
    /// Whose store it is, its files, and how far each group is
    Store(Place),
    /// The entries of a group's log
    Log(log::LogArgs),
    /// A replica: vote, ends of its log, members, key range, and a digest of its rows, to be compared with another replica's
    Group(group::GroupArgs),
    /// LOSES DATA: make this node's replicas the only members of groups that have lost their majority for good
    ///
    /// The node is stopped; the nodes named in --lost never come back. Without --accept-data-loss it only shows what it would
    /// do. Whatever the lost nodes had acknowledged and this one had not got is gone; transactions over several shards may be
    /// there by halves. Where several survivors have a replica of one group, recover it on the one whose last entry is the
    /// highest (the term counts first), and on no other: --group says which. A replica in quarantine differed from the others:
    /// it is left alone (exit status 6, the others are recovered all the same) unless --accept-quarantined says that there is
    /// nothing better. So are one into which a snapshot was being installed (start the node once more: that goes on with it) and one that
    /// can't be read; nothing accepts those. Where no group has lost its majority it is refused (exit status 6, too). Wipe the stores of the lost nodes
    /// before they are used again.
    Recover(recover::RecoverArgs),
}

/// Where to look.
#[derive(Args)]
struct Place {
    /// The node's store: what `flotilla start --store` was given
    store: PathBuf,
}

impl Place {
    fn open(&self) -> Result<Inspection, Failure> {
        Inspection::open(&self.store).map_err(Failure::Store)
    }
}

/// Looks and prints.
pub fn run(args: DebugArgs) -> Result<(), Failure> {
    match &args.command {
        Debug::Store(place) => {
            let files = place.open()?;
            super::print(&store::run(&files, args.json)?)?;
            shown(&files)
        }
        Debug::Log(log) => log::run(log, args.json),
        Debug::Group(group) => group::run(group, args.json),
        Debug::Recover(recover) => recover::run(recover, args.json),
    }
}

/// The group that an operator names, if there is anything of it.
fn group(files: &Inspection, name: &str) -> Result<GroupId, Failure> {
    let groups = files.groups().map_err(Failure::Store)?;
    let number = names::group_number(name).map(GroupId);
    number.filter(|group| groups.contains(group)).ok_or_else(|| {
        let known: Vec<String> = groups.iter().map(GroupId::to_string).collect();
        Failure::Usage(format!("there is no group {name:?} in this store; there are {}", known.join(", ")))
    })
}

/// What there is was shown. Where a log is damaged that is not all there was.
fn shown(files: &Inspection) -> Result<(), Failure> {
    files.damage().map_or(Ok(()), |error| Err(Failure::Store(error.clone())))
}

/// What is of a group in these files can't be read.
fn unreadable(files: &Inspection, group: GroupId, error: &Fatal) -> Failure {
    match error.of_storage() {
        Some(error) => Failure::Store(error.clone()),
        None => {
            let store = files.dir().display();
            Failure::Damaged(format!(
                "{store}: what it has of {group} cannot be read: {}",
                exit::chain(error)
            ))
        }
    }
}

/// `-` for what is not there.
fn or_dash<T: std::fmt::Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), T::to_string)
}
