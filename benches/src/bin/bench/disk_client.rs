//! A small NBD client that sends the reads of a boot as fast as the server answers.
//!
//! Fixed newstyle handshake and simple replies, as in the NBD protocol's `doc/proto.md`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// One read: offset and length in bytes.
pub(crate) type ReadAt = (u64, u32);

const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
/// Fixed newstyle, and no zeroes after the handshake.
const CLIENT_FLAGS: u32 = 3;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
/// Answers from here on are errors.
const REP_ERROR: u32 = 1 << 31;
const CMD_READ: u32 = 0;

/// A connection to the default export of a server.
#[derive(Debug)]
pub(crate) struct DiskClient {
    stream: UnixStream,
}

impl DiskClient {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        let mut client = Self { stream };
        // Two magics and the server's flags.
        client.take::<18>()?;
        client.stream.write_all(&CLIENT_FLAGS.to_be_bytes())?;
        let mut go = Vec::new();
        go.extend(IHAVEOPT.to_be_bytes());
        go.extend(OPT_GO.to_be_bytes());
        // An empty name of length 0, and no wishes.
        go.extend(6u32.to_be_bytes());
        go.extend([0; 6]);
        client.stream.write_all(&go)?;
        loop {
            let head = client.take::<20>()?;
            let number = |at: usize| {
                u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
            };
            ensure!(
                head[..8] == OPTION_REPLY.to_be_bytes(),
                "the server speaks no NBD"
            );
            let (answer, len) = (number(12), number(16));
            std::io::copy(&mut (&client.stream).take(len.into()), &mut std::io::sink())?;
            ensure!(
                answer < REP_ERROR,
                "the server refuses the default export: {answer:#x}"
            );
            if answer == REP_ACK {
                return Ok(client);
            }
        }
    }

    /// Sends `trace` with up to `depth` reads under way; the bytes read.
    pub(crate) fn replay(&mut self, trace: &[ReadAt], depth: usize) -> Result<u64> {
        let mut buffer = Vec::new();
        let (mut sent, mut total) = (0, 0);
        for received in 0..trace.len() {
            while sent < trace.len() && sent < received + depth {
                self.ask(sent as u64, trace[sent])?;
                sent += 1;
            }
            let head = self.take::<16>()?;
            ensure!(
                head[..4] == SIMPLE_REPLY.to_be_bytes(),
                "this is no simple reply"
            );
            ensure!(head[4..8] == [0; 4], "a read failed: {:?}", &head[4..8]);
            let mut cookie = [0; 8];
            cookie.copy_from_slice(&head[8..]);
            let asked = trace.get(u64::from_be_bytes(cookie) as usize);
            let (_, len) = asked.context("the server answers what was not asked")?;
            buffer.resize(*len as usize, 0);
            self.stream.read_exact(&mut buffer)?;
            total += u64::from(*len);
        }
        Ok(total)
    }

    fn ask(&mut self, cookie: u64, (offset, len): ReadAt) -> Result<()> {
        let mut request = [0; 28];
        request[..4].copy_from_slice(&REQUEST.to_be_bytes());
        request[4..8].copy_from_slice(&CMD_READ.to_be_bytes());
        request[8..16].copy_from_slice(&cookie.to_be_bytes());
        request[16..24].copy_from_slice(&offset.to_be_bytes());
        request[24..].copy_from_slice(&len.to_be_bytes());
        self.stream.write_all(&request).context("send a read")
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream
            .read_exact(&mut bytes)
            .context("the server ended the connection")?;
        Ok(bytes)
    }
}
