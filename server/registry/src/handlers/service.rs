//! About the service itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use shale_model::{Catalog, RefName};
use shale_wire::{Code, METRICS_MEDIA_TYPE, VersionInfo, route};

use crate::failure::Failure;
use crate::handlers::Problems;
use crate::router::openapi_json;
use crate::shared::Shared;

/// Answers as long as the process lives.
#[utoipa::path(get, path = route::HEALTH, tag = "service",
    responses((status = 200, description = "It lives", body = String)))]
pub(crate) async fn health() -> &'static str {
    "ok\n"
}

/// Answers whether new work can be done: the repository answers, and the server does not stop.
#[utoipa::path(get, path = route::READY, tag = "service",
    responses((status = 200, description = "It can", body = String), Problems))]
pub(crate) async fn ready(State(shared): State<Arc<Shared>>) -> Result<&'static str, Failure> {
    if shared.stopping.load(Ordering::Relaxed) {
        return Err(Failure::new(Code::Unavailable, "the server stops"));
    }
    let repository = Arc::clone(&shared.repository);
    let asked = move || match RefName::new("shale", "readiness", "probe") {
        Ok(name) => repository.get_ref(&name).map(drop),
        Err(_) => Ok(()),
    };
    match shared.work.run(asked).await {
        Ok(()) => Ok("ready\n"),
        Err(failure) => {
            let detail = "the repository does not answer";
            Err(Failure::new(Code::Unavailable, detail).with_inside(failure.inside))
        }
    }
}

/// Metrics in the OpenMetrics text format.
#[utoipa::path(get, path = route::METRICS, tag = "service",
    responses((status = 200, description = "The metrics", body = String), Problems))]
pub(crate) async fn metrics(
    State(shared): State<Arc<Shared>>,
) -> Result<impl IntoResponse, Failure> {
    let text = shared.metrics.render(shared.pushes.count());
    let text = text.map_err(|error| Failure::internal(format!("render metrics: {error}")))?;
    Ok(([(CONTENT_TYPE, METRICS_MEDIA_TYPE)], text))
}

/// Says which version answers.
#[utoipa::path(get, path = route::VERSION, tag = "service",
    responses((status = 200, description = "The version", body = VersionInfo)))]
pub(crate) async fn version() -> Json<VersionInfo> {
    Json(VersionInfo {
        name: "shale".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        api: vec!["v1".into()],
    })
}

/// This document.
#[utoipa::path(get, path = route::OPENAPI, tag = "service",
    responses((status = 200, description = "OpenAPI", body = Object)))]
pub(crate) async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], openapi_json())
}
