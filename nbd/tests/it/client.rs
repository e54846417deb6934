//! A tiny client that speaks NBD as it is told to, well or badly. Its numbers are written out here, from
//! the protocol document, so that it does not share the server's mistakes.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use shale_nbd::{ConnectionError, Exports, ReplyStyle, Request, Server, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const BLOCK_STATUS: u16 = 7;

pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;
pub(crate) const DF: u16 = 4;
pub(crate) const REQ_ONE: u16 = 8;
pub(crate) const FAST_ZERO: u16 = 16;

pub(crate) const EPERM: u32 = 1;
pub(crate) const EIO: u32 = 5;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const ENOSPC: u32 = 28;
pub(crate) const ENOTSUP: u32 = 95;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_STARTTLS: u32 = 5;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const OPT_LIST_META_CONTEXT: u32 = 9;
pub(crate) const OPT_SET_META_CONTEXT: u32 = 10;

pub(crate) const ACK: u32 = 1;
pub(crate) const SERVER: u32 = 2;
pub(crate) const INFO: u32 = 3;
pub(crate) const META_CONTEXT: u32 = 4;
pub(crate) const ERR_UNSUP: u32 = 0x8000_0001;
pub(crate) const ERR_INVALID: u32 = 0x8000_0003;
pub(crate) const ERR_UNKNOWN: u32 = 0x8000_0006;
pub(crate) const ERR_TOO_BIG: u32 = 0x8000_0009;

/// No answer takes longer in these tests; a hang shall fail, not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Replies to an option: type and data of each.
pub(crate) type OptionReplies = Vec<(u32, Vec<u8>)>;

/// What a request was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Data(u64, Vec<u8>),
    Runs(Vec<(u32, u32)>),
    Error(u32, String),
}

/// One end of a connection; the server's end runs in a task.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    /// Reads whose simple reply has data: their length.
    reads: HashMap<u64, u32>,
    cookie: u64,
}

pub(crate) type Served = JoinHandle<Result<(), ConnectionError>>;

/// Connects to a new server with these exports.
pub(crate) fn connect(exports: Exports) -> (Client, Served, Server) {
    connect_with(exports, Settings::default())
}

pub(crate) fn connect_with(exports: Exports, settings: Settings) -> (Client, Served, Server) {
    let server = Server::new(exports, settings);
    let (client, served) = connect_to(&server);
    (client, served, server)
}

pub(crate) fn connect_to(server: &Server) -> (Client, Served) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = server.clone();
    let serve = async move {
        server
            .serve_connection(theirs, std::future::pending())
            .await
    };
    (Client::new(ours), tokio::spawn(serve))
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            reads: HashMap::new(),
            cookie: 0,
        }
    }

    pub(crate) async fn read_array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let read = self.stream.read_exact(&mut bytes);
        timeout(PATIENCE, read)
            .await
            .expect("no answer in time")
            .map(|_| bytes)
    }

    pub(crate) async fn read_vec(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = self.stream.read_exact(&mut bytes);
        timeout(PATIENCE, read)
            .await
            .expect("no answer in time")
            .map(|_| bytes)
    }

    /// Whether the server closed, and sent nothing more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match timeout(PATIENCE, self.stream.read(&mut byte)).await {
            Ok(Ok(0) | Err(_)) => true,
            Ok(Ok(_)) => false,
            Err(_) => panic!("the server neither closes nor answers"),
        }
    }

    // ---- Handshake.

    /// Takes the greeting and sends flags.
    pub(crate) async fn greet(&mut self, flags: u32) {
        let greeting: [u8; 18] = self.read_array().await.unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting[16..], [0, 3]);
        self.stream.write_all(&flags.to_be_bytes()).await.unwrap();
    }

    pub(crate) async fn send_option(&mut self, option: u32, data: &[u8]) {
        let sent = self.try_send_option(option, data.len() as u32, data).await;
        sent.unwrap();
    }

    pub(crate) async fn try_send_option(
        &mut self,
        option: u32,
        len: u32,
        data: &[u8],
    ) -> io::Result<()> {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend_from_slice(&option.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(data);
        self.stream.write_all(&bytes).await
    }

    /// One option reply: its type and data.
    pub(crate) async fn option_reply(&mut self, option: u32) -> io::Result<(u32, Vec<u8>)> {
        let head: [u8; 20] = self.read_array().await?;
        assert_eq!(head[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        assert_eq!(head[8..12], option.to_be_bytes());
        let data = self.read_vec(be32(&head[16..]) as usize).await?;
        Ok((be32(&head[12..]), data))
    }

    /// Sends an option; all replies up to the last, which is not among them but its type is returned.
    pub(crate) async fn option(&mut self, option: u32, data: &[u8]) -> (u32, OptionReplies) {
        self.send_option(option, data).await;
        let mut replies = Vec::new();
        loop {
            let (kind, data) = self.option_reply(option).await.unwrap();
            if kind == ACK || kind & 0x8000_0000 != 0 {
                return (kind, replies);
            }
            replies.push((kind, data));
        }
    }

    /// The usual handshake, up to the transmission phase; the transmission flags.
    pub(crate) async fn go(&mut self, name: &str, style: ReplyStyle) -> u16 {
        self.greet(3).await;
        if style == ReplyStyle::Structured {
            assert_eq!(self.option(OPT_STRUCTURED_REPLY, b"").await.0, ACK);
            let query = meta(name, &["base:allocation"]);
            let (kind, contexts) = self.option(OPT_SET_META_CONTEXT, &query).await;
            assert_eq!(kind, ACK);
            assert_eq!(contexts.len(), 1);
        }
        let (kind, infos) = self.option(OPT_GO, &info(name, &[])).await;
        assert_eq!(kind, ACK);
        let (_, export) = infos
            .iter()
            .find(|(_, data)| data.starts_with(&[0, 0]))
            .unwrap();
        u16::from_be_bytes([export[10], export[11]])
    }

    // ---- Transmission.

    /// Sends a request without waiting; its cookie.
    pub(crate) async fn send(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> u64 {
        self.cookie += 1;
        let cookie = self.cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if command == READ {
            self.reads.insert(cookie, len);
        }
        let request = Request {
            flags,
            command,
            cookie,
            offset,
            len,
        };
        self.stream.write_all(&request.encode()).await.unwrap();
        self.stream.write_all(data).await.unwrap();
        cookie
    }

    /// The next reply: which request it is for, and what it says.
    pub(crate) async fn receive(&mut self) -> io::Result<(u64, Answer)> {
        let magic: [u8; 4] = self.read_array().await?;
        match u32::from_be_bytes(magic) {
            0x6744_6698 => {
                let head: [u8; 12] = self.read_array().await?;
                let (error, cookie) = (be32(&head), be64(&head[4..]));
                let len = self.reads.remove(&cookie);
                let answer = match (error, len) {
                    (0, None) => Answer::Done,
                    (0, Some(len)) => Answer::Data(u64::MAX, self.read_vec(len as usize).await?),
                    (error, _) => Answer::Error(error, String::new()),
                };
                Ok((cookie, answer))
            }
            0x668e_33ef => {
                let head: [u8; 16] = self.read_array().await?;
                let cookie = be64(&head[4..]);
                assert_eq!(head[..2], [0, 1], "one chunk, which is the last");
                let payload = self.read_vec(be32(&head[12..]) as usize).await?;
                Ok((cookie, chunk([head[2], head[3]], &payload)))
            }
            other => panic!("a reply begins with {other:#x}"),
        }
    }

    /// A request and its answer.
    pub(crate) async fn call(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> Answer {
        let sent = self.send(command, flags, offset, len, data).await;
        let (cookie, answer) = self.receive().await.unwrap();
        assert_eq!(cookie, sent);
        answer
    }

    pub(crate) async fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        match self.call(READ, 0, offset, len, b"").await {
            Answer::Data(_, data) => data,
            other => panic!("a read was answered with {other:?}"),
        }
    }

    pub(crate) async fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> Answer {
        self.call(WRITE, flags, offset, data.len() as u32, data)
            .await
    }

    /// The number of the error that a request gets.
    pub(crate) async fn error(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> u32 {
        match self.call(command, flags, offset, len, data).await {
            Answer::Error(errno, _) => errno,
            other => panic!("command {command} at {offset} + {len} got {other:?}"),
        }
    }
}

fn chunk(kind: [u8; 2], payload: &[u8]) -> Answer {
    match u16::from_be_bytes(kind) {
        0 => {
            assert!(payload.is_empty());
            Answer::Done
        }
        1 => Answer::Data(be64(payload), payload[8..].to_vec()),
        5 => {
            assert_eq!(be32(payload), 1, "the id of base:allocation");
            let runs = payload[4..].chunks_exact(8);
            Answer::Runs(runs.map(|run| (be32(run), be32(&run[4..]))).collect())
        }
        0x8001 => {
            let text = String::from_utf8(payload[6..].to_vec()).unwrap();
            assert_eq!(
                usize::from(payload[5]) + 256 * usize::from(payload[4]),
                text.len()
            );
            Answer::Error(be32(payload), text)
        }
        other => panic!("a chunk of type {other}"),
    }
}

/// The data of `INFO` and `GO`.
pub(crate) fn info(name: &str, wants: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend_from_slice(&(wants.len() as u16).to_be_bytes());
    for want in wants {
        data.extend_from_slice(&want.to_be_bytes());
    }
    data
}

/// The data of the metadata options.
pub(crate) fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend(string(query));
    }
    data
}

fn string(text: &str) -> Vec<u8> {
    let mut data = (text.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(text.as_bytes());
    data
}

pub(crate) fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().unwrap())
}

pub(crate) fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk().unwrap())
}
