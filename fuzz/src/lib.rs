//! Coverage-guided fuzzing of everything that reads bytes of strangers.
//!
//! Each target is a program in `src/bin`, run by `dev/fuzz`. An input is wrong if it makes the target panic (debug
//! assertions and overflow checks are on), take more than ten seconds or half a GiB, or break what the target asserts:
//! most often that what was read is written again as the same bytes. `corpus/TARGET` holds inputs to start from, which
//! `examples/seeds.rs` makes with the real encoders, and every input that once was wrong, as `regression-*`.
//!
//! Where a format has checksums, a target mends them first: else nothing would be reached behind them.

mod parts;
mod tree;

pub use parts::{join, split};
pub use tree::{LayerFromBytes, Lcg};
