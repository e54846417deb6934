//! The driver seam, and one folder per hypervisor.
//!
//! A [`Driver`] starts, watches and stops virtual machines. It is told how a disk is offered
//! ([`DiskOffer`]) and never mounts anything; it keeps nothing in memory, so that a host daemon that was
//! killed finds its machines again with [`Driver::attach`]. In-tree: [`Qemu`].

mod driver;
mod error;
mod machine;
mod mover;
mod own_socket;
mod process;
mod qemu;
mod warm;

pub use driver::{Capabilities, Driver, Stop, Vm, VmState};
pub use error::{DriverError, DriverResult};
pub use machine::{
    Acceleration, DirectBoot, DiskOffer, Forward, Machine, Memory, Resources, VmFiles,
};
pub use mover::{DiskMover, Moving};
pub use own_socket::OwnSocket;
pub use process::ProcessId;
pub use qemu::{Account, Qemu};
pub use warm::WarmStart;
