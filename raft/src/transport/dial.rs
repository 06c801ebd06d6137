//! How tonic gets its connections: through the seam.

use std::io;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use storage::seam::{Connection, Seams};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

/// What to give to tonic's `connect_with_connector`. All rooms that talk to other nodes do.
#[derive(Clone, Debug)]
pub struct Dialer {
    seams: Seams,
}

impl Dialer {
    /// Over the network of `seams`.
    pub fn new(seams: &Seams) -> Self {
        Self { seams: seams.clone() }
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Box<dyn Connection>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = uri.authority().map(|to| self.seams.network.connect(to.to_string()));
        async move {
            let Some(connecting) = connecting else {
                return Err(io::Error::other(format!("{uri} names no host")));
            };
            connecting.await.map(TokioIo::new)
        }
        .boxed()
    }
}
