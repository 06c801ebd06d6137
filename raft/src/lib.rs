//! raft
mod api;
mod group;
mod keys;
mod multi;
mod options;
mod types;

pub use api::{
    AddressBook, Applied, ChangeError, Error, Expected, Fatal, GroupStatus, NotLeader, Peer, Progress,
    ProposeError, Role, StateMachine, StateMachineFactory, UnknownReplica,
};
pub use group::Group;
pub use keys::{private_key, private_keys};
pub use multi::MultiRaft;
pub use options::RaftOptions;
