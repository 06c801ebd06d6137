//! The client's side of what operators want: passed on to whoever leads.

use futures::FutureExt;
use proto::meta as pb;
use std::time::Duration;
use storage::ids::KeyRange;

use crate::client::{CALL_LIMIT, Target};
use crate::{Error, MetaClient};

/// A transfer waits for its group to be free, and for the new leader.
const TRANSFER_LIMIT: Duration = Duration::from_secs(12);
/// A split waits for its group to be free, and for what is in flight.
const RESHAPE_LIMIT: Duration = Duration::from_secs(14);

impl MetaClient {
    /// Everything that an operator may want to see, or what of it is cheap.
    pub async fn describe_as(&self, request: pb::DescribeRequest) -> Result<pb::DescribeResponse, Error> {
        self.call(CALL_LIMIT, move |target| {
            async move {
                match target {
                    Target::Local(server) => server.describe(request),
                    Target::Remote(mut rpc) => Ok(rpc.describe(request).await?.into_inner()),
                }
            }
            .boxed()
        })
        .await
    }

    /// Changes what is wanted of a node.
    pub async fn change_duty(&self, request: pb::ChangeDutyRequest) -> Result<pb::ChangeDutyResponse, Error> {
        self.call(CALL_LIMIT, move |target| {
            async move {
                match target {
                    Target::Local(server) => server.change_duty(request).await,
                    Target::Remote(mut rpc) => Ok(rpc.change_duty(request).await?.into_inner()),
                }
            }
            .boxed()
        })
        .await
    }

    /// Moves a replica.
    pub async fn begin_move(&self, request: pb::MoveRequest) -> Result<pb::MoveResponse, Error> {
        self.call(CALL_LIMIT, move |target| {
            async move {
                match target {
                    Target::Local(server) => server.begin_move(request).await,
                    Target::Remote(mut rpc) => Ok(rpc.r#move(request).await?.into_inner()),
                }
            }
            .boxed()
        })
        .await
    }

    /// Ends what an operator has begun.
    pub async fn cancel(&self, request: pb::CancelRequest) -> Result<pb::CancelResponse, Error> {
        self.call(CALL_LIMIT, move |target| {
            let request = request.clone();
            async move {
                match target {
                    Target::Local(server) => server.cancel(request).await,
                    Target::Remote(mut rpc) => Ok(rpc.cancel(request).await?.into_inner()),
                }
            }
            .boxed()
        })
        .await
    }

    /// Has another node lead a group.
    pub async fn transfer(&self, request: pb::TransferRequest) -> Result<pb::TransferResponse, Error> {
        self.call_slow(TRANSFER_LIMIT, TRANSFER_LIMIT, move |target| {
            async move {
                match target {
                    Target::Local(server) => server.transfer(request).await,
                    Target::Remote(mut rpc) => Ok(rpc.transfer(request).await?.into_inner()),
                }
            }
            .boxed()
        })
        .await
    }

    /// Cuts a shard in two.
    pub async fn split(&self, request: pb::SplitRequest) -> Result<pb::SplitResponse, Error> {
        self.call_slow(RESHAPE_LIMIT, RESHAPE_LIMIT, move |target| {
            let request = request.clone();
            async move {
                match target {
                    Target::Local(server) => server.split(request).await,
                    Target::Remote(mut rpc) => Ok(rpc.split(request).await?.into_inner()),
                }
            }
            .boxed()
        })
        .await
    }

    /// Has a shard absorb its right neighbour.
    pub async fn merge(&self, request: pb::MergeRequest) -> Result<pb::MergeResponse, Error> {
        self.call(CALL_LIMIT, move |target| {
            async move {
                match target {
                    Target::Local(server) => server.merge(request).await,
                    Target::Remote(mut rpc) => Ok(rpc.merge(request).await?.into_inner()),
                }
            }
            .boxed()
        })
        .await
    }

    /// Says what is wanted of a table's shards; answers what of it can't be had with the nodes there are.
    pub async fn set_rule(&self, rule: pb::TableRule) -> Result<pb::SetRuleResponse, Error> {
        self.call(CALL_LIMIT, move |target| {
            let rule = rule.clone();
            async move {
                match target {
                    Target::Local(server) => server.set_rule(rule).await,
                    Target::Remote(mut rpc) => Ok(rpc.set_rule(rule).await?.into_inner()),
                }
            }
            .boxed()
        })
        .await
    }

    /// Says that no key in a range is ever used again.
    pub(crate) async fn give_up(&self, range: &KeyRange) -> Result<(), Error> {
        let request = pb::VacateRequest { start: range.start.clone(), end: range.end.clone() };
        self.call(CALL_LIMIT, move |target| {
            let request = request.clone();
            async move {
                match target {
                    Target::Local(server) => server.vacate(request).await.map(|_| ()),
                    Target::Remote(mut rpc) => {
                        rpc.vacate(request).await?;
                        Ok(())
                    }
                }
            }
            .boxed()
        })
        .await
    }

    /// Has nodes that are down not be awaited any longer.
    pub async fn repair(&self, request: pb::RepairRequest) -> Result<pb::RepairResponse, Error> {
        self.call(CALL_LIMIT, move |target| {
            async move {
                match target {
                    Target::Local(server) => server.repair(request).await,
                    Target::Remote(mut rpc) => Ok(rpc.repair(request).await?.into_inner()),
                }
            }
            .boxed()
        })
        .await
    }
}
