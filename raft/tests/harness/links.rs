//! Connections between nodes that a test can close, each direction by itself. What is sent meanwhile waits, as it does when
//! packets are lost: nobody is told.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use storage::seam::{Connecting, Connection, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

#[derive(Default)]
pub struct Links {
    nodes: Mutex<HashMap<String, u64>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// (from, to)
    closed: BTreeSet<(u64, u64)>,
    waiting: Vec<Waker>,
}

impl Links {
    /// What `node` is to connect by.
    pub fn of(self: &Arc<Self>, node: u64) -> Arc<dyn Network> {
        Arc::new(Way { links: self.clone(), from: node })
    }

    /// Where `node` listens.
    pub fn name(&self, node: u64, address: String) {
        self.nodes.lock().expect("lock").insert(address, node);
    }

    /// From now on nothing that `from` says reaches `to`.
    pub fn close(&self, from: u64, to: u64) {
        self.state.lock().expect("lock").closed.insert((from, to));
    }

    /// Everything gets through again, what was waiting first.
    pub fn open(&self) {
        let mut state = self.state.lock().expect("lock");
        state.closed.clear();
        state.waiting.drain(..).for_each(Waker::wake);
    }

    fn is_closed(&self, from: u64, to: &str, cx: &Context<'_>) -> (bool, bool) {
        let to = self.nodes.lock().expect("lock").get(to).copied().unwrap_or(0);
        let mut state = self.state.lock().expect("lock");
        let closed = (state.closed.contains(&(from, to)), state.closed.contains(&(to, from)));
        if closed.0 || closed.1 {
            state.waiting.push(cx.waker().clone());
        }
        closed
    }
}

struct Way {
    links: Arc<Links>,
    from: u64,
}

impl Network for Way {
    fn connect(&self, address: String) -> Connecting {
        let (links, from) = (self.links.clone(), self.from);
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(Linked { stream, links, from, to: address }) as Box<dyn Connection>)
        })
    }
}

struct Linked {
    stream: TcpStream,
    links: Arc<Links>,
    from: u64,
    to: String,
}

impl Linked {
    /// Whether nothing may be written, and whether nothing may be read. Whoever asks is woken when that changes.
    fn is_closed(&self, cx: &Context<'_>) -> (bool, bool) {
        self.links.is_closed(self.from, &self.to, cx)
    }
}

impl AsyncRead for Linked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_closed(cx).1 {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Linked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_closed(cx).0 {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
