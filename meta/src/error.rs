//! What can go wrong, and what to do about it.

use prost::Message;
use proto::meta::Redirect;
use tonic::{Code, Status};

/// An error of the meta layer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// This node does not lead the meta-group: ask there. Retry.
    #[error("this node does not lead the meta-group")]
    NotLeader(Redirect),
    /// The node belongs to no cluster yet. Retry later.
    #[error("the node does not belong to a cluster yet: run `flotilla init` on one node")]
    NotInitialised,
    /// Nobody answered in time, or there is no majority. Retry.
    #[error("the meta-group is unavailable: {0}")]
    Unavailable(String),
    /// Every repetition would be refused too.
    #[error("{0}")]
    Rejected(String),
    /// Fatal: what is on disk does not decode.
    #[error("the meta-group's state is damaged: {0}")]
    Corrupt(String),
    /// Fatal: the local store failed.
    #[error("the meta-group's store failed")]
    Storage(#[from] storage::Error),
}

impl Error {
    /// Whether another node, or the same a little later, may answer.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Error::NotLeader(_) | Error::NotInitialised | Error::Unavailable(_))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let message = error.to_string();
        match error {
            Error::NotLeader(redirect) => {
                Status::with_details(Code::Unavailable, message, redirect.encode_to_vec().into())
            }
            Error::NotInitialised => Status::failed_precondition(message),
            Error::Unavailable(_) => Status::unavailable(message),
            Error::Rejected(_) => Status::invalid_argument(message),
            Error::Corrupt(_) | Error::Storage(_) => Status::data_loss(message),
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        match status.code() {
            Code::Unavailable if !status.details().is_empty() => Redirect::decode(status.details())
                .map_or_else(|_| Error::Unavailable(status.message().to_owned()), Error::NotLeader),
            Code::FailedPrecondition => Error::NotInitialised,
            Code::InvalidArgument | Code::AlreadyExists => Error::Rejected(status.message().to_owned()),
            _ => Error::Unavailable(status.message().to_owned()),
        }
    }
}

impl From<Error> for txn::Error {
    fn from(error: Error) -> txn::Error {
        match error {
            Error::Corrupt(why) => txn::Error::Corruption(why),
            Error::Rejected(why) => txn::Error::Internal(why),
            other => txn::Error::Unavailable(other.to_string()),
        }
    }
}
