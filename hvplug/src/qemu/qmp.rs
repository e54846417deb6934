//! A client for QEMU's control socket.
//!
//! One JSON object a line: a greeting, then an answer to each command in order, with events in between
//! (QEMU `docs/interop/qmp-spec.txt`).

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg,
};
use serde_json::{Value, json};

use crate::error::{DriverError, DriverResult};
use crate::own_socket::OwnSocket;

/// Longest line that is taken from QEMU. Answers have some hundred bytes; the longest, of queries that are
/// not asked here, some hundred thousand.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// How often connecting is tried: QEMU serves one client at a time and lets few wait.
const POLL: Duration = Duration::from_millis(5);

/// A connection that takes commands.
#[derive(Debug)]
pub(super) struct Qmp {
    reader: BufReader<UnixStream>,
    deadline: Instant,
}

impl Qmp {
    /// Connects to the socket at `path` and greets. All that is done with this connection must be done
    /// within `limit`.
    pub(super) fn connect(path: &Path, limit: Duration) -> DriverResult<Self> {
        let deadline = Instant::now() + limit;
        let stream = connect(path, deadline).map_err(no_answer("connect"))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
            deadline,
        };
        loop {
            let line = qmp.read().map_err(no_answer("greeting"))?;
            if line.get("QMP").is_some() {
                break;
            }
            // What happened when the client before had just left.
            if line.get("event").is_none() {
                return Err(no_answer("greeting")(io::ErrorKind::InvalidData.into()));
            }
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command; what it returns. Events that come before the answer are dropped.
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> DriverResult<Value> {
        let line = format!(
            "{}\n",
            json!({ "execute": command, "arguments": arguments })
        );
        self.arm()
            .and_then(|()| self.reader.get_mut().write_all(line.as_bytes()))
            .map_err(no_answer(command))?;
        self.answer(command)
    }

    /// Gives QEMU a file, which later commands name `name`.
    pub(super) fn give(&mut self, name: &str, file: BorrowedFd<'_>) -> DriverResult<()> {
        let command = "getfd";
        let line = format!(
            "{}\n",
            json!({ "execute": command, "arguments": { "fdname": name } })
        );
        self.arm()
            .and_then(|()| send_with(self.reader.get_ref(), line.as_bytes(), file))
            .map_err(no_answer(command))?;
        self.answer(command).map(drop)
    }

    fn answer(&mut self, command: &str) -> DriverResult<Value> {
        loop {
            let mut answer = self.read().map_err(no_answer(command))?;
            if let Some(error) = answer.get("error") {
                let reason = error["desc"].as_str().unwrap_or_default().to_owned();
                let command = command.to_owned();
                return Err(DriverError::Refused { command, reason });
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn read(&mut self) -> io::Result<Value> {
        self.arm()?;
        let mut line = Vec::new();
        let mut limited = self.reader.by_ref().take(MAX_LINE_BYTES);
        limited.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }

    /// Sets the time that is left as the limit of the next input and output.
    fn arm(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let stream = self.reader.get_ref();
        stream.set_read_timeout(Some(left))?;
        stream.set_write_timeout(Some(left))
    }
}

/// Sends bytes with a file.
fn send_with(stream: &UnixStream, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    // The file went with the first byte.
    let mut rest = stream;
    rest.write_all(&bytes[sent..])
}

/// Connects, also where other clients wait in the queue.
fn connect(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let own = OwnSocket::open(path)?;
    let address = SocketAddrUnix::new(own.path())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {
                let stream = UnixStream::from(socket);
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(Errno::AGAIN) if Instant::now() < deadline => sleep(POLL),
            Err(error) => return Err(error.into()),
        }
    }
}

fn no_answer(command: &str) -> impl FnOnce(io::Error) -> DriverError {
    let command = command.to_owned();
    move |source| DriverError::NoAnswer { command, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Serves one client: sends `lines[0]`, then one more line after each line it gets.
    fn serve(lines: &'static [&'static str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        thread::Builder::new()
            .spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut commands = BufReader::new(stream.try_clone().unwrap());
                for line in lines {
                    stream.write_all(line.as_bytes()).unwrap();
                    commands.read_line(&mut String::new()).unwrap();
                }
            })
            .unwrap();
        (dir, path)
    }

    /// An event that was for the client before.
    const LATE: &str = "{\"event\": \"JOB_STATUS_CHANGE\", \"data\": {}}\r\n";

    #[test]
    fn a_greeting_may_come_behind_an_event() {
        let lines: &'static [&'static str] = Box::leak(Box::new([
            format!("{LATE}{GREETING}").leak() as &str,
            "{\"return\": {}}\r\n",
        ]));
        let (_dir, path) = serve(lines);
        assert!(Qmp::connect(&path, Duration::from_secs(5)).is_ok());
    }

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

    #[test]
    fn events_before_an_answer_are_passed_over() {
        let (_dir, path) = serve(&[
            GREETING,
            "{\"return\": {}}\r\n",
            "{\"event\": \"STOP\"}\r\n{\"return\": {\"status\": \"paused\"}}\r\n",
            "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no such command\"}}\r\n",
        ]);
        let mut qmp = Qmp::connect(&path, Duration::from_secs(5)).unwrap();
        let status = qmp.execute("query-status", json!({})).unwrap();
        assert_eq!(status["status"], "paused");
        let error = qmp.execute("dance", json!({})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the hypervisor refuses `dance`: no such command"
        );
    }

    #[test]
    fn whoever_is_not_qemu_gets_an_error() {
        for (greeting, kind) in [
            ("{\"hello\": 1}\r\n", io::ErrorKind::InvalidData),
            ("hello\r\n", io::ErrorKind::InvalidData),
            // Nothing more comes: the line does not end in time.
            ("{\"QMP\": ", io::ErrorKind::WouldBlock),
        ] {
            let lines: &'static [&'static str] = Box::leak(Box::new([greeting]));
            let (_dir, path) = serve(lines);
            let error = Qmp::connect(&path, Duration::from_millis(200)).unwrap_err();
            let DriverError::NoAnswer { source, .. } = error else {
                panic!("{error}")
            };
            assert_eq!(source.kind(), kind, "{greeting}");
        }
        let (dir, path) = serve(&[GREETING, "{\"return\": {}}\r\n"]);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let error = Qmp::connect(&link, Duration::from_secs(1)).err();
        assert!(matches!(error, Some(DriverError::NoAnswer { .. })));
        assert!(Qmp::connect(&path, Duration::from_secs(5)).is_ok());
        let error = Qmp::connect(Path::new("/nowhere"), Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, DriverError::NoAnswer { .. }), "{error}");
    }
}
