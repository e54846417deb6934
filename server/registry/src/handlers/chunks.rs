//! Where chunks lie.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use shale_model::{Fetch, ID_LEN};
use shale_wire::limits::MAX_IDS_BODY_BYTES;
use shale_wire::{BINARY_MEDIA_TYPE, Code, decode_ids, encode_locations, route};
use tokio::runtime::Handle;

use crate::body::read_body;
use crate::failure::{Failure, chain};
use crate::handlers::Problems;
use crate::shared::Shared;
use crate::work::BodyKind;

/// Says where at most 10,000 chunks lie: 32 bytes each in, a table of packs and places out.
#[utoipa::path(post, path = route::LOCATE, tag = "read",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "The table; its bytes are described in docs/format.md",
            body = Vec<u8>, content_type = "application/octet-stream"),
        Problems))]
pub(crate) async fn locate(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Result<impl IntoResponse, Failure> {
    let most = (BodyKind::Small, MAX_IDS_BODY_BYTES);
    let body = read_body(&shared, &headers, body, most).await?;
    let count = body.len() / ID_LEN;
    let (repository, runtime) = (Arc::clone(&shared.repository), Handle::current());
    // The repository's futures block, so they are polled where that is allowed.
    let work = move || -> Result<_, Failure> {
        let ids = decode_ids(&body).map_err(|e| Failure::new(Code::Invalid, chain(&e)))?;
        drop(body);
        let locations = runtime.block_on(repository.locate(&ids))?;
        Ok(encode_locations(&locations))
    };
    let table = shared.work.look_up(count, work).await?;
    Ok(([(CONTENT_TYPE, BINARY_MEDIA_TYPE)], table))
}
