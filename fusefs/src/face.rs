//! The seam between the session and what is shown.

use rustix::io::Errno;
use shale_model::{BoxFuture, DeviceError};

use crate::limits::{DISK_SLOTS, MAX_IO_BYTES, TREE_SLOTS, TREE_WRITE_BYTES};
use crate::proto::{MIN_READ_BUFFER, WRITE_HEADER_BYTES, init};
use crate::reply::Body;
use crate::request::Request;
use crate::slots::SlotShape;

/// What a mount shows. It holds no state of its own: whatever it is asked follows from what it is made of, so that a
/// later process answers as this one would have.
pub trait Face: Send + Sync + 'static {
    /// Which of the two kinds it is.
    fn kind(&self) -> FaceKind;

    /// Answers a request into `body`, which is empty. `INIT`, `INTERRUPT` and what has no answer do not come here.
    fn answer<'a>(&'a self, request: &Request<'a>, body: &'a mut Body) -> Outcome<'a>;
}

impl Face for Box<dyn Face> {
    fn kind(&self) -> FaceKind {
        self.as_ref().kind()
    }

    fn answer<'a>(&'a self, request: &Request<'a>, body: &'a mut Body) -> Outcome<'a> {
        self.as_ref().answer(request, body)
    }
}

/// An answer, now or later.
pub enum Outcome<'a> {
    /// It is there.
    Done(Result<(), Errno>),
    /// It has to be waited for, maybe; it may be dropped when nobody wants it any more.
    Wait(BoxFuture<'a, Result<(), Errno>>),
}

/// Kinds of faces, which differ in what is agreed on with the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaceKind {
    /// A read-only tree that never changes.
    Tree,
    /// The same, where the kernel does not ask who may do what: it would on its own once it is told of ACLs.
    UncheckedTree,
    /// A file that is a disk.
    Disk,
}

impl FaceKind {
    pub(crate) fn slots(self) -> SlotShape {
        let room = WRITE_HEADER_BYTES + self.max_write() as usize;
        let bytes = room.next_multiple_of(4096).max(MIN_READ_BUFFER) as u32;
        let (kind, count) = match self {
            FaceKind::Tree => (1, TREE_SLOTS),
            FaceKind::Disk => (2, DISK_SLOTS),
            FaceKind::UncheckedTree => (3, TREE_SLOTS),
        };
        SlotShape { count, bytes, kind }
    }

    pub(crate) fn max_write(self) -> u32 {
        match self {
            FaceKind::Tree | FaceKind::UncheckedTree => TREE_WRITE_BYTES,
            FaceKind::Disk => MAX_IO_BYTES,
        }
    }

    /// Features that it wants if the kernel has them.
    pub(crate) fn features(self) -> u32 {
        let both = init::ASYNC_READ | init::BIG_WRITES | init::MAX_PAGES | init::PARALLEL_DIROPS;
        let tree = init::EXPORT_SUPPORT
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO
            | init::CACHE_SYMLINKS;
        both | match self {
            FaceKind::Tree => tree | init::POSIX_ACL,
            FaceKind::UncheckedTree => tree,
            FaceKind::Disk => init::ASYNC_DIO,
        }
    }
}

/// What a program is told about an error of the disk.
pub(crate) fn errno(error: &DeviceError) -> Errno {
    match error {
        DeviceError::ReadOnly => Errno::ROFS,
        DeviceError::NoSpace(_) => Errno::NOSPC,
        // No face of this kind gives requests up.
        DeviceError::Late | DeviceError::Below(_) | DeviceError::Io(_) => Errno::IO,
    }
}
