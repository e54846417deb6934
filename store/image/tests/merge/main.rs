//! Merging layers and giving instances an identity, seen from outside.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod files;
mod helper;
mod identity;
mod loader;
mod model;
mod rules;
