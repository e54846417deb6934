//! A client of the NBD protocol that sends what it is told, when it is told: QEMU flushes of itself and libnbd
//! checks what it sends. `https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md` has the numbers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(20);

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const EXPORT_NAME: u32 = 1;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum NbdCommand {
    /// Bytes, please.
    Read = 0,
    /// Here are bytes.
    Write = 1,
    /// Make durable what was written.
    Flush = 3,
}

/// A connection that gets simple replies, and waits for each.
#[derive(Debug)]
pub struct NbdClient {
    stream: UnixStream,
    requests: u64,
}

impl NbdClient {
    /// Connects, and takes the default export.
    ///
    /// # Errors
    ///
    /// Nobody listens, or what listens does not agree.
    pub fn connect(socket: &Path) -> Result<Self> {
        let mut stream = Self::greeted(socket)?;
        stream.write_all(&nbd_option(EXPORT_NAME, 0))?;
        // Size and flags of the export.
        stream.read_exact(&mut [0; 10]).context("the export")?;
        Ok(Self {
            stream,
            requests: 0,
        })
    }

    /// Connects, and comes as far as where a client sends options.
    ///
    /// # Errors
    ///
    /// Nobody listens, or what listens is no NBD server.
    pub fn greeted(socket: &Path) -> Result<UnixStream> {
        let mut stream = UnixStream::connect(socket).context("connect")?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).context("the greeting")?;
        ensure!(greeting[..8] == *b"NBDMAGIC", "{greeting:?}");
        // Fixed newstyle, and no zeros behind the answer to the export's name.
        stream.write_all(&3u32.to_be_bytes())?;
        Ok(stream)
    }

    /// Reads; the error number in place of the bytes.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub fn read(&mut self, offset: u64, len: u32) -> Result<Result<Vec<u8>, u32>> {
        let number = self.ask(NbdCommand::Read, offset, len, &[])?;
        if number != 0 {
            return Ok(Err(number));
        }
        let mut bytes = vec![0; len as usize];
        self.stream.read_exact(&mut bytes).context("the bytes")?;
        Ok(Ok(bytes))
    }

    /// Writes; the error number, which is 0 for success.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<u32> {
        let len = u32::try_from(bytes.len())?;
        self.ask(NbdCommand::Write, offset, len, bytes)
    }

    /// Flushes; the error number, which is 0 for success.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub fn flush(&mut self) -> Result<u32> {
        self.ask(NbdCommand::Flush, 0, 0, &[])
    }

    /// Sends a request, and `data` behind it, whatever it says its length is; waits for no answer.
    ///
    /// # Errors
    ///
    /// The server does not take it.
    pub fn send(&mut self, command: NbdCommand, offset: u64, len: u32, data: &[u8]) -> Result<()> {
        self.requests += 1;
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend([0, 0]);
        request.extend((command as u16).to_be_bytes());
        request.extend(self.requests.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(len.to_be_bytes());
        request.extend(data);
        self.send_bytes(&request)
    }

    /// Sends bytes, whatever they are.
    ///
    /// # Errors
    ///
    /// The server does not take them.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("send")
    }

    fn ask(&mut self, command: NbdCommand, offset: u64, len: u32, data: &[u8]) -> Result<u32> {
        self.send(command, offset, len, data)?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).context("the reply")?;
        let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| reply[at + n]));
        ensure!(number(0) == SIMPLE_REPLY_MAGIC, "{reply:?}");
        ensure!(reply[8..] == self.requests.to_be_bytes(), "{reply:?}");
        Ok(number(4))
    }
}

/// The head of an option that says it has `len` bytes of data.
#[must_use]
pub fn nbd_option(number: u32, len: u32) -> Vec<u8> {
    let mut option = OPTION_MAGIC.to_vec();
    option.extend(number.to_be_bytes());
    option.extend(len.to_be_bytes());
    option
}
