//! What a boot reads, in order of first use.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use shale_model::{ChunkId, MAX_TRACE_CHUNKS};

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
}

impl Trace {
    /// A read wants a part of this chunk.
    pub fn touch(&self, chunk: ChunkId) {
        // A guest that is ready pays no more than this.
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        if touched.order.len() < MAX_TRACE_CHUNKS && touched.seen.insert(chunk) {
            touched.order.push(chunk);
        }
    }

    /// Whether nothing was touched yet.
    pub fn is_empty(&self) -> bool {
        let touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.order.is_empty()
    }

    /// Ends the trace: what was touched so far, each chunk once.
    pub fn end(&self) -> Vec<ChunkId> {
        self.ended.store(true, Ordering::Relaxed);
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *touched).order
    }
}
