//! Who compares: finds the leader, has all replicas wait for one index, brings the log there, collects what they say.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use proto::common::Replica;
use proto::consistency as pb;
use proto::consistency::consistency_client::ConsistencyClient;
use proto::consistency::digest_answer::Step;
use proto::consistency::replica_digest::State;
use proto::meta::{DescribeRequest, DescribeResponse};
use storage::ids::{GroupId, META_GROUP, NodeId};
use storage::seam::Seams;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use txn::Directory;

use super::judge::judge;
use super::{FAILED, QUARANTINED, rate};
use crate::rpc::{Channels, within};
use crate::{Error, MetaClient};

/// How far beyond the end of the log the index lies: a busy log must not get there before all wait for it. If it does, the
/// next one is tried.
const MARGINS: [u64; 5] = [3, 30, 300, 3_000, 30_000];
const ATTEMPTS_MAX: usize = 8;
/// Before an attempt after one that failed: an election takes a second.
const PAUSE: Duration = Duration::from_millis(700);
/// A replica that doesn't wait for the index within this time is away.
const ARM_LIMIT: Duration = Duration::from_secs(2);
/// The leader has brought the log there within this time.
const ADVANCE_LIMIT: Duration = Duration::from_secs(10);
/// Between two answers of a replica. (It waits for the entry for less, and says how far it has read at each step.)
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

pub struct Conductor {
    pub cluster_id: u128,
    pub client: Arc<MetaClient>,
    pub channels: Arc<Channels>,
    pub seams: Seams,
}

/// Why an attempt has led to nothing.
enum Stopped {
    /// The entry was applied before all waited for it.
    Missed,
    /// There is no leader, or it does not answer.
    Failed(String),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable(why) => Stopped::Failed(why),
            other => Stopped::Failed(other.to_string()),
        }
    }
}

type Client = ConsistencyClient<Channel>;

impl Conductor {
    /// Answers with one comparison after the other.
    pub async fn compare(
        &self,
        request: pb::CompareRequest,
        answers: mpsc::Sender<Result<pb::GroupComparison, Status>>,
    ) {
        let groups = match self.client.describe_as(DescribeRequest { without_plan: true }).await {
            Ok(cluster) => chosen(&cluster, &request.groups),
            Err(error) => Err(error.into()),
        };
        let groups = match groups {
            Ok(groups) => groups,
            Err(status) => {
                let _ = answers.send(Err(status)).await;
                return;
            }
        };
        for group in groups {
            let comparison = tokio::select! {
                comparison = self.persistently(group, rate(request.bytes_per_second)) => comparison,
                // Whoever wanted to know has gone.
                () = answers.closed() => return,
            };
            if answers.send(Ok(comparison)).await.is_err() {
                return;
            }
        }
    }

    pub(super) async fn persistently(&self, group: GroupId, bytes_per_second: u64) -> pb::GroupComparison {
        let mut trouble = String::new();
        let mut margins = MARGINS.into_iter();
        let mut margin = margins.next().unwrap_or(1);
        let mut rested = false;
        for attempt in 0..ATTEMPTS_MAX {
            match self.attempt(group, margin, bytes_per_second, &mut rested).await {
                // A replica that is away now may be there in a moment. What differs stays so.
                Ok(found) if attempt == 0 && found.replicas.iter().any(|r| r.families.is_empty()) => {}
                Ok(found) => return found,
                Err(Stopped::Missed) => {
                    trouble = "it is written to faster than it can be looked at".to_owned();
                    margin = margins.next().unwrap_or(margin);
                    continue;
                }
                Err(Stopped::Failed(why)) => trouble = why,
            }
            self.seams.sleep(PAUSE).await;
        }
        pb::GroupComparison { group: group.0, trouble, ..Default::default() }
    }

    /// An error is one of the leader; a replica that says nothing is unknown. Notes whether the group `rested` before any attempt.
    async fn attempt(
        &self,
        group: GroupId,
        margin: u64,
        bytes_per_second: u64,
        rested: &mut bool,
    ) -> Result<pb::GroupComparison, Stopped> {
        // The map says enough. (A description of the whole cluster, with what placement plans, would be made for each group.)
        self.client.refresh().await?;
        if group != META_GROUP && self.client.shard(group).is_none() {
            return Err(Error::Unavailable(format!("{group} is gone")).into());
        }
        let clients = Nodes::known(&self.client, &self.channels);
        let leader = Directory::leader(&*self.client, group);
        let leader = leader.ok_or_else(|| Error::Unavailable(format!("{group} has no known leader")))?;
        let mut leader = clients.get(leader).map_err(Error::Unavailable)?;
        let cluster_id = bytes::Bytes::copy_from_slice(&self.cluster_id.to_be_bytes());
        let advance = |index, rest_again| pb::AdvanceRequest {
            cluster_id: cluster_id.clone(),
            group: group.0,
            index,
            rest_again,
        };
        let before = within(&self.seams, ARM_LIMIT, leader.advance(advance(0, false))).await?.into_inner();
        *rested |= before.rested;
        let index = before.last + margin;
        let request = pb::DigestRequest {
            group: group.0,
            index,
            bytes_per_second,
            cluster_id: cluster_id.clone(),
            replica: 0,
        };
        let waiting = before.replicas.iter().map(|replica| {
            let request = pb::DigestRequest { replica: replica.replica, ..request.clone() };
            self.arm(clients.get(NodeId(replica.node)), request)
        });
        let waiting = join_all(waiting).await;
        if waiting.iter().any(|armed| armed.as_ref().is_err_and(|status| status.code() == Code::OutOfRange)) {
            return Err(Stopped::Missed);
        }
        within(&self.seams, ADVANCE_LIMIT, leader.advance(advance(index, *rested))).await?;
        let collected =
            waiting.into_iter().zip(before.replicas).map(|(armed, replica)| self.collect(armed, replica));
        let mut replicas = join_all(collected).await;
        judge(&mut replicas);
        Ok(comparison(group, index, replicas))
    }

    /// Has a replica wait for the entry.
    async fn arm(
        &self,
        client: Result<Client, String>,
        request: pb::DigestRequest,
    ) -> Result<Streaming<pb::DigestAnswer>, Status> {
        let mut client = client.map_err(Status::unavailable)?;
        let arming = async {
            let mut answers = client.digest(request).await?.into_inner();
            match answers.message().await?.and_then(|answer| answer.step) {
                Some(Step::Waiting(_)) => Ok(answers),
                _ => Err(Status::internal("the first answer is none")),
            }
        };
        tokio::select! {
            armed = arming => armed,
            () = self.seams.sleep(ARM_LIMIT) => Err(Status::unavailable("no answer")),
        }
    }

    async fn collect(
        &self,
        armed: Result<Streaming<pb::DigestAnswer>, Status>,
        replica: Replica,
    ) -> pb::ReplicaDigest {
        let digests = async {
            let mut answers = armed?;
            loop {
                let answer = tokio::select! {
                    answer = answers.message() => answer?,
                    () = self.seams.sleep(SILENCE_LIMIT) => return Err(Status::unavailable("it fell silent")),
                };
                match answer.map(|answer| answer.step) {
                    Some(Some(Step::Done(digests))) => return Ok(digests),
                    Some(_) => {}
                    None => return Err(Status::unavailable("it broke off")),
                }
            }
        };
        let mut found = pb::ReplicaDigest {
            replica: replica.replica,
            node: replica.node,
            learner: replica.learner,
            ..Default::default()
        };
        match digests.await {
            Ok(digests) => (found.families, found.descriptor) = (digests.families, digests.descriptor),
            Err(status) => {
                // One that cannot read its own rows, or is known not to have the right ones, differs from those who can and have.
                let state = match status.code() {
                    Code::DataLoss => State::Differs,
                    Code::FailedPrecondition if status.message() == QUARANTINED => State::Quarantined,
                    Code::FailedPrecondition if status.message().starts_with(FAILED) => State::Failed,
                    _ => State::Unknown,
                };
                (found.state, found.detail) = (state as i32, status.message().to_owned());
            }
        }
        found
    }
}

fn chosen(cluster: &DescribeResponse, asked: &[u64]) -> Result<Vec<GroupId>, Status> {
    let all: Vec<u64> = cluster.groups.iter().map(|group| group.group).collect();
    if let Some(unknown) = asked.iter().find(|group| !all.contains(group)) {
        return Err(Status::invalid_argument(format!("there is no group {unknown}")));
    }
    let mut chosen: Vec<GroupId> =
        all.into_iter().filter(|id| asked.is_empty() || asked.contains(id)).map(GroupId).collect();
    chosen.sort_by_key(|group| (*group != META_GROUP, *group));
    Ok(chosen)
}

fn comparison(group: GroupId, index: u64, replicas: Vec<pb::ReplicaDigest>) -> pb::GroupComparison {
    let mut equal = replicas.iter().filter(|replica| replica.state() == State::Equal);
    let descriptor = equal.next().and_then(|replica| replica.descriptor.clone());
    pb::GroupComparison { group: group.0, descriptor, index, replicas, trouble: String::new() }
}

/// Where the nodes are, if they live.
pub(super) struct Nodes<'a> {
    addresses: HashMap<NodeId, String>,
    channels: &'a Channels,
}

impl<'a> Nodes<'a> {
    /// As far as is known here.
    pub(super) fn known(client: &MetaClient, channels: &'a Channels) -> Self {
        Self { addresses: client.living(), channels }
    }

    pub(super) fn get(&self, node: NodeId) -> Result<Client, String> {
        let address = self.addresses.get(&node);
        let address = address.ok_or_else(|| format!("{node} is dead"))?;
        Ok(Client::new(self.channels.get(address).map_err(|error| error.to_string())?))
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
