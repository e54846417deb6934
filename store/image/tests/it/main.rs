//! Disks that the crate lays out, judged by `e2fsck`, `debugfs` and the kernel.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod basic;
mod cut_off;
mod dirs;
mod files;
mod guest;
mod mount;
mod nodes;
mod random;
mod read;
mod replay;
mod stable;
mod support;
