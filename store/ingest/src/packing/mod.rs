//! From batches of chunks to packs, in threads.
//!
//! ```text
//! batches -> select: Sink::missing, frames -> compress (a thread a processor) -> write: packs -> close
//! ```
//! Frames keep their order, so the same push makes the same packs. Everything between the stages is bounded:
//! batches by their channel, frames by tickets, pages that wait for the content by their bytes. Each stream
//! ends with a mark; one that ends without it was broken off, and no further pack is finished.

mod batch;
mod compress;
mod frame;
mod select;
mod write;

pub(crate) use batch::{Batch, BatchKind, BufferPool};
pub(crate) use compress::compress;
pub(crate) use select::{Selected, Selector};
pub(crate) use write::{ClosedPack, Writer, Written, close_packs};
