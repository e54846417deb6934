//! The seam for disks that change their place while their guest uses them.

use std::path::Path;

use crate::driver::Vm;
use crate::error::DriverResult;

/// Moves the first disk of a running machine to a file, while its guest goes on using it. Calls block, for some
/// seconds at most. The hypervisor holds all state: whoever asks may be another process than the one that began.
pub trait DiskMover: Send + Sync {
    /// Begins to copy the disk to the existing, empty file `target` of the disk's size. Once all of it was copied, what the
    /// guest writes goes to both.
    fn begin(&self, vm: &Vm, target: &Path) -> DriverResult<()>;

    /// How far that is.
    fn progress(&self, vm: &Vm) -> DriverResult<Moving>;

    /// Ends a copy that is [`Moving::Complete`]: the guest stands still from now on, and the file is its disk, durably.
    fn finish(&self, vm: &Vm, target: &Path) -> DriverResult<()>;

    /// Gives a copy up, wherever it is; none is no error. The disk stays where it was.
    fn give_up(&self, vm: &Vm) -> DriverResult<()>;

    /// The name of the file that the disk was moved to, if it was.
    fn moved_to(&self, vm: &Vm) -> DriverResult<Option<String>>;
}

/// How far the move of a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moving {
    /// No copy is under way.
    Not,
    /// It has failed, with the hypervisor's reason.
    Failed(String),
    /// So many bytes of so many are copied.
    Copying {
        /// Those that are.
        bytes: u64,
        /// All of them; more when the guest writes.
        of: u64,
    },
    /// A part of the disk could not be read; it waits to be asked again, which [`DiskMover::progress`] has done.
    Late,
    /// All is there.
    Complete,
}
