//! Reading and writing disks over a source in memory that can be slow, gone or wrong.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod cache;
mod disk;
mod fill;
mod hedging;
mod impatient;
mod mirrors;
mod overlay;
mod reading;
mod source;
