//! What stands before a registry and passes requests on.

use std::io::{self, BufRead, BufReader, Read, Take, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

/// Serves connections while `work` is done, which gets the address. What it has started must have ended by then.
pub(crate) fn between<T>(
    serve: &(dyn Fn(TcpStream) -> io::Result<()> + Sync),
    work: impl FnOnce(SocketAddr) -> Result<T>,
) -> Result<T> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                // What goes wrong here shows in what the work finds.
                scope.spawn(|| stream.and_then(serve));
            }
        });
        let done = work(address);
        ended.store(true, Ordering::Relaxed);
        // So that it looks.
        let _ = TcpStream::connect(address);
        done
    })
}

/// A request of a client.
pub(crate) struct Passed {
    /// All lines up to the empty one.
    pub(crate) head: String,
    body: Take<BufReader<TcpStream>>,
}

impl Passed {
    /// Reads the head; nothing if the client has left.
    pub(crate) fn read(client: &TcpStream) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(client.try_clone()?);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let begin = head.len();
            if reader.read_line(&mut head)? == 0 {
                return Ok(None);
            }
            let line = head[begin..].to_ascii_lowercase();
            if let Some(number) = line.strip_prefix("content-length:") {
                length = number.trim().parse().unwrap_or(0);
            }
            if line == "\r\n" {
                let body = reader.take(length);
                return Ok(Some(Self { head, body }));
            }
        }
    }

    /// Its first line.
    pub(crate) fn first(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// Asks the registry at `real` the same; what comes ends with the answer.
    pub(crate) fn forward(mut self, real: &str) -> io::Result<TcpStream> {
        let mut server = TcpStream::connect(real)?;
        self.head
            .insert_str(self.head.len() - 2, "connection: close\r\n");
        server.write_all(self.head.as_bytes())?;
        io::copy(&mut self.body, &mut server)?;
        Ok(server)
    }
}
