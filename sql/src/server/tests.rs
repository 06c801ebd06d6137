//! Sessions of a server: one that is drained, or stops; and what they have the cluster do.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use txn::order::Order;
use txn::seam::Seams;

use super::{Phase, Server, ServerOptions};
use crate::testing::MemoryDatabase;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

struct World {
    server: Server,
    database: MemoryDatabase,
    url: String,
    seams: Seams,
}

impl World {
    /// A server that is not open yet.
    async fn new() -> Self {
        let seams = Seams::real();
        let database = MemoryDatabase::default();
        let server = Server::new(Arc::new(database.clone()), ServerOptions::default(), seams.clone());
        server.bootstrap().await.expect("a catalog");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let serving = server.clone();
        seams.spawn("sql server", async move { serving.serve(listener).await });
        let url = format!("postgresql://root@127.0.0.1:{port}/postgres?sslmode=disable");
        Self { server, database, url, seams }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_functions_are_carried_out_for_rows_that_are_asked_for_once_each_and_never_by_planning() {
    let world = World::new().await;
    world.server.open();
    let client = world.connect().await.expect("a session");
    let setup = "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)";
    client.batch_execute(setup).await.expect("a table");
    let drained = || world.database.take_orders();
    let drain = |node: &str| Order::Drain { node: node.to_owned() };
    let nothing: [Order; 0] = [];

    let planned = [
        "EXPLAIN SELECT flotilla.drain('n2')",
        "EXPLAIN (ANALYZE false) SELECT flotilla.drain('n2')",
        "EXPLAIN SELECT flotilla.drain((SELECT 'n2'))",
        "EXPLAIN SELECT DISTINCT flotilla.drain(a) FROM t JOIN t s USING (a)",
        "PREPARE drained AS SELECT flotilla.drain('n2')",
        "SELECT flotilla.drain(a) FROM t LIMIT 0",
    ];
    for statement in planned {
        client.batch_execute(statement).await.expect(statement);
        assert_eq!(drained(), nothing, "{statement}");
    }
    let described = client.prepare("SELECT flotilla.drain($1::text)").await.expect("a statement");
    assert_eq!(described.columns().len(), 1);
    assert_eq!(drained(), nothing);

    client.query_one(&described, &[&"n3"]).await.expect("an answer");
    assert_eq!(drained(), [drain("n3")]);
    let done = [
        "SELECT flotilla.drain('n2')",
        "EXECUTE drained",
        "EXPLAIN ANALYZE SELECT flotilla.drain('n2')",
        "SELECT upper(flotilla.drain('n2')) || 'x'",
        "SELECT flotilla.drain((SELECT 'n2'))",
        "SELECT flotilla.drain('n' || a::text) FROM t WHERE a = 2",
        "SELECT flotilla.drain('n' || a::text) FROM t ORDER BY a % 2, a LIMIT 1",
        "SELECT flotilla.drain('n' || a::text), a FROM t WHERE a < 3 ORDER BY -a LIMIT 1",
    ];
    for statement in done {
        client.batch_execute(statement).await.expect(statement);
        assert_eq!(drained(), [drain("n2")], "{statement}");
    }
    let all = "SELECT flotilla.drain('n' || a::text) FROM t ORDER BY -a";
    client.batch_execute(all).await.expect("all rows");
    assert_eq!(drained(), ["n3", "n2", "n1"].map(drain), "a call for each row, in their order");

    let refused = [
        "BEGIN; DECLARE c CURSOR FOR SELECT flotilla.drain('n2')",
        "SELECT flotilla.drain('n2') FROM t FOR UPDATE",
        "SELECT flotilla.drain('n2') FROM (SELECT a FROM t FOR SHARE) s",
    ];
    for statement in refused {
        assert_eq!(client.batch_execute(statement).await.map_err(code), Err("0A000".into()), "{statement}");
        assert_eq!(drained(), nothing, "{statement}");
        client.batch_execute("ROLLBACK").await.expect("no transaction");
    }
}
