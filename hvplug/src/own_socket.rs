//! Sockets of a machine, whose directory its hypervisor may write to.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// A socket that is not reached through a link: what has broken out of a machine may have put one there, to the socket of
/// another.
#[derive(Debug)]
pub struct OwnSocket(OwnedFd);

impl OwnSocket {
    /// What is at `path` now, which may be no socket.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// A path to connect to, as long as this lives. Connecting to a link fails.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
