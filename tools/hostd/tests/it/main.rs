//! The host service with a driver that starts nothing, and seeded disks over a source in memory.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(
    clippy::disallowed_methods,
    reason = "the service is handed the machine's clock"
)]

mod control;
mod mounts;
