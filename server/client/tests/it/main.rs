//! The client against the real registry, and against ones that misbehave.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod conformance;
mod full;
mod harness;
mod hostile;
mod returning;
mod tls;
mod uploads;
