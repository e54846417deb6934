//! What benches and the demo need besides the harness: a link that is slower than this machine's loopback.
//!
//! The rows themselves are in `src/bin/bench/`, a file each.

pub mod proxy;
