//! Reading packs: immutable objects with ranges, as any HTTP cache can keep them (I10).

use std::ops::Range;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE,
};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use shale_files::File;
use shale_model::{PackId, SeamError, SeamResult, Trouble};
use shale_repo::Repository;
use shale_wire::{BINARY_MEDIA_TYPE, Code, route};

use crate::access::Caller;
use crate::conditions::{Part, part};
use crate::failure::Failure;
use crate::handlers::{Problems, caching, header, parse};
use crate::limits::READ_BYTES;
use crate::shared::Shared;

/// Reads a pack, or one range of it. Several ranges are answered with the whole.
#[utoipa::path(method(get, head), path = route::PACK, tag = "read",
    params(
        ("pack" = String, Path, description = "`sha256:` and 64 hex digits"),
        ("range" = Option<String>, Header, description = "`bytes=` and one range")),
    responses(
        (status = 200, description = "The pack", body = Vec<u8>,
            content_type = "application/octet-stream"),
        (status = 206, description = "The range", body = Vec<u8>,
            content_type = "application/octet-stream"),
        (status = 304, description = "The client has it"),
        Problems))]
pub(crate) async fn get_pack(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    method: Method,
    Path(pack): Path<String>,
    mut headers: HeaderMap,
) -> Result<Response, Failure> {
    let id: PackId = parse(&pack)?;
    let etag = format!("\"{id}\"");
    if method == Method::HEAD {
        // Ranges are of `GET` alone (RFC 9110, 14.2).
        headers.remove(RANGE);
    }
    let (repository, tag) = (Arc::clone(&shared.repository), etag.clone());
    let open = move || Opened::open(&repository, id, |size| part(&headers, &tag, size));
    let opened = shared.work.run(open).await?;
    let named = [
        (ETAG, header(&etag)?),
        (CACHE_CONTROL, caching(&caller)),
        (ACCEPT_RANGES, header("bytes")?),
    ];
    let size = opened.size;
    let (status, length, range) = match &opened.part {
        Part::NotModified => return Ok((StatusCode::NOT_MODIFIED, named).into_response()),
        Part::Outside => {
            let detail = format!("the pack has {size} bytes");
            let failure = Failure::new(Code::RangeNotSatisfiable, detail);
            let range = header(&format!("bytes */{size}"))?;
            return Err(failure.with_header(CONTENT_RANGE, range));
        }
        Part::Whole => (StatusCode::OK, size, None),
        Part::Bytes(range) => {
            let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            let length = range.end - range.start;
            let range = Some((CONTENT_RANGE, header(&text)?));
            (StatusCode::PARTIAL_CONTENT, length, range)
        }
    };
    // The body of an answer to `HEAD` is left out below us, where nothing is read for it.
    let body = opened.into_body(shared);
    let mut response = (status, named, [(CONTENT_TYPE, BINARY_MEDIA_TYPE)], body).into_response();
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response.headers_mut().extend(range);
    Ok(response)
}

/// A pack, the part of it that is sent, and the first piece of that.
struct Opened {
    size: u64,
    part: Part,
    first: Bytes,
    reading: Reading,
}

impl Opened {
    /// Opens a pack and reads the first piece of the part that `part` chooses: most often all of it.
    fn open(
        repository: &Repository,
        id: PackId,
        part: impl FnOnce(u64) -> Part,
    ) -> SeamResult<Self> {
        let file = repository.open_pack(id)?;
        let failed = |error| SeamError::caused(Trouble::Failed, format!("read pack {id}"), error);
        let size = file.size().map_err(failed)?;
        let part = part(size);
        let mut reading = Reading {
            pack: id,
            file: file.into(),
            left: match &part {
                Part::Whole => 0..size,
                Part::Bytes(range) => range.clone(),
                Part::Outside | Part::NotModified => 0..0,
            },
        };
        let first = reading.next()?;
        Ok(Self {
            size,
            part,
            first,
            reading,
        })
    }

    /// The part, read piece by piece as the client takes it.
    fn into_body(self, shared: Arc<Shared>) -> Body {
        let (first, reading) = (Some(self.first), self.reading);
        let state = (first, Some(reading), shared);
        Body::from_stream(stream::unfold(
            state,
            |(first, reading, shared)| async move {
                if let Some(first) = first {
                    shared.metrics.sent_bytes.inc_by(first.len() as u64);
                    return Some((Ok(first), (None, reading, shared)));
                }
                let mut reading = reading.filter(|reading| !reading.left.is_empty())?;
                let pack = reading.pack;
                let work = move || -> SeamResult<_> { Ok((reading.next()?, reading)) };
                match shared.work.run(work).await {
                    Ok((bytes, reading)) => {
                        shared.metrics.sent_bytes.inc_by(bytes.len() as u64);
                        Some((Ok(bytes), (None, Some(reading), shared)))
                    }
                    Err(failure) => {
                        let action = format!("send pack {pack}");
                        shared.settings.observer.cut_off(&action, &failure.inside);
                        // The head is out; cutting the connection is the only way to say it.
                        let error = std::io::Error::other(failure.detail);
                        Some((Err(error), (None, None, shared)))
                    }
                }
            },
        ))
    }
}

/// An open pack and the bytes of it that are still to be sent. It stays readable if the pack is deleted
/// meanwhile.
struct Reading {
    pack: PackId,
    file: Arc<dyn File>,
    left: Range<u64>,
}

impl Reading {
    fn next(&mut self) -> SeamResult<Bytes> {
        let len = (self.left.end - self.left.start).min(READ_BYTES as u64);
        let mut bytes = vec![0; len as usize];
        self.file
            .read_at(self.left.start, &mut bytes)
            .map_err(|error| {
                let action = format!("read pack {} at {}", self.pack, self.left.start);
                SeamError::caused(Trouble::Failed, action, error)
            })?;
        self.left.start += len;
        Ok(bytes.into())
    }
}
