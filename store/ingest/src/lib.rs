//! From a source to a layer: walk, cut into chunks, leave out what the sink has, pack, encode.
//!
//! ```text
//! Source -> Visitor: entries -> LayerEncoder -> pages, root
//!                    bytes   -> Cutter -> batches -> Sink::missing -> frames -> packs -> Sink
//! ```
//! Sources are a directory ([`DirSource`]), a tar archive ([`TarSource`]), or the difference of either to
//! a composed tree ([`Difference`]). [`push_tree`] runs the flow. Nothing here prints or reads the clock.

mod chunker;
mod cutter;
mod diff;
mod error;
mod packing;
mod progress;
mod push;
mod seen;
mod source;

pub use chunker::{AVG_CHUNK_BYTES, MIN_CHUNK_BYTES, MIN_HOLE_BYTES};
pub use diff::Difference;
pub use error::{PushError, SourceError, TarError, TarProblem};
pub use progress::{Progress, ProgressEvent};
pub use push::{PushStats, Pushed, push_tree};
pub use source::{DirSource, FileBytes, Run, Source, TarSource, Visitor, keeps_xattr};
