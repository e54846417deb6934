//! Disks that the crate lays out, judged by `e2fsck`, `debugfs` and the kernel.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod basic;
mod mount;
mod support;
