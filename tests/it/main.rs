//! The one integration binary: tests that need several crates, the built program, or a virtual machine.
//!
//! `privileged_*` tests need root; `privileged_boot_*` start a virtual machine and run alone.

#![expect(
    clippy::print_stdout,
    reason = "seeds and counts are shown with a failing test"
)]

mod arrows;
mod beside;
mod boot;
mod cached;
mod compose;
mod credentials;
mod doctor;
mod export;
mod fill;
mod hostile;
mod install;
mod kept;
mod kill;
mod merge;
mod mirrors;
mod mount;
mod nbd;
mod oracle;
mod registry;
mod seen;
mod service;
mod sources;
mod template;
mod trees;
mod vm;
