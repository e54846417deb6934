//! What tests, benches and the demo's checks share: inputs from real Debian packages, virtual machines, mounts,
//! trees that hold everything Linux has, and the built `shale` program.
//!
//! Everything that is started or mounted here ends when its guard is dropped, also when a test fails.

mod base;
mod host;
mod hostile;
mod idle;
mod mounts;
mod nasty;
mod nbd;
mod power;
mod process;
mod qemu;
mod qmp;
mod registry;
mod shale;
mod systemd;
mod tools;
mod tree;

pub use base::{App, Input};
pub use host::{Vms, failure};
pub use hostile::{HOSTILE_AT, HOSTILE_CLIENTS, HostileClient};
pub use mounts::LoopMount;
pub use nasty::build_nasty_tree;
pub use nbd::{NbdClient, NbdCommand, nbd_option};
pub use power::{Power, Unsynced};
pub use process::{Background, Random, wait_for_file};
pub use qemu::{Disk, Forward, Machine, Qemu, free_port};
pub use qmp::Qmp;
pub use registry::Registry;
pub use shale::Shale;
pub use systemd::Systemd;
pub use tools::{need_root, repository, run, tool};
pub use tree::{compare_trees, tree_differences};
