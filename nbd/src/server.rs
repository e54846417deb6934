//! The server: connections from their greeting to their end.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::connection::{End, Transmission, TransmissionError};
use crate::counters::{Counters, add};
use crate::export::Exports;
use crate::handshake::{Handshake, HandshakeError, Progress, Session};

/// Wait after a failed `accept`: without it, a process that is out of file descriptors would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Failed `accept`s in a row after which the listener is taken to be broken, after some 10 seconds.
const MAX_ACCEPT_FAILURES: u32 = 200;

/// How a server treats its clients.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Longest time from the greeting to the end of the handshake.
    pub handshake_deadline: Duration,
    /// Longest time to finish what is in flight, when a client says goodbye or the server stops.
    pub drain_deadline: Duration,
    /// Most connections at a time; further ones wait in the listener's queue. Each may hold up to
    /// [`crate::limits::MAX_BYTES_IN_FLIGHT`].
    pub max_connections: usize,
}

impl Default for Settings {
    /// 10 seconds for the handshake and to drain; 64 connections.
    fn default() -> Self {
        Self {
            handshake_deadline: Duration::from_secs(10),
            drain_deadline: Duration::from_secs(10),
            max_connections: 64,
        }
    }
}

/// Why a connection ended otherwise than the client or the server wanted.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket failed during the handshake.
    #[error("the connection failed during the handshake")]
    Io(#[source] io::Error),
    /// Client and server could not agree.
    #[error("the handshake failed")]
    Handshake(#[from] HandshakeError),
    /// [`Settings::handshake_deadline`] passed.
    #[error("the client did not finish the handshake in time")]
    HandshakeDeadline,
    /// The client or the network, while requests were served.
    #[error("the connection was dropped")]
    Transmission(#[from] TransmissionError),
    /// [`Settings::drain_deadline`] passed with requests in flight.
    #[error("requests were still in flight when time was up")]
    DrainDeadline,
}

/// An NBD server for a set of exports. Cloning gives another handle to the same one.
///
/// Needs a Tokio runtime with time and I/O.
#[derive(Clone)]
pub struct Server {
    exports: Arc<Exports>,
    settings: Settings,
    counters: Arc<Counters>,
}

impl Server {
    /// A server of these exports.
    pub fn new(exports: Exports, settings: Settings) -> Self {
        Self {
            exports: Arc::new(exports),
            settings,
            counters: Arc::new(Counters::default()),
        }
    }

    /// What it did so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Accepts and serves connections until `shutdown` is done; then finishes, within
    /// [`Settings::drain_deadline`], what is in flight on them, and closes them. A connection that ends
    /// by an error ends alone; it is counted.
    ///
    /// # Errors
    /// Accepting failed many times in a row; the connections were closed as on shutdown.
    pub async fn serve(
        &self,
        listener: UnixListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut shutdown = pin!(shutdown);
        let (stop, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut failures = 0;
        let result = loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break Ok(()),
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept(),
                    if connections.len() < self.settings.max_connections => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    failures = 0;
                    let server = self.clone();
                    let mut stopped = stopped.clone();
                    connections.spawn(async move {
                        // The error is when the sender is gone, which means the same.
                        let stop = async { drop(stopped.changed().await) };
                        drop(server.serve_connection(stream, stop).await);
                    });
                }
                Err(error) if failures >= MAX_ACCEPT_FAILURES => break Err(error),
                Err(_) => {
                    failures += 1;
                    sleep(ACCEPT_RETRY).await;
                }
            }
        };
        drop(listener);
        drop(stop);
        while connections.join_next().await.is_some() {}
        result
    }

    /// Serves one client on any stream, until it leaves or `shutdown` is done.
    pub async fn serve_connection<S>(
        &self,
        stream: S,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let _open = OpenConnection::count(Arc::clone(&self.counters));
        let result = self.run_connection(stream, shutdown).await;
        if result.is_err() {
            add(&self.counters.connections_failed, 1);
        }
        result
    }

    async fn run_connection<S>(
        &self,
        mut stream: S,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut shutdown = pin!(shutdown);
        let handshake = timeout(
            self.settings.handshake_deadline,
            shake_hands(&mut stream, Arc::clone(&self.exports)),
        );
        let session = tokio::select! {
            () = &mut shutdown => return Ok(()),
            session = handshake => session.map_err(|_| ConnectionError::HandshakeDeadline)??,
        };
        let Some(session) = session else {
            return Ok(());
        };
        let mut transmission = Transmission::new(stream, session, Arc::clone(&self.counters));
        let result = match transmission.serve(shutdown).await {
            Ok(End::Gone) => Ok(()),
            Ok(End::Drain) => timeout(self.settings.drain_deadline, transmission.drain())
                .await
                .map_err(|_| ConnectionError::DrainDeadline)
                .and_then(|drained| drained.map_err(ConnectionError::Transmission)),
            Err(error) => Err(ConnectionError::Transmission(error)),
        };
        transmission.abandon().await;
        result
    }
}

/// Counts a connection's end, also if its future is dropped.
struct OpenConnection {
    counters: Arc<Counters>,
}

impl OpenConnection {
    fn count(counters: Arc<Counters>) -> Self {
        add(&counters.connections_opened, 1);
        Self { counters }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        add(&self.counters.connections_closed, 1);
    }
}

/// Moves bytes between a stream and the handshake; `None` if the client left in peace.
async fn shake_hands<S>(
    stream: &mut S,
    exports: Arc<Exports>,
) -> Result<Option<Session>, ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut handshake = Handshake::new(exports);
    let mut input = Vec::new();
    let mut output = Handshake::greeting();
    loop {
        send(stream, &mut output)
            .await
            .map_err(ConnectionError::Io)?;
        input.resize(handshake.wants(), 0);
        if let Err(error) = stream.read_exact(&mut input).await {
            return match error.kind() {
                // Clients that only list exports, and probes, leave like this.
                io::ErrorKind::UnexpectedEof => Ok(None),
                _ => Err(ConnectionError::Io(error)),
            };
        }
        let session = match handshake.take(&input, &mut output) {
            Ok(Progress::More) => continue,
            Ok(Progress::Transmit(session)) => Ok(Some(session)),
            Ok(Progress::Closed) => Ok(None),
            Err(error) => Err(ConnectionError::Handshake(error)),
        };
        let sent = send(stream, &mut output).await;
        return match (session, sent) {
            (Ok(Some(_)), Err(error)) => Err(ConnectionError::Io(error)),
            // Who leaves need not wait for the last answer.
            (session, _) => session,
        };
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, output: &mut Vec<u8>) -> io::Result<()> {
    if !output.is_empty() {
        stream.write_all(output).await?;
        stream.flush().await?;
        output.clear();
    }
    Ok(())
}
