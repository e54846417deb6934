//! Pushes of real directories and archives into a sink that checks every byte.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod diff;
mod dir;
mod hostile_tar;
mod push;
mod sink;
mod tar;
mod trees;
