//! What a link through the proxy really does on this machine at this moment.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Link, Proxy};

/// Round trips that are measured: an odd number, so that there is a middle one.
const PINGS: usize = 41;

/// For how long bytes are sent to measure the rate, by the link's own rate.
const SENDING: Duration = Duration::from_millis(500);

/// A measured link.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// The median time of one byte there and one back.
    pub round_trip: Duration,
    /// Payload bits a second in one direction.
    pub bits_a_second: f64,
}

/// Sends bytes to and fro through a proxy of its own with this link.
///
/// # Errors
///
/// The loopback fails.
pub async fn probe(link: Link) -> io::Result<Probe> {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let front = TcpListener::bind("127.0.0.1:0").await?;
    let address = front.local_addr()?;
    let proxy = Proxy::new(link, server.local_addr()?)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(proxy.serve(front));
    let bytes = (link.bits_a_second as f64 / 8.0 * SENDING.as_secs_f64()) as usize;
    tasks.spawn(answer(server, bytes));

    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut byte = [0];
    let mut pings = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let begun = Instant::now();
        stream.write_all(&byte).await?;
        stream.read_exact(&mut byte).await?;
        pings.push(begun.elapsed());
    }
    pings.sort();
    let round_trip = pings[PINGS / 2];

    // The server answers with one byte when it has all: so a round trip does not count.
    let begun = Instant::now();
    stream.write_all(&vec![0; bytes]).await?;
    stream.read_exact(&mut byte).await?;
    let sending = begun
        .elapsed()
        .saturating_sub(round_trip)
        .max(Duration::from_micros(1));
    Ok(Probe {
        round_trip,
        bits_a_second: bytes as f64 * 8.0 / sending.as_secs_f64(),
    })
}

/// Answers every ping, and the bytes after them with one.
async fn answer(server: TcpListener, bytes: usize) -> io::Result<()> {
    let (mut stream, _) = server.accept().await?;
    stream.set_nodelay(true)?;
    let mut byte = [0];
    for _ in 0..PINGS {
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
    }
    let mut buffer = vec![0; 256 << 10];
    let mut left = bytes;
    while left > 0 {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            len => left = left.saturating_sub(len),
        }
    }
    stream.write_all(&byte).await
}
