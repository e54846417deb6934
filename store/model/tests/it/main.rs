//! Properties of the formats and of the fold, over random layers.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod compose;
mod generate;
mod layer;
