//! Calls to whoever leads the meta-group, wherever that is.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use proto::meta::meta_client::MetaClient as Rpc;
use tonic::transport::Channel;

use super::MetaClient;
use crate::rpc::{Channels, within};
use crate::server::MetaServer;
use crate::{Error, MESSAGE_BYTES_MAX};

/// How long a call may take in all, with its retries.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long one attempt may take before another member is asked.
pub(super) const ATTEMPT_LIMIT: Duration = Duration::from_millis(700);
/// Pauses between attempts, doubled from the first to the last.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(60);

/// Whom an attempt asks.
pub(crate) enum Target {
    /// This node leads.
    Local(Arc<MetaServer>),
    Remote(Box<Rpc<Channel>>),
}

impl MetaClient {
    /// Asks whoever leads, until there is an answer or the time is up.
    pub(crate) async fn call<T>(
        &self,
        limit: Duration,
        attempt: impl Fn(Target) -> BoxFuture<'static, Result<T, Error>>,
    ) -> Result<T, Error> {
        self.call_slow(limit, ATTEMPT_LIMIT, attempt).await
    }

    /// [`Self::call`], of something that takes its time.
    pub(crate) async fn call_slow<T>(
        &self,
        limit: Duration,
        attempt_limit: Duration,
        attempt: impl Fn(Target) -> BoxFuture<'static, Result<T, Error>>,
    ) -> Result<T, Error> {
        let deadline = self.seams.clock.now() + limit;
        let mut pause = PAUSE_MIN;
        let mut tries = 0usize;
        loop {
            let (target, address) = self.target(tries)?;
            let result = match target {
                Some(target) => tokio::select! {
                    biased;
                    result = within(&self.seams, attempt_limit, attempt(target)) => result,
                    () = self.lost(address.as_deref()) => Err(Error::Unavailable("its node does not answer".into())),
                },
                None => Err(Error::Unavailable("no member of the meta-group is known".into())),
            };
            tries += 1;
            let error = match result {
                Ok(answer) => {
                    *self.leader.lock() = address;
                    *self.last_contact.lock() = Some(self.seams.clock.now());
                    return Ok(answer);
                }
                Err(error) if !error.is_retriable() => return Err(error),
                Err(error) => error,
            };
            let hint = match &error {
                Error::NotLeader(redirect) if !redirect.leader.is_empty() => Some(redirect.leader.clone()),
                _ => None,
            };
            let now = self.seams.clock.now();
            if now >= deadline {
                return Err(Error::Unavailable(error.to_string()));
            }
            let fresh_hint = hint.is_some() && hint != address && tries <= 3;
            *self.leader.lock() = hint.filter(|_| fresh_hint);
            if !fresh_hint {
                // Half of it at random, so that callers that failed together do not return together.
                let jitter = self.seams.random_f64() / 2.0 + 0.5;
                self.seams.sleep(pause.mul_f64(jitter).min(deadline - now)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Completes when the node at an address doesn't answer: another one leads soon.
    async fn lost(&self, address: Option<&str>) {
        let node = address.and_then(|address| self.cache.read().node_at(address));
        match (self.local.get(), node) {
            (Some(local), Some(node)) => local.multi.reach().lost(node).await,
            _ => std::future::pending().await,
        }
    }

    /// Whether the node at an address is known not to answer.
    fn is_lost(&self, address: &str) -> bool {
        let node = self.cache.read().node_at(address);
        self.local.get().zip(node).is_some_and(|(local, node)| local.multi.reach().is_lost(node))
    }

    /// Whom to ask next: this node, the known leader, the one this node's replica follows, or the members in turn.
    fn target(&self, tries: usize) -> Result<(Option<Target>, Option<String>), Error> {
        let local = self.local.get();
        if let Some(server) = local.filter(|server| server.leads()) {
            return Ok((Some(Target::Local(server.clone())), None));
        }
        let mut address = self.leader.lock().clone().filter(|address| !self.is_lost(address));
        if address.is_none() && tries.is_multiple_of(2) {
            address = local.map(|server| server.leader_address());
            address = address.filter(|address| !address.is_empty() && !self.is_lost(address));
        }
        if address.is_none() {
            let own = local.map(|server| server.node);
            let cache = self.cache.read();
            let members = cache.members.iter().filter(|id| Some(**id) != own);
            let members =
                members.filter_map(|id| cache.nodes.get(id)?.addresses.as_ref().map(|a| a.rpc.clone()));
            let mut known: Vec<String> = members.chain(self.seeds.iter().cloned()).collect();
            drop(cache);
            // If nobody else is left, it may as well be asked.
            if known.iter().any(|address| !self.is_lost(address)) {
                known.retain(|address| !self.is_lost(address));
            }
            address = (!known.is_empty()).then(|| known[(tries / 2) % known.len()].clone());
        }
        let Some(address) = address else { return Ok((None, None)) };
        let rpc = rpc(&self.channels, &address)?;
        Ok((Some(Target::Remote(Box::new(rpc))), Some(address)))
    }
}

pub(super) fn rpc(channels: &Channels, address: &str) -> Result<Rpc<Channel>, Error> {
    Ok(Rpc::new(channels.get(address)?)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}
