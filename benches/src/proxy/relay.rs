//! Connections through a link.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::{Link, Wire};

/// Most bytes that are read at once: what a network card's segmentation takes in one piece.
const PARCEL_BYTES: usize = 64 << 10;

/// A proxy between connections that it accepts and one server.
#[derive(Debug)]
pub struct Proxy {
    to: SocketAddr,
    window: u32,
    up: Direction,
    down: Direction,
    connections: AtomicU64,
}

#[derive(Debug)]
struct Direction {
    wire: Wire,
    bytes: AtomicU64,
}

/// What has passed since the proxy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Connections accepted.
    pub connections: u64,
    /// Bytes from clients to the server.
    pub up_bytes: u64,
    /// Bytes from the server to clients.
    pub down_bytes: u64,
}

impl Proxy {
    /// A proxy to `to` over a link of its own.
    ///
    /// # Errors
    ///
    /// The machine has no room for two more threads.
    pub fn new(link: Link, to: SocketAddr) -> io::Result<Arc<Self>> {
        let direction = || -> io::Result<_> {
            Ok(Direction {
                wire: Wire::new(link)?,
                bytes: AtomicU64::new(0),
            })
        };
        Ok(Arc::new(Self {
            to,
            window: link.window(),
            up: direction()?,
            down: direction()?,
            connections: AtomicU64::new(0),
        }))
    }

    /// Serves until the future is dropped, which ends all connections.
    ///
    /// # Errors
    ///
    /// `listener` fails. A connection that fails ends alone.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (client, _) = accepted?;
                    self.connections.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(self.clone().relay(client));
                }
                // So that the set does not grow with every connection that ever was.
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// What has passed.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            connections: self.connections.load(Ordering::Relaxed),
            up_bytes: self.up.bytes.load(Ordering::Relaxed),
            down_bytes: self.down.bytes.load(Ordering::Relaxed),
        }
    }

    async fn relay(self: Arc<Self>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.to).await?;
        // The link does the waiting here, not the kernel.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let up = self.up.carry(from_client, to_server, self.window);
        let down = self.down.carry(from_server, to_client, self.window);
        tokio::try_join!(up, down)?;
        Ok(())
    }
}

impl Direction {
    /// Carries bytes to their end. The end travels, too: as a parcel of no bytes.
    async fn carry(
        &self,
        mut from: OwnedReadHalf,
        to: OwnedWriteHalf,
        window: u32,
    ) -> io::Result<()> {
        let (arrive, arrived) = mpsc::unbounded_channel();
        // No more than the window is in the wire and in the channel behind it.
        let room = Arc::new(Semaphore::new(window as usize));
        let read = async {
            loop {
                let mut parcel = vec![0; PARCEL_BYTES];
                let len = from.read(&mut parcel).await?;
                parcel.truncate(len);
                // Never closed, so this waits and does not fail.
                if let Ok(permit) = room.acquire_many(len as u32).await {
                    permit.forget();
                }
                self.bytes.fetch_add(len as u64, Ordering::Relaxed);
                self.wire.send(parcel, arrive.clone());
                if len == 0 {
                    return Ok(());
                }
            }
        };
        tokio::try_join!(read, deliver(arrived, to, room.clone()))?;
        Ok(())
    }
}

async fn deliver(
    mut arrived: mpsc::UnboundedReceiver<Vec<u8>>,
    mut to: OwnedWriteHalf,
    room: Arc<Semaphore>,
) -> io::Result<()> {
    while let Some(parcel) = arrived.recv().await {
        if parcel.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&parcel).await?;
        room.add_permits(parcel.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo server behind a proxy, and the address to call.
    async fn echo_behind_a_proxy(link: &str) -> (SocketAddr, Arc<Proxy>, JoinSet<io::Result<()>>) {
        let mut tasks = JoinSet::new();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let proxy = Proxy::new(link.parse().unwrap(), server.local_addr().unwrap()).unwrap();
        tasks.spawn(proxy.clone().serve(front));
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = server.accept().await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
            }
        });
        (address, proxy, tasks)
    }

    #[tokio::test]
    async fn all_bytes_pass_in_order_are_counted_and_the_end_passes_too() {
        let (address, proxy, _tasks) = echo_behind_a_proxy("10000mbit,1ms").await;
        // More than the window, in both directions at once.
        let sent: Vec<u8> = (0..8u32 << 20)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
        let mut received = Vec::new();
        let sending = async {
            write.write_all(&sent).await?;
            write.shutdown().await
        };
        tokio::try_join!(sending, read.read_to_end(&mut received)).unwrap();
        assert!(received == sent);
        let bytes = sent.len() as u64;
        let expected = Traffic {
            connections: 1,
            up_bytes: bytes,
            down_bytes: bytes,
        };
        assert_eq!(proxy.traffic(), expected);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_ends_the_connection_and_not_the_proxy() {
        let nobody = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let proxy = Proxy::new("1000mbit,1ms".parse().unwrap(), nobody).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(proxy.serve(front));
        for _ in 0..2 {
            let mut client = TcpStream::connect(address).await.unwrap();
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            assert!(answer.is_empty());
        }
        assert_eq!(tasks.len(), 1);
    }
}
