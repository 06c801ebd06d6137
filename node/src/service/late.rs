//! A gRPC service that is mounted before it exists.
//!
//! The RPC port opens first: a node without a cluster has to be reachable for `init`, and a starting one should say so
//! rather than refuse connections. Until [`Late::set`], calls are answered FAILED_PRECONDITION.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// The service to mount, and the handle to fill it with; clones share one slot.
pub struct Late<S> {
    slot: Arc<OnceLock<S>>,
}

impl<S> Late<S> {
    /// Empty.
    #[allow(clippy::new_without_default, reason = "an empty service is made on purpose")]
    pub fn new() -> Self {
        Self { slot: Arc::new(OnceLock::new()) }
    }

    /// From now on, calls are answered by `service`. A second one is ignored.
    pub fn set(&self, service: S) {
        let _ = self.slot.set(service);
    }
}

impl<S> Clone for Late<S> {
    fn clone(&self) -> Self {
        Self { slot: self.slot.clone() }
    }
}

impl<S: NamedService> NamedService for Late<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Late<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The generated services are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.slot.get() {
            Some(service) => service.clone().call(request).boxed(),
            None => {
                let status = Status::failed_precondition("the node does not belong to a running cluster yet");
                ready(Ok(status.into_http())).boxed()
            }
        }
    }
}
