//! A node, assembled: the one page that shows what a node is made of and in which order it comes up and goes down.
//!
//! Ports open first, so that a port in use is found before the store is touched, and so that a node that cannot serve yet
//! says so instead of refusing connections. They are served in this order of usefulness: HTTP (`/health` at once), RPC
//! (`init` and joins have to arrive), SQL (57P03 until everything below it works).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proto::meta as pb;
use raft::RaftOptions;
use sql::server::Phase;
use storage::seam::Seams;
use storage::{Store, StoreOptions};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::assembly::{self, Assembled, Parts, Services};
use crate::bootstrap::{self, Seeker};
use crate::config::ServerOptions;
use crate::disk;
use crate::exit::Failure;
use crate::local::LocalFiles;
use crate::service::drain::Obedient;
use crate::service::inspection::Inspection;
use crate::service::readiness::{self, Readiness};
use crate::service::{http, starting};

/// Between two looks at the replicas for `/metrics`.
const GAUGES_EVERY: Duration = Duration::from_secs(5);
/// Wishes to initialise that may wait.
const WISHES_MAX: usize = 16;
/// How long a shutdown may take in all; what it does beyond keeping acknowledged data safe is courtesy.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);
/// How long a node whose store has failed may take to hand over what it still leads; and then to close what it can.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);
/// How long transactions may go on after a stop was asked for. (Who wants to give them longer drains the node first.)
const STOP_GRACE: Duration = Duration::from_secs(2);
/// What becomes of a node whose store has failed, for its log.
const LEAVES: &str = "THIS NODE STOPS, and leaves what it held to the others: it could acknowledge nothing. What it has acknowledged \
    is safe. Make room on its disk, or mend it, and start the node again; if the store is damaged, or the disk is lost, start it \
    with an empty one (docs/operations.md, \"When a node's disk fails\")";
/// Between two attempts to read the catalog at start.
const CATALOG_PAUSE: Duration = Duration::from_millis(50);

/// Runs a node until `stop` is cancelled, or its store fails.
pub async fn run(options: ServerOptions, seams: Seams, stop: CancellationToken) -> Result<(), Failure> {
    // 1. The ports.
    let http_port = listen("HTTP", &options.listen_http).await?;
    let rpc_port = listen("RPC", &options.listen_rpc).await?;
    let sql_port = listen("SQL", &options.listen_sql).await?;
    let addresses = advertised(&options, &sql_port, &rpc_port, &http_port)?;

    // 2. The store.
    let metrics = http::install_metrics(&seams)?;
    let (dir, for_store) = (options.store.clone(), seams.clone());
    let opening = tokio::task::spawn_blocking(move || Store::open(&dir, StoreOptions::default(), for_store));
    let store = opening.await.map_err(Failure::other)?.map_err(Failure::Store)?;
    let files = LocalFiles::new(store.dir());
    info!(
        "store {}, SQL {}, RPC {}, HTTP {}",
        store.dir().display(),
        addresses.sql,
        addresses.rpc,
        addresses.http
    );
    warn!("--insecure: no TLS and no authentication; whoever reaches a port may read and change everything");

    // 3. What answers before anything works. `closing` outlives `stop`: a node that drains is still alive.
    let closing = CancellationToken::new();
    let readiness = Readiness::starting();
    seams.spawn("http", http::serve(http_port, metrics, readiness.clone(), store.clone(), closing.clone()));
    let (wish, mut wishes) = mpsc::channel(WISHES_MAX);
    let services = Services::new(readiness.clone());
    let rpc = services.clone().serve(assembly::connections(rpc_port), wish, closing.clone());
    seams.spawn("rpc", async move {
        if let Err(failure) = rpc.await {
            error!("the RPC port has failed: {}", crate::exit::chain(&failure));
        }
    });
    let sql_starts = CancellationToken::new();
    let (hand_over, sql_port_back) = oneshot::channel();
    let (starting_readiness, starting_seams, until) = (readiness.clone(), seams.clone(), sql_starts.clone());
    seams.spawn("sql not ready", async move {
        // The receiver is gone when the node stops before SQL starts.
        let _ = hand_over.send(starting::serve(sql_port, starting_readiness, starting_seams, until).await);
    });

    // 4. A place in a cluster.
    readiness.not_ready("the node belongs to no cluster yet: it waits to join, or for `flotilla init`");
    let seeker = Seeker {
        store: &store,
        files: &files,
        single_node: options.single_node,
        join: &options.join,
        addresses: &addresses,
        seams: &seams,
    };
    let Some(place) = bootstrap::find_place(seeker, &mut wishes, &stop).await? else {
        closing.cancel();
        return store.close().map_err(Failure::Store);
    };
    readiness.not_ready("the node is joining its groups");

    // 5. raft, the meta-group, transactions.
    let (locality, store_dir) = (options.locality.to_string(), files.dir());
    let clients: Arc<OnceLock<sql::server::Server>> = Arc::default();
    let (known, node) = (clients.clone(), place.identity.node_id);
    let facts = move || {
        let (capacity_bytes, used_bytes) = disk::usage(&store_dir).unwrap_or_default();
        let sql = known.get();
        pb::NodeFacts {
            locality: locality.clone(),
            capacity_bytes,
            used_bytes,
            sessions: sql.map_or(0, |sql| sql.sessions() as u64),
            closed: sql.is_none_or(|sql| sql.phase() != Phase::Serving),
        }
    };
    let inspection = services.inspection.clone();
    let parts = Parts {
        store: store.clone(),
        files,
        join: options.join,
        addresses,
        facts: Arc::new(facts),
        shard_bytes: None,
        services,
        raft: RaftOptions::default(),
        closing: closing.clone(),
        seams: seams.clone(),
    };
    let Assembled { multi, meta, database, .. } = assembly::assemble(place, parts).await?;
    drop(wishes);
    let (measured, own) = (multi.clone(), seams.clone());
    seams.spawn("gauges", async move {
        loop {
            measured.record_metrics();
            own.beat(GAUGES_EVERY).await;
        }
    });

    // 6. SQL. It takes the port over when the catalog is there.
    let sql_options =
        sql::server::ServerOptions { connections_max: options.max_connections, ..Default::default() };
    let sql = sql::server::Server::new(database.clone(), sql_options, seams.clone());
    // Nobody else sets it.
    let _ = clients.set(sql.clone());
    inspection.set(Inspection::service(sql.clone(), seams.clone()));
    let serving = serve_sql(sql.clone(), readiness.clone(), sql_starts, sql_port_back, seams.clone());
    let obedient = Obedient {
        node,
        meta: meta.clone(),
        sql: sql.clone(),
        readiness: readiness.clone(),
        seams: seams.clone(),
    };
    let obeying = obedient.run(stop.clone());
    let probing = readiness::watch(readiness.clone(), meta, database, seams.clone(), stop.clone());
    let sql_stop = stop.clone();
    seams.spawn("sql", async move {
        tokio::select! {
            () = sql_stop.cancelled() => return,
            () = serving => {}
        }
        tokio::join!(probing, obeying);
    });

    // 7. Until told to stop, or until nothing can be written any more; then in the opposite order.
    let broken = tokio::select! {
        () = stop.cancelled() => None,
        reason = multi.broken() => Some(Failure::Broken(reason)),
    };
    if let Some(failure) = &broken {
        error!("{failure}. {LEAVES}");
        // What waits for the end of the node.
        stop.cancel();
    }
    readiness.not_ready("the node is shutting down");
    // A session of a node that can't write has nothing to wait for.
    let (grace, limit) = match broken {
        Some(_) => (Duration::ZERO, LEAVE_LIMIT),
        None => (STOP_GRACE, SHUTDOWN_LIMIT),
    };
    let down = async {
        sql.stop(grace).await;
        multi.shutdown().await;
        closing.cancel();
    };
    tokio::select! {
        () = down => {}
        () = seams.sleep(limit) => warn!("leaving before everything was handed over; what is acknowledged is safe"),
    }
    let closed = tokio::task::spawn_blocking(move || store.close());
    if let Some(failure) = broken {
        // How that ends says nothing new, and it may not end at all.
        tokio::select! {
            _ = closed => {}
            () = seams.sleep(LEAVE_LIMIT) => {}
        }
        return Err(failure);
    }
    closed.await.map_err(Failure::other)?.map_err(Failure::Store)?;
    info!("stopped");
    Ok(())
}

/// Sees to the catalog's first rows, then takes the SQL port over and lets sessions in.
async fn serve_sql(
    sql: sql::server::Server,
    readiness: Arc<Readiness>,
    starts: CancellationToken,
    port: oneshot::Receiver<TcpListener>,
    seams: Seams,
) {
    while let Err(error) = sql.bootstrap().await {
        readiness.not_ready(format!("the catalog cannot be read: {error}"));
        seams.sleep(CATALOG_PAUSE).await;
    }
    starts.cancel();
    // The other end is dropped only with the whole runtime.
    let Ok(port) = port.await else { return };
    sql.open();
    seams.spawn("sql server", async move { sql.serve(port).await });
}

async fn listen(what: &'static str, address: &str) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| Failure::Listen { what, address: address.to_owned(), source })
}

/// What others are told: as said, or what is listened on (with the port that was assigned, if it was 0). A node that
/// listens on all interfaces has to be told by which address others reach it.
fn advertised(
    options: &ServerOptions,
    sql: &TcpListener,
    rpc: &TcpListener,
    http: &TcpListener,
) -> Result<pb::Addresses, Failure> {
    let host =
        options.advertise_rpc.as_ref().and_then(|address| Some(address.rsplit_once(':')?.0.to_owned()));
    let address = |said: &Option<String>, port: &TcpListener| {
        if let Some(said) = said {
            return Ok(said.clone());
        }
        let bound = port.local_addr().map_err(Failure::other)?;
        match (&host, bound.ip().is_unspecified()) {
            (_, false) => Ok(bound.to_string()),
            (Some(host), true) => Ok(format!("{host}:{}", bound.port())),
            (None, true) if options.single_node => Ok(format!("127.0.0.1:{}", bound.port())),
            (None, true) => Err(Failure::Usage(format!(
                "--advertise-rpc HOST:PORT is missing: nobody can connect to {bound}, so others have to be told a name"
            ))),
        }
    };
    Ok(pb::Addresses {
        rpc: address(&options.advertise_rpc, rpc)?,
        sql: address(&options.advertise_sql, sql)?,
        http: address(&options.advertise_http, http)?,
    })
}
