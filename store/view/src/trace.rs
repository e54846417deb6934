//! What a boot reads, in order of first use.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use shale_model::{ChunkId, MAX_TRACE_CHUNKS};

use crate::observe::Source;

/// The chunks that reads of a view touch, from its making until it is ended; at most [`MAX_TRACE_CHUNKS`].
#[derive(Debug, Default)]
pub struct Trace {
    touched: Mutex<Touched>,
    ended: AtomicBool,
}

#[derive(Debug, Default)]
struct Touched {
    seen: HashSet<ChunkId>,
    order: Vec<ChunkId>,
    firsts: FirstReads,
}

/// Where chunks were when a boot first read them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FirstReads {
    /// Chunks that had come before.
    pub here: u64,
    /// Chunks that the read waited for.
    pub waited: u64,
}

impl Trace {
    /// A read wants a part of this chunk, and has it from there.
    pub fn touch(&self, chunk: ChunkId, source: Source) {
        // A guest that is ready pays no more than this.
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        if touched.order.len() < MAX_TRACE_CHUNKS && touched.seen.insert(chunk) {
            touched.order.push(chunk);
            match source {
                Source::Cache => touched.firsts.here += 1,
                Source::Fetched => touched.firsts.waited += 1,
            }
        }
    }

    /// Whether nothing was touched yet.
    pub fn is_empty(&self) -> bool {
        let touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.order.is_empty()
    }

    /// Where chunks were that were touched so far.
    pub fn first_reads(&self) -> FirstReads {
        let touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.firsts
    }

    /// Ends the trace: what was touched so far, each chunk once.
    pub fn end(&self) -> Vec<ChunkId> {
        self.ended.store(true, Ordering::Relaxed);
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.seen = HashSet::new();
        std::mem::take(&mut touched.order)
    }
}
