//! Sessions of a server that is drained, or stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use txn::seam::Seams;

use super::{Phase, Server, ServerOptions};
use crate::testing::MemoryDatabase;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

struct World {
    server: Server,
    url: String,
    seams: Seams,
}

impl World {
    /// A server that is not open yet.
    async fn new() -> Self {
        let seams = Seams::real();
        let server =
            Server::new(Arc::new(MemoryDatabase::default()), ServerOptions::default(), seams.clone());
        server.bootstrap().await.expect("a catalog");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let serving = server.clone();
        seams.spawn("sql server", async move { serving.serve(listener).await });
        let url = format!("postgresql://root@127.0.0.1:{port}/postgres?sslmode=disable");
        Self { server, url, seams }
    }

    async fn connect(&self) -> Result<Client, String> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.map_err(code)?;
        self.seams.spawn("client", async move {
            // An error of the connection is an error of the statements on it.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Waits for it, for a while.
    async fn until(&self, is_so: impl Fn() -> bool) {
        for _ in 0..3_000 {
            if is_so() {
                return;
            }
            self.seams.sleep(Duration::from_millis(10)).await;
        }
        panic!("not within half a minute");
    }
}

fn code(error: tokio_postgres::Error) -> String {
    error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

async fn rows(client: &Client) -> usize {
    let messages = client.simple_query("SELECT a FROM t").await.expect("an answer");
    messages.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_server_ends_each_session_between_two_transactions() {
    let world = World::new().await;
    assert_eq!(world.connect().await.map(drop).expect_err("it is not open yet"), "57P03");
    world.server.open();
    let idle = world.connect().await.expect("a session");
    let busy = world.connect().await.expect("a session");
    busy.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").await.expect("a table");
    busy.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.expect("a transaction");

    let (all_gone, gone) = oneshot::channel();
    let server = world.server.clone();
    world.seams.spawn("drain", async move {
        server.drain(LONG).await;
        all_gone.send(()).expect("the test waits");
    });
    world.until(|| idle.is_closed()).await;
    assert_eq!(world.connect().await.map(drop).expect_err("nobody is let in"), "57P03");
    busy.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.expect("the transaction ends as it should");
    gone.await.expect("the server is drained");
    assert_eq!(world.server.sessions(), 0);

    world.server.open();
    assert_eq!(rows(&world.connect().await.expect("a session")).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_in_time_is_broken() {
    let world = World::new().await;
    world.server.open();
    let busy = world.connect().await.expect("a session");
    busy.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").await.expect("a table");
    busy.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.expect("a transaction");
    let asleep = world.connect().await.expect("a session");
    let (told, why) = oneshot::channel();
    world.seams.spawn("sleep", async move {
        let woken = asleep.batch_execute("SELECT pg_sleep(3600)").await;
        told.send(woken).expect("the test waits");
    });
    world.server.drain(Duration::ZERO).await;
    // (If it had not begun, the session was ended before.)
    assert!(why.await.expect("an answer").is_err());
    assert_eq!(world.server.phase(), Phase::Ending);

    world.server.open();
    assert_eq!(rows(&world.connect().await.expect("a session")).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_stops_is_not_opened_again() {
    let world = World::new().await;
    world.server.open();
    let idle = world.connect().await.expect("a session");
    world.server.stop(LONG).await;
    world.until(|| idle.is_closed()).await;
    world.server.open();
    assert_ne!(world.server.phase(), Phase::Serving);
    assert!(world.connect().await.is_err());
}
