//! One connection to the keeper. Blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::messages::{receive, send};
use super::protocol::{Answer, KeptName, MAX_ANSWER_BYTES, Request, Status};

/// How long the keeper may take to answer, which does nothing that takes time.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Why the keeper does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// It does not run, or went away.
    #[error("there is no keeper at `{}`", path.display())]
    Gone {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be started.
    #[error("start a keeper for open files at `{}`", path.display())]
    Start {
        /// Its socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It refuses.
    #[error("the keeper of open files {0}")]
    Refused(&'static str),
    /// The files to be kept cannot be doubled.
    #[error("keep open files")]
    Files(#[source] io::Error),
}

/// A connection to the keeper.
pub(crate) struct KeeperClient {
    socket: OwnedFd,
    path: PathBuf,
}

impl KeeperClient {
    /// Connects to the keeper that listens on the socket at `path`.
    pub(crate) fn connect(path: &Path) -> Result<Self, KeeperError> {
        let connect = || -> io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC;
            let kind = SocketType::SEQPACKET;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
            for way in [Timeout::Recv, Timeout::Send] {
                set_socket_timeout(&socket, way, Some(ANSWERED_WITHIN))?;
            }
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(socket)
        };
        let path = path.to_owned();
        match connect() {
            Ok(socket) => Ok(Self { socket, path }),
            Err(source) => Err(KeeperError::Gone { path, source }),
        }
    }

    /// Keeps files under a name, in place of those that are.
    pub(crate) fn put(&self, name: &KeptName, files: &[BorrowedFd<'_>]) -> Result<(), KeeperError> {
        let request = Request::Put {
            name: name.clone(),
            files: files.len(),
        };
        done(self.ask(&request, files)?.0.status)
    }

    /// The files of a name, if it has any.
    pub(crate) fn get(&self, name: &KeptName) -> Result<Option<Vec<OwnedFd>>, KeeperError> {
        let (answer, files) = self.ask(&Request::Get(name.clone()), &[])?;
        match answer.status {
            Status::NoSuchName => Ok(None),
            status => done(status).map(|()| Some(files)),
        }
    }

    /// Closes the files of a name; that there are none is no error.
    pub(crate) fn remove(&self, name: &KeptName) -> Result<(), KeeperError> {
        match self.ask(&Request::Remove(name.clone()), &[])?.0.status {
            Status::NoSuchName => Ok(()),
            status => done(status),
        }
    }

    /// All names.
    pub(crate) fn list(&self) -> Result<Vec<KeptName>, KeeperError> {
        let mut names: Vec<KeptName> = Vec::new();
        loop {
            let behind = names.last().cloned();
            let (answer, _) = self.ask(&Request::List { behind }, &[])?;
            done(answer.status)?;
            // One that says it goes on and does not would be asked for ever.
            let goes_on = answer.goes_on && !answer.names.is_empty();
            names.extend(answer.names);
            if !goes_on {
                return Ok(names);
            }
        }
    }

    /// The socket, which says when the keeper is gone.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    fn ask(
        &self,
        request: &Request,
        files: &[BorrowedFd<'_>],
    ) -> Result<(Answer, Vec<OwnedFd>), KeeperError> {
        let gone = |source| KeeperError::Gone {
            path: self.path.clone(),
            source,
        };
        send(self.socket.as_fd(), &request.encode(), files).map_err(gone)?;
        let message = receive(self.socket.as_fd(), MAX_ANSWER_BYTES).map_err(gone)?;
        if message.bytes.is_empty() {
            return Err(gone(Errno::CONNRESET.into()));
        }
        let answer = Answer::decode(&message.bytes).filter(|_| !message.is_cut);
        match answer {
            Some(answer) if answer.files == message.files.len() => Ok((answer, message.files)),
            _ => Err(KeeperError::Refused("says what is not understood")),
        }
    }
}

fn done(status: Status) -> Result<(), KeeperError> {
    Err(KeeperError::Refused(match status {
        Status::Done => return Ok(()),
        Status::NoSuchName => "has nothing of that name",
        Status::NotUnderstood => "does not understand the request",
        Status::NoRoom => "has no room for more",
        Status::UnknownOperation => "is of an older version that cannot do this",
        Status::Denied => "belongs to another user",
    }))
}
