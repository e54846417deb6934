//! The one integration binary: tests that need several crates, the built program, or a virtual machine.
//!
//! `privileged_*` tests need root; `privileged_boot_*` start a virtual machine and run alone.

mod arrows;
mod boot;
mod sources;
mod trees;
