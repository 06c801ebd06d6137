//! raft
mod api;
mod blocking;
mod checkpoint;
mod fault;
mod group;
mod keys;
mod log_store;
mod multi;
mod options;
mod snapshot;
mod state_machine;
mod transport;
mod types;

pub use api::{
    AddressBook, Applied, ChangeError, Error, Expected, Fatal, GroupStatus, NotLeader, Peer, Progress,
    ProposeError, Role, StateMachine, StateMachineFactory, UnknownReplica,
};
pub use group::Group;
pub use keys::{private_key, private_keys};
pub use multi::MultiRaft;
pub use options::RaftOptions;
pub use transport::server::{Endpoint, Mount};
