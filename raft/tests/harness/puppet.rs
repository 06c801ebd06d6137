//! Nodes that a test plays: they answer what the test says, and remember what they were asked.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::channel::mpsc;
use futures::stream::BoxStream;
use proto::raft as wire;
use proto::raft::answer::Body as Answer;
use proto::raft::raft_client::RaftClient;
use proto::raft::raft_server::{Raft, RaftServer};
use proto::raft::request::Body;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::{CLUSTER, Cluster, GROUP, PATIENCE};

/// What is answered; `None`: nothing, ever.
type Script = Box<dyn FnMut(&Body) -> Option<Answer> + Send>;

/// Another node's place. Its replica has the node's number.
pub struct Puppet {
    stage: Arc<Stage>,
    serving: tokio::task::JoinHandle<()>,
}

struct Stage {
    script: Mutex<Script>,
    /// All but pulses, and when each came.
    asked: Mutex<Vec<(Instant, Body)>>,
}

impl Puppet {
    /// Takes the place of `node`, and agrees to everything.
    pub async fn start(cluster: &Cluster, node: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        cluster.introduce(node, listener.local_addr().expect("address").to_string());
        let script: Script = Box::new(agree);
        let stage = Arc::new(Stage { script: Mutex::new(script), asked: Mutex::default() });
        let serve = tonic::transport::Server::builder()
            .add_service(RaftServer::new(Endpoint(stage.clone())))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        let serving = tokio::spawn(async {
            let _ = serve.await;
        });
        Self { stage, serving }
    }

    /// Answers so from now on.
    pub fn play(&self, script: impl FnMut(&Body) -> Option<Answer> + Send + 'static) {
        *self.stage.script.lock().expect("lock") = Box::new(script);
    }

    /// What it was asked, but for pulses.
    pub fn asked(&self) -> Vec<Body> {
        self.stage.asked.lock().expect("lock").iter().map(|(_, body)| body.clone()).collect()
    }

    /// The appends among that.
    pub fn appends(&self) -> Vec<wire::Append> {
        let append = |body| match body {
            Body::Append(append) => Some(append),
            _ => None,
        };
        self.asked().into_iter().filter_map(append).collect()
    }

    /// How many of these it was asked.
    pub fn count(&self, of_kind: impl Fn(&Body) -> bool) -> usize {
        self.asked().iter().filter(|&body| of_kind(body)).count()
    }

    /// For how long it has been asked nothing but pulses; zero if it never was asked anything.
    pub fn left_alone_for(&self) -> Duration {
        self.stage.asked.lock().expect("lock").last().map_or(Duration::ZERO, |(at, _)| at.elapsed())
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Stage {
    fn answer(&self, requests: Vec<wire::Request>) -> Vec<wire::Answer> {
        let mut script = self.script.lock().expect("lock");
        let mut answers = Vec::new();
        for request in requests {
            let Some(body) = request.body else { continue };
            let answer = (*script)(&body);
            if !matches!(body, Body::Pulse(_)) {
                self.asked.lock().expect("lock").push((Instant::now(), body));
            }
            if answer.is_some() {
                answers.push(wire::Answer { id: request.id, body: answer });
            }
        }
        answers
    }
}

struct Endpoint(Arc<Stage>);

#[tonic::async_trait]
impl Raft for Endpoint {
    type ExchangeStream = BoxStream<'static, Result<wire::Answers, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<wire::Requests>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let stage = self.0.clone();
        let answers = request.into_inner().filter_map(move |batch| {
            let answered = match batch.map(|batch| stage.answer(batch.requests)) {
                Ok(answers) if answers.is_empty() => None,
                Ok(answers) => Some(Ok(wire::Answers { answers })),
                Err(status) => Some(Err(status)),
            };
            std::future::ready(answered)
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<wire::SnapshotPiece>>,
    ) -> Result<Response<wire::SnapshotAnswer>, Status> {
        Err(Status::unimplemented("a puppet takes no snapshots"))
    }

    async fn resume_snapshot(
        &self,
        _: Request<wire::SnapshotHeader>,
    ) -> Result<Response<wire::SnapshotAnswer>, Status> {
        Err(Status::unimplemented("a puppet takes no snapshots"))
    }
}

/// Votes for everybody, takes every append, and lives.
pub fn agree(asked: &Body) -> Option<Answer> {
    Some(match asked {
        Body::Append(_) => {
            let success = wire::appended::Result::Success(true);
            Answer::Appended(wire::Appended { result: Some(success) })
        }
        Body::Vote(request) | Body::PreVote(request) => {
            Answer::Vote(wire::VoteAnswer { vote: request.vote, granted: true, last: None })
        }
        Body::TransferLeader(_) => {
            Answer::Transfer(wire::TransferAnswer { accepted: true, detail: String::new() })
        }
        Body::Pulse(_) => Answer::Pulsed(wire::Pulsed { incarnation: 1 }),
        Body::Rest(_) => Answer::Rested(wire::Rested { rests: false }),
        Body::Vouch(_) => Answer::Vouched(wire::Vouched { holds: false }),
    })
}

/// As [`agree`], but votes once a term, as a replica does.
pub fn voter() -> impl FnMut(&Body) -> Option<Answer> + Send + 'static {
    let mut promised = wire::Vote { term: 0, replica: 0, committed: false };
    move |asked| {
        let (request, for_real) = match asked {
            Body::Vote(request) => (request, true),
            Body::PreVote(request) => (request, false),
            other => return agree(other),
        };
        let wanted = request.vote.unwrap_or_default();
        let granted = wanted.term > promised.term;
        if granted && for_real {
            promised = wanted;
        }
        let vote = if granted { wanted } else { promised };
        Some(Answer::Vote(wire::VoteAnswer { vote: Some(vote), granted, last: None }))
    }
}

/// The append, by the leader of `term`, of the entry at `index`; all that comes before is of that term, too, and all is
/// committed.
pub fn append(leader: u64, term: u64, index: u64) -> Body {
    let id = |index: u64| wire::LogId { term: if index == 0 { 0 } else { term }, index };
    let command = wire::entry::Payload::Command(format!("k={index}").into());
    Body::Append(wire::Append {
        vote: Some(wire::Vote { term, replica: leader, committed: true }),
        previous: Some(id(index - 1)),
        entries: vec![wire::Entry { term, index, payload: Some(command), compression: 0, crc32: None }],
        committed: Some(id(index)),
    })
}

/// Asks node `to` all that by one message, as node `from`. The stream ends when the first of the answers is dropped.
pub async fn exchange(
    cluster: &Cluster,
    from: u64,
    to: u64,
    requests: Vec<wire::Request>,
) -> (mpsc::UnboundedSender<wire::Requests>, Streaming<wire::Answers>) {
    let cluster_id = CLUSTER.to_be_bytes().to_vec().into();
    let message = wire::Requests { cluster_id, from_node: from, to_node: to, requests };
    let endpoint = format!("http://{}", cluster.address(to));
    let mut client = RaftClient::connect(endpoint).await.expect("connect");
    let (stream, messages) = mpsc::unbounded();
    stream.unbounded_send(message).expect("the stream is there");
    (stream, client.exchange(messages).await.expect("exchange").into_inner())
}

/// Asks node `to` something, as the replica on node `from`.
pub async fn ask(cluster: &Cluster, from: u64, to: u64, body: Body) -> Answer {
    let request =
        wire::Request { id: 1, group: GROUP.0, from_replica: from, to_replica: to, body: Some(body) };
    let (_stream, mut answers) = exchange(cluster, from, to, vec![request]).await;
    let answered = tokio::time::timeout(PATIENCE, answers.message()).await;
    let message = answered.expect("an answer in time").expect("an answer").expect("more of the stream");
    let mut answers = message.answers;
    answers.pop().and_then(|answer| answer.body).expect("what it says")
}

/// Whether an append was taken.
pub fn is_success(answer: &Answer) -> bool {
    matches!(answer, Answer::Appended(wire::Appended { result: Some(wire::appended::Result::Success(true)) }))
}
