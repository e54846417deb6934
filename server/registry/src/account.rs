//! The outermost layer: gives each request its id, renders problems, counts, and tells the observer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::ALLOW;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use shale_wire::{Code, REQUEST_ID_HEADER};

use crate::failure::Failure;
use crate::random::{NoRandomness, random};
use crate::settings::Answered;
use crate::shared::Shared;

/// Gives out request ids: a random part for the process, and a number.
pub(crate) struct RequestIds {
    process: u32,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> Result<Self, NoRandomness> {
        Ok(Self {
            process: u32::from_le_bytes(random()?),
            next: AtomicU64::new(1),
        })
    }

    fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}-{number}", self.process)
    }
}

/// Around every route, and around what has none.
pub(crate) async fn account(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let started = (shared.settings.clock)();
    let id = shared.request_ids.next();
    let method = known_method(request.method());
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_default();

    let mut response = next.run(request).await;
    let failure = failure_of(&mut response);
    let inside = failure.as_ref().map(|failure| failure.inside.clone());
    if let Some(failure) = failure {
        let allow = response.headers_mut().remove(ALLOW);
        response = failure.render(&id);
        response
            .headers_mut()
            .extend(allow.map(|allow| (ALLOW, allow)));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }

    let took = (shared.settings.clock)().saturating_duration_since(started);
    let status = response.status().as_u16();
    shared.metrics.answered(method, &route, status, took);
    shared.settings.observer.answered(&Answered {
        request_id: &id,
        method,
        route: &route,
        status,
        took,
        failure: inside.as_deref(),
    });
    response
}

/// The failure behind an error answer. Those of the web framework's own have none; their status says
/// what they are.
fn failure_of(response: &mut Response) -> Option<Failure> {
    let own = response.extensions_mut().remove::<Failure>();
    let status = response.status();
    own.or_else(|| match status.as_u16() {
        405 => Some(Failure::new(Code::MethodNotAllowed, "see the Allow header")),
        400.. => Some(Failure::new(
            Code::of_status(status.as_u16()),
            "the request is malformed",
        )),
        _ => None,
    })
}

/// Methods as a label: clients may invent any number of them.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
