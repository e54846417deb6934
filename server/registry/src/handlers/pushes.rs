//! Pushing: a lease, what is missing, packs, layer roots and templates.

use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use shale_model::{ID_LEN, LayerId, PackId, SeamError, Sink, TemplateId};
use shale_wire::limits::{MAX_IDS_BODY_BYTES, MAX_LAYER_BODY_BYTES, MAX_TEMPLATE_BODY_BYTES};
use shale_wire::{BINARY_MEDIA_TYPE, Code, PushId, PushOpened, decode_ids, encode_missing, route};
use tokio::sync::mpsc;

use crate::access::Caller;
use crate::body::{BoundedBody, read_body};
use crate::failure::{Failure, chain};
use crate::handlers::{Problems, parse};
use crate::limits::UPLOAD_PIECES;
use crate::pushes::PushInUse;
use crate::random::random;
use crate::shared::Shared;
use crate::work::{BodyKind, WorkPlace};

/// Opens a push. Chunks that are answered as present are kept for it until it ends.
#[utoipa::path(post, path = route::PUSHES, tag = "push",
    responses((status = 201, description = "The push", body = PushOpened), Problems))]
pub(crate) async fn open_push(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
) -> Result<impl IntoResponse, Failure> {
    let bytes = random().map_err(|error| Failure::internal(error.to_string()))?;
    let id = PushId::from_bytes(bytes);
    shared.pushes.open(id, shared.repository.push(), caller)?;
    let opened = PushOpened {
        push: id.to_string(),
        idle_seconds: shared.settings.limits.work.push_idle_time.as_secs(),
    };
    Ok((StatusCode::CREATED, Json(opened)))
}

/// Ends a push. What it stored stays; what nobody refers to may be deleted.
#[utoipa::path(delete, path = route::PUSH, tag = "push",
    params(("push" = String, Path, description = "The push")),
    responses((status = 204, description = "It has ended"), Problems))]
pub(crate) async fn end_push(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(push): Path<String>,
) -> Result<StatusCode, Failure> {
    shared.pushes.end(&push, &caller)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says which of at most 10,000 chunks are missing: 32 bytes each in, one bit each out.
#[utoipa::path(post, path = route::PUSH_MISSING, tag = "push",
    params(("push" = String, Path, description = "The push")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "Bit i % 8 of byte i / 8 is 1 if chunk i is missing",
            body = Vec<u8>, content_type = "application/octet-stream"),
        Problems))]
pub(crate) async fn missing(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(push): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<impl IntoResponse, Failure> {
    let push = shared.pushes.get(&push, &caller)?;
    let most = (BodyKind::Small, MAX_IDS_BODY_BYTES);
    let body = read_body(&shared, &headers, body, most).await?;
    let count = body.len() / ID_LEN;
    let work = move || -> Result<_, Failure> {
        let ids = decode_ids(&body).map_err(|e| Failure::new(Code::Invalid, chain(&e)))?;
        drop(body);
        Ok(push.missing(&ids)?)
    };
    let missing = shared.work.look_up(count, work).await?;
    Ok((
        [(CONTENT_TYPE, BINARY_MEDIA_TYPE)],
        encode_missing(&missing),
    ))
}

/// Uploads a pack. It is checked as a whole, every chunk hashed, before it is stored. Uploading it again
/// changes nothing.
#[utoipa::path(put, path = route::PUSH_PACK, tag = "push",
    params(
        ("push" = String, Path, description = "The push"),
        ("pack" = String, Path, description = "`sha256:` and the hash of the body")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "It is stored, durably"), Problems))]
pub(crate) async fn put_pack(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path((push, pack)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Failure> {
    let pack: PackId = parse(&pack)?;
    let limits = &shared.settings.limits.connection;
    let time = (limits.pack_time, limits);
    let mut body = BoundedBody::new(&headers, body, limits.pack_bytes, time)?;
    let done = match shared.pushes.get(&push, &caller) {
        Ok(push) => receive(&shared, push, pack, &mut body).await,
        Err(failure) => Err(failure),
    };
    if done.is_err() {
        body.drain().await;
    }
    shared
        .metrics
        .pack_received(done.as_ref().map(drop).map_err(drop));
    done.map(|()| StatusCode::NO_CONTENT)
}

/// What the thread that writes a pack is sent.
enum Piece {
    Bytes(Bytes),
    /// All has come, and there is a place to verify it. If the sender goes without it, the upload was cut off.
    End(WorkPlace),
}

async fn receive(
    shared: &Shared,
    push: PushInUse,
    pack: PackId,
    body: &mut BoundedBody,
) -> Result<(), Failure> {
    let (sender, pieces) = mpsc::channel(UPLOAD_PIECES);
    let receiving = shared
        .work
        .receive(move || write_pack(&push, pack, pieces))
        .await?;
    while let Some(bytes) = body.next().await? {
        shared.metrics.received_bytes.inc_by(bytes.len() as u64);
        if sender.send(Piece::Bytes(bytes)).await.is_err() {
            // The thread ended early; it says why below.
            break;
        }
    }
    if !sender.is_closed() {
        let place = shared.work.verifying().await?;
        // If nobody receives it, the thread says why.
        let _ = sender.send(Piece::End(place)).await;
    }
    receiving.end().await
}

fn write_pack(
    push: &PushInUse,
    pack: PackId,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<(), SeamError> {
    let mut receiver = push.receive_pack()?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => receiver.write(&bytes)?,
            Piece::End(_place) => return receiver.finish(pack).map(drop),
        }
    }
    // Cut off: nobody waits for an answer, and dropping the receiver leaves nothing behind.
    Ok(())
}

/// Stores a layer root. Every chunk that the layer names must be there.
#[utoipa::path(put, path = route::PUSH_LAYER, tag = "push",
    params(
        ("push" = String, Path, description = "The push"),
        ("layer" = String, Path, description = "`blake3:` and the hash of the body")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "It is stored, durably"), Problems))]
pub(crate) async fn put_layer(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path((push, layer)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Failure> {
    let push = shared.pushes.get(&push, &caller)?;
    let layer: LayerId = parse(&layer)?;
    let most = (BodyKind::Layer, MAX_LAYER_BODY_BYTES);
    let root = read_body(&shared, &headers, body, most).await?;
    if LayerId::of(&root) != layer {
        return Err(other_bytes(format!("layer {layer}")));
    }
    shared.work.run(move || push.put_layer(&root)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stores a template's canonical JSON. Its layers must be there.
#[utoipa::path(put, path = route::PUSH_TEMPLATE, tag = "push",
    params(
        ("push" = String, Path, description = "The push"),
        ("template" = String, Path, description = "`blake3:` and the hash of the body")),
    request_body(content = Object, content_type = "application/json"),
    responses((status = 204, description = "It is stored, durably"), Problems))]
pub(crate) async fn put_template(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path((push, template)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Failure> {
    let push = shared.pushes.get(&push, &caller)?;
    let template: TemplateId = parse(&template)?;
    let most = (BodyKind::Small, MAX_TEMPLATE_BODY_BYTES);
    let json = read_body(&shared, &headers, body, most).await?;
    if TemplateId::of(&json) != template {
        return Err(other_bytes(format!("template {template}")));
    }
    shared.work.run(move || push.put_template(&json)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn other_bytes(what: String) -> Failure {
    Failure::new(Code::Integrity, format!("the body is not {what}"))
}
