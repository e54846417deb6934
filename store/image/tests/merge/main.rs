//! Merging layers and giving instances an identity, seen from outside.

mod accounts;
mod files;
mod helper;
mod loader;
mod model;
