//! What a monitoring system reads of a host: its metrics, and whether it lives. Nothing can be changed here.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use shale_wire::{METRICS_MEDIA_TYPE, VersionInfo, names_this_machine, route};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::host::Host;

/// Connections at a time: a few monitoring systems. Others wait in the socket's queue.
const MAX_CONNECTIONS: usize = 16;

/// Time of a connection, which is one request, from its acceptance until the answer is read. Whoever scrapes gives up
/// after 10 s (Prometheus' default).
const CONNECTION_TIME: Duration = Duration::from_secs(30);

/// Largest head of a request, in bytes, and what is buffered of a connection. Those of monitoring systems are below 1 KiB.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// Pause after a connection could not be accepted, as when there is no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";

/// Who may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Programs of this machine.
    ThisMachine,
    /// Whoever reaches the address: the operator says so.
    Everybody,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is reachable from elsewhere, and nobody said that everybody may read.
    #[error(
        "{0} is reachable from other machines, and metrics are shown to everybody who asks, without TLS"
    )]
    Exposed(SocketAddr),
    /// The address cannot be used.
    #[error("listen on {address} for metrics")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket that listens, and who may read there.
#[derive(Debug)]
pub struct HttpListener {
    listener: TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
    exposure: Exposure,
}

/// Listens on an address. Must be called within the runtime.
///
/// # Errors
/// The address is not of this machine's loopback while only this machine may read; or it cannot be used.
pub async fn listen_http(
    address: SocketAddr,
    exposure: Exposure,
) -> Result<HttpListener, HttpError> {
    if exposure == Exposure::ThisMachine && !address.ip().to_canonical().is_loopback() {
        return Err(HttpError::Exposed(address));
    }
    let failed = |source| HttpError::Address { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(HttpListener {
        listener,
        address,
        exposure,
    })
}

/// Answers until `ended`; requests on their way are cut off then.
pub async fn serve_http(host: Arc<Host>, listener: HttpListener, ended: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            let place = places.clone().acquire_owned().await;
            let Ok((stream, _)) = listener.listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Those that have ended take no room.
            while connections.try_join_next().is_some() {}
            let (host, exposure) = (host.clone(), listener.exposure);
            connections.spawn(async move {
                // How it ended is the client's to know.
                let _ = timeout(CONNECTION_TIME, serve_one(host, stream, exposure)).await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = ended => {}
    }
}

async fn serve_one(host: Arc<Host>, stream: TcpStream, exposure: Exposure) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let host = host.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(&host, &request, exposure).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIME)
        .keep_alive(false)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(
    host: &Arc<Host>,
    request: &Request<Incoming>,
    exposure: Exposure,
) -> Response<Full<Bytes>> {
    let called = request.headers().get(HOST);
    let called = called.and_then(|name| name.to_str().ok());
    if exposure == Exposure::ThisMachine && !names_this_machine(called.unwrap_or_default()) {
        let text = "it answers to addresses and `localhost` only\n";
        return said(StatusCode::FORBIDDEN, TEXT, text);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = said(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        answer
            .headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        route::METRICS => match host.metrics().await {
            Ok(text) => said(StatusCode::OK, METRICS_MEDIA_TYPE, text),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be told");
                said(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "see the log\n")
            }
        },
        route::HEALTH => said(StatusCode::OK, TEXT, "ok\n"),
        route::READY if host.is_ending() => {
            said(StatusCode::SERVICE_UNAVAILABLE, TEXT, "it ends\n")
        }
        route::READY => said(StatusCode::OK, TEXT, "ready\n"),
        route::VERSION => {
            let version = VersionInfo {
                name: "shale".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                // No part of the interface that has versions is here.
                api: Vec::new(),
            };
            let text = serde_json::to_string(&version).unwrap_or_default();
            said(StatusCode::OK, "application/json", text)
        }
        _ => {
            let text = "there are /metrics, /healthz, /readyz and /version\n";
            said(StatusCode::NOT_FOUND, TEXT, text)
        }
    }
}

fn said(
    status: StatusCode,
    media_type: &'static str,
    text: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let value = hyper::header::HeaderValue::from_static;
    headers.insert(CONTENT_TYPE, value(media_type));
    headers.insert(CACHE_CONTROL, value("no-store"));
    answer
}
