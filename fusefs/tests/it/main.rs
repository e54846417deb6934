//! Sessions over a socket in place of `/dev/fuse`, and over the kernel's.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod requests;
mod takeover;
