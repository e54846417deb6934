//! A real server on a loopback port, spoken to byte by byte.

#![expect(
    clippy::unwrap_used,
    reason = "in tests an unexpected value is a failure, in helpers too"
)]

mod access;
mod document;
mod harness;
mod limits;
mod packs;
mod pushes;
mod refs;
mod service;
mod shutdown;
