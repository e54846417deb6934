//! The NBD server against a client of its own, which can also misbehave, and against real tools.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail tests by panicking, as tests do"
)]

mod client;
mod handshake;
mod limits;
mod memory;
mod requests;
mod server;
mod tools;
