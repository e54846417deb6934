//! What host and guest say to each other over the channel of a machine: lines of the guest, and a script of the host. The
//! guest is not trusted.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use shale_hvplug::OwnSocket;

use crate::error::{HostError, HostResult};

/// What a guest says that waits for its identity, and what one says that has it.
const READY: &str = "ready";
const IDENTITY: &str = "identity";

/// Longest line that is taken from a guest.
const MAX_LINE_BYTES: usize = 64;

/// How long a read waits until it is looked whether there is still use in waiting.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A connection to what waits in a guest.
pub(crate) struct Channel {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Channel {
    /// Connects to the channel's socket, which the hypervisor has made.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let own = OwnSocket::open(path)?;
        let address = SocketAddrUnix::new(own.path())?;
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &address)?;
        let stream = UnixStream::from(socket);
        stream.set_read_timeout(Some(LOOK_EVERY))?;
        let line = Vec::new();
        Ok(Self { stream, line })
    }

    /// Waits until the guest waits for its identity. `go_on` is asked again and again whether to wait on.
    pub(crate) fn ready(&mut self, go_on: impl FnMut() -> HostResult<()>) -> HostResult<()> {
        self.expect(READY, go_on)
    }

    /// Gives the guest the script of its identity, and waits until it has it.
    pub(crate) fn give(
        &mut self,
        script: &[u8],
        go_on: impl FnMut() -> HostResult<()>,
    ) -> HostResult<()> {
        let given = self
            .stream
            .set_write_timeout(Some(GIVE_WITHIN))
            .and_then(|()| self.stream.write_all(script));
        given.map_err(HostError::Channel)?;
        self.expect(IDENTITY, go_on)
    }

    fn expect(
        &mut self,
        wanted: &str,
        mut go_on: impl FnMut() -> HostResult<()>,
    ) -> HostResult<()> {
        let fail = |error: io::Error| Err(HostError::Channel(error));
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return fail(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte == *b"\n" => {
                    let line = std::mem::take(&mut self.line);
                    if line == wanted.as_bytes() {
                        return Ok(());
                    }
                    let said = String::from_utf8_lossy(&line).into_owned();
                    let text = format!("the guest says `{}`", said.escape_debug());
                    return fail(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                Ok(_) if self.line.len() < MAX_LINE_BYTES => self.line.extend(byte),
                Ok(_) => return fail(io::ErrorKind::InvalidData.into()),
                Err(error) if is_early(&error) => go_on()?,
                Err(error) => return fail(error),
            }
        }
    }
}

/// How long a guest may take to read its identity: some kilobytes.
const GIVE_WITHIN: Duration = Duration::from_secs(30);

fn is_early(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A guest that says this, and what it hears until it has `bytes`.
    fn talk(
        says: &'static [u8],
        bytes: usize,
    ) -> (tempfile::TempDir, thread::JoinHandle<Vec<u8>>, Channel) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("channel");
        let listener = UnixListener::bind(&path).unwrap();
        let guest = thread::Builder::new().spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = vec![0; bytes];
            stream.read_exact(&mut heard).unwrap();
            stream.write_all(says).unwrap();
            heard
        });
        let channel = Channel::connect(&path).unwrap();
        (dir, guest.unwrap(), channel)
    }

    fn endless() -> HostResult<()> {
        Ok(())
    }

    #[test]
    fn a_guest_is_told_what_to_do() {
        let (_dir, guest, mut channel) = talk(b"identity\n", 5);
        channel.give(b"exit\n", endless).unwrap();
        assert_eq!(guest.join().unwrap(), b"exit\n");
    }

    #[test]
    fn a_guest_that_says_something_else_is_not_believed() {
        let long: &'static [u8] = Box::leak(vec![b'x'; 1000].into());
        for says in [&b"identity\n"[..], b"ready", b"", long, b"\xff\n"] {
            let (_dir, guest, mut channel) = talk(says, 0);
            let error = channel.ready(endless);
            assert!(error.is_err(), "{says:?}");
            drop(channel);
            let _ = guest.join();
        }
        let (_dir, guest, mut channel) = talk(b"ready\n", 0);
        channel.ready(endless).unwrap();
        guest.join().unwrap();
    }

    #[test]
    fn who_loses_patience_waits_no_longer() {
        let (_dir, guest, mut channel) = talk(b"", 1);
        let mut asked = 0;
        let ended = channel.ready(|| {
            asked += 1;
            match asked < 3 {
                true => Ok(()),
                false => Err(HostError::Interrupted),
            }
        });
        assert!(matches!(ended, Err(HostError::Interrupted)));
        drop(channel);
        let _ = guest.join();
    }
}
