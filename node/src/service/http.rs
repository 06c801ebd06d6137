//! `/health`, `/ready` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use storage::Store;
use storage::seam::Seams;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::readiness::Readiness;
use crate::exit::Failure;

/// Between two rounds of the recorder's own upkeep.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Buckets of all histograms that end in `_seconds`: from 50 µs to 10 s.
const SECONDS: [f64; 16] =
    [5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The process's metrics: installed once, rendered on request.
pub fn install_metrics(seams: &Seams) -> Result<PrometheusHandle, Failure> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .map_err(Failure::other)?;
    let handle = builder.install_recorder().map_err(Failure::other)?;
    let (upkeep, own) = (handle.clone(), seams.clone());
    seams.spawn("metrics", async move {
        loop {
            own.beat(UPKEEP_EVERY).await;
            upkeep.run_upkeep();
        }
    });
    metrics::gauge!("flotilla_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Serves until cancelled.
pub async fn serve(
    listener: TcpListener,
    metrics: PrometheusHandle,
    readiness: Arc<Readiness>,
    store: Arc<Store>,
    stop: CancellationToken,
) {
    let ready = move || {
        let reason = readiness.reason();
        async move {
            match reason {
                None => (StatusCode::OK, "ready\n".to_owned()),
                Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
            }
        }
    };
    let render = move || {
        store.engine().record_metrics();
        let text = metrics.render();
        async move { ([("content-type", "text/plain; version=0.0.4")], text) }
    };
    let routes = Router::new()
        .route("/health", get(|| async { "alive\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(render));
    let serving = axum::serve(listener, routes).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = serving.await {
        tracing::error!("the HTTP port has failed: {error}");
    }
}
