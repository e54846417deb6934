//! The seam for machines that go on where another one was kept.

use std::os::fd::BorrowedFd;

use crate::driver::Vm;
use crate::error::DriverResult;
use crate::machine::Machine;

/// Keeps a machine that runs, and starts others from there. Calls block, for some seconds at most.
pub trait WarmStart: Send + Sync {
    /// The hypervisor's name and exact version: only the same goes on with what it kept.
    fn version(&self) -> DriverResult<String>;

    /// Stops the processors of a machine whose memory is [`Memory::Shared`](crate::Memory::Shared), and returns the state
    /// of its devices: all of the machine but its memory and its disks, some hundred kilobytes. What the guest wrote before
    /// is in both when the call returns. The machine is of no use afterwards.
    fn keep(&self, vm: &Vm) -> DriverResult<Vec<u8>>;

    /// Starts a machine whose memory is [`Memory::Private`](crate::Memory::Private) in such a state. Its processors stand
    /// still until [`Driver::resume`](crate::Driver::resume). Everything else of it must be as it was when the state was
    /// kept, but for names, paths and ports.
    ///
    /// The paths of its memory and of what it had booted are relative to the open `directory`, which its process has as long
    /// as it runs: nobody else needs to see it.
    fn start_from(
        &self,
        machine: &Machine,
        state: &[u8],
        directory: BorrowedFd<'_>,
    ) -> DriverResult<Vm>;
}
