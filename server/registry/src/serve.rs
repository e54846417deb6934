//! Connections: accepted, bounded in number and time, and finished when the server stops.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use shale_wire::Fingerprint;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::limits::{MAX_BUFFER_BYTES, MAX_HEADER_BYTES, MAX_HEADERS};
use crate::shared::Shared;
use crate::stall::StallGuard;
use crate::tls::Certificate;

/// Pause after a connection could not be accepted, as when there is no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A registry that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    certificate: watch::Sender<Option<Certificate>>,
    router: Router,
    shared: Arc<Shared>,
}

/// Replaces the certificate of a server that runs.
#[derive(Clone)]
pub struct CertificateSlot(watch::Sender<Option<Certificate>>);

impl CertificateSlot {
    /// New connections get this certificate; those that there are go on with theirs. A server without TLS stays so.
    pub fn replace(&self, certificate: Certificate) {
        self.0.send_if_modified(|served| {
            let has_one = served.is_some();
            if has_one {
                *served = Some(certificate);
            }
            has_one
        });
    }

    /// The fingerprint of the one that new connections get; `None` without TLS.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.0.borrow().as_ref().map(Certificate::fingerprint)
    }
}

impl Server {
    pub(crate) fn new(
        listener: TcpListener,
        address: SocketAddr,
        certificate: Option<Certificate>,
        router: Router,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            listener,
            address,
            certificate: watch::Sender::new(certificate),
            router,
            shared,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The fingerprint of its certificate, to be printed; `None` without TLS.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        let certificate = self.certificate.borrow();
        certificate.as_ref().map(Certificate::fingerprint)
    }

    /// Where its certificate can be replaced while it runs.
    pub fn certificate_slot(&self) -> CertificateSlot {
        CertificateSlot(self.certificate.clone())
    }

    /// Serves until `stop` is ready. Then it accepts no more, gives requests on their way `grace` to
    /// finish, and cuts off what is left.
    pub async fn run(self, stop: impl Future<Output = ()>, grace: Duration) {
        let places = self.shared.settings.limits.connection.connections;
        let places = Arc::new(Semaphore::new(places));
        let (stopping, stopped) = watch::channel(());
        let mut stop = pin!(stop);
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                // Those beyond the limit wait in the listener's queue.
                let place = Arc::clone(&places).acquire_owned().await;
                (place, self.listener.accept().await)
            };
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                (place, accepted) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let connection = self.connection(stream, stopped.clone());
                        connections.spawn(async move {
                            let _place = place;
                            connection.await;
                        });
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        self.shared.stopping.store(true, Ordering::Relaxed);
        drop(self.listener);
        drop(stopping);
        let finish = async { while connections.join_next().await.is_some() {} };
        if timeout(grace, finish).await.is_err() {
            connections.shutdown().await;
        }
    }

    /// Serves one connection to its end.
    fn connection(
        &self,
        stream: TcpStream,
        stopped: watch::Receiver<()>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (router, shared) = (self.router.clone(), Arc::clone(&self.shared));
        let tls = self.certificate.borrow().as_ref().map(Certificate::config);
        async move {
            let _counted = Counted::new(&shared);
            // Heads and small bodies go out at once; a failure here costs only delay.
            let _ = stream.set_nodelay(true);
            let limits = &shared.settings.limits.connection;
            let stream = StallGuard::new(stream, limits.write_stall_time);
            // How a connection ended is the client's to know: each request was accounted for.
            let _ = match tls {
                None => serve(stream, router, limits.header_time, stopped).await,
                Some(config) => {
                    let accept = TlsAcceptor::from(config).accept(stream);
                    match timeout(limits.header_time, accept).await {
                        Ok(Ok(stream)) => serve(stream, router, limits.header_time, stopped).await,
                        _ => Ok(()),
                    }
                }
            };
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    header_time: Duration,
    mut stopped: watch::Receiver<()>,
) -> hyper::Result<()> {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_time)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        done = &mut connection => return done,
        // The sender is dropped when the server stops.
        _ = stopped.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// Counts a connection while it lives, however it ends.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.metrics.connections.inc();
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}
