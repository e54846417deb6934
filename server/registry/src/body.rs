//! Request bodies: bounded in bytes and in time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use shale_wire::Code;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::limits::ConnectionLimits;
use crate::shared::Shared;
use crate::work::{BodyKind, WorkPlace};

/// Time for which the rest of a refused body is read.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A body read piece by piece.
pub(crate) struct BoundedBody {
    body: Body,
    left: u64,
    max: u64,
    idle: Duration,
    deadline: Instant,
}

impl BoundedBody {
    /// A body of at most `max` bytes that comes within `time`. What its head announces to be longer
    /// is refused before it is read.
    pub(crate) fn new(
        headers: &HeaderMap,
        body: Body,
        max: u64,
        (time, limits): (Duration, &ConnectionLimits),
    ) -> Result<Self, Failure> {
        check_announced(headers, max)?;
        Ok(Self {
            body,
            left: max,
            max,
            idle: limits.body_idle_time,
            deadline: Instant::now() + time,
        })
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let until = self.deadline.min(Instant::now() + self.idle);
        let frame = match tokio::time::timeout_at(until, self.body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                let detail = format!("the body was cut off: {error}");
                return Err(Failure::new(Code::Invalid, detail));
            }
            Ok(None) => return Ok(None),
            Err(_) => return Err(Failure::new(Code::TooSlow, "the body came too slowly")),
        };
        // Trailers carry nothing of ours.
        let bytes = frame.into_data().unwrap_or_default();
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| too_large(self.max))?;
        Ok(Some(bytes))
    }

    /// Takes what still comes, for a while. A client that is cut off while it sends may never read why.
    pub(crate) async fn drain(&mut self) {
        self.deadline = self.deadline.min(Instant::now() + DRAIN_TIME);
        while let Ok(Some(_)) = self.next().await {}
    }
}

/// A body in memory. What works with it keeps it until it is done, so that its room stays taken as long.
pub(crate) struct HeldBody {
    bytes: Vec<u8>,
    _room: WorkPlace,
}

impl std::ops::Deref for HeldBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// All of a body of at most `max` bytes, for which there is room before its first byte is read.
pub(crate) async fn read_body(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
    (kind, max): (BodyKind, usize),
) -> Result<HeldBody, Failure> {
    let len = check_announced(headers, max as u64)?.map_or(max, |len| len as usize);
    let room = shared.work.body(kind, len).await?;
    let limits = &shared.settings.limits.connection;
    let mut body = BoundedBody::new(headers, body, len as u64, (limits.body_time, limits))?;
    let mut bytes = Vec::with_capacity(len);
    while let Some(piece) = body.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(HeldBody { bytes, _room: room })
}

/// The length that the head of a request gives for its body, at most `max`.
fn check_announced(headers: &HeaderMap, max: u64) -> Result<Option<u64>, Failure> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    match announced.and_then(|v| v.parse().ok()) {
        Some(len) if len > max => Err(too_large(max)),
        announced => Ok(announced),
    }
}

fn too_large(max: u64) -> Failure {
    Failure::new(
        Code::TooLarge,
        format!("the body has more than {max} bytes"),
    )
}
