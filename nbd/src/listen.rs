//! Unix sockets: taking a path, also from a server that is gone.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

/// How long somebody else may take to take a path.
const LOCK_WITHIN: Duration = Duration::from_secs(3);

/// How often it is looked at.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A server accepts connections there.
    #[error("another server listens on {}", .0.display())]
    Busy(PathBuf),
    /// There is something else at the path, which is left alone.
    #[error("{} exists and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The path does not fit into a socket address, which has 108 bytes.
    #[error("{} is too long for the path of a socket", .0.display())]
    LongPath(PathBuf),
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Listens on a unix socket at `path`, which only this user may connect to (mode 0600 from its first
/// moment). A socket that is there already is replaced if nobody listens on it. Two callers at once
/// do not take it from each other: they lock the directory meanwhile.
///
/// Must be called within a Tokio runtime. The socket is not removed when the listener is dropped.
pub fn listen_unix(path: &Path) -> Result<UnixListener, ListenError> {
    listen(path, Mode::RUSR | Mode::WUSR)
}

/// The same for a socket that the group of its file may connect to as well (mode 0660). The group is that of the
/// process, or of a directory with the set-group-ID bit.
pub fn listen_unix_for_group(path: &Path) -> Result<UnixListener, ListenError> {
    listen(path, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP)
}

fn listen(path: &Path, mode: Mode) -> Result<UnixListener, ListenError> {
    let fail = |action| {
        move |error: Errno| ListenError::System {
            action,
            path: path.to_owned(),
            source: error.into(),
        }
    };
    let address = SocketAddrUnix::new(path).map_err(|_| ListenError::LongPath(path.to_owned()))?;
    let _lock = lock_directory(path)?;
    remove_stale(path, &address)?;
    let socket = stream_socket().map_err(fail("make a socket for"))?;
    // On Linux, the mode of an unbound socket is the one that binding gives its file.
    rustix::fs::fchmod(&socket, mode).map_err(fail("restrict access to"))?;
    rustix::net::bind(&socket, &address).map_err(fail("bind"))?;
    if mode.contains(Mode::WGRP) {
        // Binding takes away what the umask does.
        set_mode(path, mode).map_err(fail("open"))?;
    }
    rustix::net::listen(&socket, BACKLOG).map_err(fail("listen on"))?;
    UnixListener::from_std(socket.into()).map_err(|source| ListenError::System {
        action: "listen on",
        path: path.to_owned(),
        source,
    })
}

/// Sets the mode of the socket at `path`, and of nothing else that somebody may have put there meanwhile.
fn set_mode(path: &Path, mode: Mode) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
        return Err(Errno::NOTSOCK);
    }
    // The way to what is open, which no name leads to.
    rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)
}

/// Holds the directory of `path` until it is dropped, against others who do the same.
fn lock_directory(path: &Path) -> Result<OwnedFd, ListenError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
        .and_then(|opened| {
            flock_within(&opened, LOCK_WITHIN)?;
            Ok(opened)
        })
        .map_err(|error| ListenError::System {
            action: "lock the directory",
            path: directory.to_owned(),
            source: error.into(),
        })
}

/// Takes the lock as soon as it is free; who may read the directory may hold it for as long as they like.
fn flock_within(directory: &OwnedFd, limit: Duration) -> Result<(), Errno> {
    let deadline = Instant::now() + limit;
    loop {
        match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN) if Instant::now() < deadline => sleep(LOCK_POLL),
            done => return done,
        }
    }
}

fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let fail = |action, error: Errno| ListenError::System {
        action,
        path: path.to_owned(),
        source: error.into(),
    };
    match rustix::fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(fail("look at", error)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let probe = stream_socket().map_err(|error| fail("make a socket for", error))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            rustix::fs::unlink(path).map_err(|error| fail("remove the stale socket", error))
        }
        // Full is busy too.
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::Busy(path.to_owned())),
        Err(error) => Err(fail("connect to", error)),
    }
}

/// A socket that never blocks: neither Tokio nor a probe may wait.
fn stream_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = listen_unix(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(listen_unix(&path), Err(ListenError::Busy(_))));
        drop(first);
        let second = listen_unix(&path).unwrap();
        let _client = tokio::net::UnixStream::connect(&path).await.unwrap();
        second.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_group_is_let_in_where_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = listen_unix_for_group(&path).unwrap();
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o660);
        drop(listener);
        let _again = listen_unix(&path).unwrap();
        assert_eq!(mode(), 0o600);
    }

    #[tokio::test]
    async fn other_files_and_impossible_paths_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "content").unwrap();
        assert!(matches!(
            listen_unix(&file),
            Err(ListenError::NotASocket(_))
        ));
        assert_eq!(std::fs::read(&file).unwrap(), b"content");
        let long = dir.path().join("x".repeat(200));
        assert!(matches!(listen_unix(&long), Err(ListenError::LongPath(_))));
        let nowhere = dir.path().join("none/socket");
        let error = listen_unix(&nowhere).unwrap_err();
        assert!(matches!(error, ListenError::System { .. }), "{error}");
    }
}
