//! A TCP proxy that makes the loopback as slow as a network, and counts the bytes that pass.
//!
//! ```text
//! client -> reader -> Wire "up"   -> writer -> server
//! client <- writer <- Wire "down" <- reader <- server
//! ```
//! Each direction is one `Wire`, shared by all connections as a cable would be: bytes leave one after
//! the other at the link's rate, and arrive half a round trip later. A connection has no more bytes under
//! way than [`Link::window`], so that a receiver that does not read stops its sender, as TCP's does.

mod link;
mod probe;
mod relay;
mod wire;

pub use link::{Link, ParseLinkError};
pub use probe::{Probe, probe};
pub use relay::{Proxy, Traffic};
use wire::Wire;
