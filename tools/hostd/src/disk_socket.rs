//! The sockets on which hypervisors have their disks, kept open while no service runs: a hypervisor that lost its server
//! is connected again at once and waits to be spoken to, where it would else try again a second later.
//!
//! They are a convenience. A keeper that cannot keep one costs that second, and nothing else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt;
use shale_nbd::{ListenError, listen_unix_for_group};
use tokio::net::UnixListener;

use crate::error::{HostError, HostResult};
use crate::keeper::{HeldFiles, KeeperError, KeptName};
use crate::name::InstanceName;

/// How every name begins under which the keeper has a socket of a disk.
const PREFIX: &str = "disk.";

/// The socket of the disk of one machine.
#[derive(Clone)]
pub(crate) struct DiskSocket {
    held: Arc<HeldFiles>,
    name: KeptName,
    path: PathBuf,
}

impl DiskSocket {
    /// The socket at `path` of the machine of this name.
    pub(crate) fn new(
        held: Arc<HeldFiles>,
        machine: &InstanceName,
        path: PathBuf,
    ) -> HostResult<Self> {
        let name = KeptName::new(&format!("{PREFIX}{machine}"));
        let name = name.ok_or_else(|| HostError::Name(machine.to_string()))?;
        Ok(Self { held, name, path })
    }

    /// Listens: on the socket that an earlier service had kept, with those who wait there, or on a new one. Blocks, and must
    /// be called within a Tokio runtime.
    ///
    /// # Errors
    /// The path is taken by somebody else, or by a keeper that cannot be asked, or the system refuses.
    pub(crate) fn listen(&self) -> HostResult<UnixListener> {
        let kept = match self.kept() {
            Ok(Some(listener)) => return Ok(listener),
            kept => kept,
        };
        let listener = match (listen_unix_for_group(&self.path), kept) {
            (Err(ListenError::Busy(_)), Err(error)) => return Err(error.into()),
            (listener, _) => listener?,
        };
        if let Err(error) = self.keep(&listener) {
            tracing::warn!(name = %self.name, %error, "the socket of a disk is not kept");
        }
        Ok(listener)
    }

    /// Has it closed, as nobody is to connect to it any more. Blocks.
    pub(crate) fn forget(&self) {
        if let Err(error) = self.held.remove(&self.name) {
            tracing::warn!(name = %self.name, %error, "the socket of a disk stays with the keeper");
        }
    }

    /// What the keeper has, if that is what is at the path.
    fn kept(&self) -> Result<Option<UnixListener>, KeeperError> {
        let files = self.held.take_up(&self.name)?;
        let Some(Ok([listener, file])) = files.map(<[OwnedFd; 2]>::try_from) else {
            return Ok(None);
        };
        let is_listening = sockopt::socket_acceptconn(&listener).unwrap_or(false);
        if !is_listening || !is_at(&file, &self.path).unwrap_or(false) {
            return Ok(None);
        }
        let listener = net::UnixListener::from(listener);
        let set = listener.set_nonblocking(true);
        let listener = set.and_then(|()| UnixListener::from_std(listener));
        listener.map(Some).map_err(KeeperError::Files)
    }

    /// With its file, by which the next service knows whether it is still the one that the path leads to.
    fn keep(&self, listener: &UnixListener) -> Result<(), KeeperError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.path, flags, Mode::empty());
        let file = file.map_err(|errno| KeeperError::Files(errno.into()))?;
        self.held.put(&self.name, &[listener.as_fd(), file.as_fd()])
    }
}

/// Has the sockets closed that the keeper has of machines for which `is_wanted` does not hold. Blocks.
pub(crate) fn sweep_disk_sockets(
    held: &Arc<HeldFiles>,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<(), KeeperError> {
    for name in held.find()? {
        let machine = name.as_str().strip_prefix(PREFIX);
        if machine.is_some_and(|machine| !is_wanted(machine)) {
            held.remove(&name)?;
        }
    }
    Ok(())
}

fn is_at(file: &OwnedFd, path: &Path) -> io::Result<bool> {
    let (open, there) = (rustix::fs::fstat(file)?, rustix::fs::lstat(path)?);
    Ok((open.st_dev, open.st_ino) == (there.st_dev, there.st_ino))
}
