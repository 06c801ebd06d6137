//! The strengths of row locks, as PostgreSQL has them (13.3.2, "Row-Level Locks").

use proto::shard as pb;

use crate::Error;

/// How strongly a row is locked. Each one excludes what the weaker ones exclude, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockMode {
    /// The row's key stays: `FOR KEY SHARE`.
    KeyShare,
    /// The row stays as it is: `FOR SHARE`.
    Share,
    /// It will be changed, but not its key: `FOR NO KEY UPDATE`, UPDATE.
    NoKeyUpdate,
    /// It will be deleted, or its key changed: `FOR UPDATE`, DELETE.
    Update,
}

impl LockMode {
    /// Whether two transactions cannot hold a row with these at once.
    pub fn conflicts(self, other: Self) -> bool {
        use LockMode::{KeyShare, NoKeyUpdate, Share, Update};
        match (self.min(other), self.max(other)) {
            (KeyShare, stronger) => stronger == Update,
            (Share, stronger) => stronger >= NoKeyUpdate,
            (NoKeyUpdate | Update, _) => true,
        }
    }

    /// As a message has it.
    pub fn to_pb(self) -> pb::LockStrength {
        match self {
            LockMode::KeyShare => pb::LockStrength::LockKeyShare,
            LockMode::Share => pb::LockStrength::LockShare,
            LockMode::NoKeyUpdate => pb::LockStrength::LockNoKeyUpdate,
            LockMode::Update => pb::LockStrength::LockUpdate,
        }
    }

    /// From a message.
    pub fn from_pb(mode: pb::LockStrength) -> Result<Self, Error> {
        Ok(match mode {
            pb::LockStrength::LockKeyShare => LockMode::KeyShare,
            pb::LockStrength::LockShare => LockMode::Share,
            pb::LockStrength::LockNoKeyUpdate => LockMode::NoKeyUpdate,
            pb::LockStrength::LockUpdate => LockMode::Update,
            pb::LockStrength::LockUnspecified => {
                return Err(Error::Invalid("a lock without a strength".to_owned()));
            }
        })
    }
}
