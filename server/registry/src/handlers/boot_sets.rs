//! What boots of templates read, and the boot sets made of it.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use shale_model::{BootSets, TemplateId};
use shale_wire::limits::MAX_TRACE_BODY_BYTES;
use shale_wire::{BootSetInfo, Code, decode_trace, route};
use tokio::runtime::Handle;

use crate::body::read_body;
use crate::failure::{Failure, chain};
use crate::handlers::{Problems, header, parse};
use crate::shared::Shared;
use crate::work::BodyKind;

/// Tells what a boot of a template read until it was ready: at most 65,536 chunks, 32 bytes each, in order of
/// first use. Those that are not the template's are left out.
#[utoipa::path(post, path = route::TRACES, tag = "boot",
    params(("template" = String, Path, description = "`blake3:` and 64 hex digits")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "It counts from now on"), Problems))]
pub(crate) async fn add_trace(
    State(shared): State<Arc<Shared>>,
    Path(template): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Failure> {
    let template: TemplateId = parse(&template)?;
    let most = (BodyKind::Small, MAX_TRACE_BODY_BYTES);
    let body = read_body(&shared, &headers, body, most).await?;
    let chunks = decode_trace(&body).map_err(|e| Failure::new(Code::Invalid, chain(&e)))?;
    let turn = shared.work.boot_set().await?;
    let (repository, runtime) = (Arc::clone(&shared.repository), Handle::current());
    let work = move || {
        let _held = (body, turn);
        runtime.block_on(repository.add_trace(template, &chunks))
    };
    shared.work.run(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says which pack holds what boots of a template read, in that order; if it has none, that of the template which
/// shares most layers.
#[utoipa::path(method(get, head), path = route::BOOT_SET, tag = "boot",
    params(("template" = String, Path, description = "`blake3:` and 64 hex digits")),
    responses((status = 200, description = "Where it is", body = BootSetInfo), Problems))]
pub(crate) async fn get_boot_set(
    State(shared): State<Arc<Shared>>,
    Path(template): Path<String>,
) -> Result<impl IntoResponse, Failure> {
    let template: TemplateId = parse(&template)?;
    let (repository, runtime) = (Arc::clone(&shared.repository), Handle::current());
    let work = move || runtime.block_on(repository.boot_set(template));
    let found = shared.work.run(work).await?;
    let found = found.ok_or_else(|| {
        let detail = format!("no boot of template {template}, or of one like it, was told of");
        Failure::new(Code::NotFound, detail)
    })?;
    Ok((
        [(CACHE_CONTROL, header("no-cache")?)],
        Json(BootSetInfo::from(found)),
    ))
}
