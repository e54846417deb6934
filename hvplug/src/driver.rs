//! The seam between the host and a hypervisor.

use std::path::PathBuf;

use crate::error::DriverResult;
use crate::machine::{Acceleration, Machine, VmFiles};
use crate::mover::DiskMover;
use crate::process::ProcessId;
use crate::warm::WarmStart;

/// What a hypervisor does for the host. Calls block, for some seconds at most; implementations hold no
/// state that a restart of the host's process would lose.
pub trait Driver: Send + Sync {
    /// What it can do on this machine.
    fn capabilities(&self) -> Capabilities;

    /// Starts `machine` in a process of its own that outlives the caller, and returns when the guest's
    /// processors run. Everything that [`VmFiles`] names is made by the driver.
    fn start(&self, machine: &Machine) -> DriverResult<Vm>;

    /// The machine that an earlier process started with these files, if it still runs.
    fn attach(&self, files: &VmFiles) -> DriverResult<Option<Vm>>;

    /// What the machine does now.
    fn state(&self, vm: &Vm) -> DriverResult<VmState>;

    /// Asks the guest to shut down, or ends the machine. A machine that has ended already is no error.
    fn stop(&self, vm: &Vm, stop: Stop) -> DriverResult<()>;

    /// Stops the guest's processors.
    fn pause(&self, vm: &Vm) -> DriverResult<()>;

    /// Lets the guest's processors run again.
    fn resume(&self, vm: &Vm) -> DriverResult<()>;

    /// The unix socket of the guest's serial console. It serves one client at a time.
    fn console(&self, vm: &Vm) -> PathBuf;

    /// What moves the disk of a machine that runs, if it can.
    fn mover(&self) -> Option<&dyn DiskMover> {
        None
    }

    /// What keeps machines and starts others from there, if it can.
    fn warm_start(&self) -> Option<&dyn WarmStart> {
        None
    }
}

/// What a driver can do on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The driver's name: `qemu`.
    pub driver: &'static str,
    /// Why it cannot start machines here, with what to do about it.
    pub missing: Option<String>,
    /// How it can run the guest's processors.
    pub accelerations: Vec<Acceleration>,
}

/// A machine that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// The process that is the machine.
    pub process: ProcessId,
    /// Its files.
    pub files: VmFiles,
}

/// What a machine does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmState {
    /// The guest runs.
    Running,
    /// The guest's processors stand still, for this reason in the hypervisor's words: `paused` when
    /// somebody asked for it.
    Paused(String),
    /// The guest's processors stand still because a disk could not take a write, or answered a read with "no space".
    /// Those requests are asked again when the guest goes on.
    DiskFailed,
    /// The hypervisor does not answer in time; its process is there.
    Silent,
    /// There is no such machine any more.
    Ended,
}

/// How a machine is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The power button is pressed: the guest may shut down, now or later or never.
    PowerButton,
    /// The power is cut: the machine has ended when the call returns.
    PowerCut,
}
