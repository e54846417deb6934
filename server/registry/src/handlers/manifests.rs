//! Reading layer roots and templates: named by their content, so never changing.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use shale_model::{Catalog, LayerId, TemplateId};
use shale_wire::{BINARY_MEDIA_TYPE, route};

use crate::access::Caller;
use crate::conditions::client_has;
use crate::failure::Failure;
use crate::handlers::{Problems, caching, header, parse};
use crate::shared::Shared;

/// Reads a layer root.
#[utoipa::path(method(get, head), path = route::LAYER, tag = "read",
    params(("layer" = String, Path, description = "`blake3:` and 64 hex digits")),
    responses(
        (status = 200, description = "The root", body = Vec<u8>,
            content_type = "application/octet-stream"),
        (status = 304, description = "The client has it"),
        Problems))]
pub(crate) async fn get_layer(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(layer): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let id: LayerId = parse(&layer)?;
    let repository = Arc::clone(&shared.repository);
    let root = shared.work.run(move || repository.layer(id)).await?;
    immutable(&headers, &caller, &layer, BINARY_MEDIA_TYPE, root)
}

/// Reads a template.
#[utoipa::path(method(get, head), path = route::TEMPLATE, tag = "read",
    params(("template" = String, Path, description = "`blake3:` and 64 hex digits")),
    responses(
        (status = 200, description = "Its canonical JSON", body = Object),
        (status = 304, description = "The client has it"),
        Problems))]
pub(crate) async fn get_template(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(template): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let id: TemplateId = parse(&template)?;
    let repository = Arc::clone(&shared.repository);
    let json = shared.work.run(move || repository.template(id)).await?;
    immutable(&headers, &caller, &template, "application/json", json)
}

/// The answer for what is named by its content.
fn immutable(
    headers: &HeaderMap,
    caller: &Caller,
    id: &str,
    media_type: &'static str,
    bytes: Vec<u8>,
) -> Result<Response, Failure> {
    let etag = format!("\"{id}\"");
    let named = [(ETAG, header(&etag)?), (CACHE_CONTROL, caching(caller))];
    if client_has(headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, named).into_response());
    }
    Ok((named, [(CONTENT_TYPE, media_type)], bytes).into_response())
}
