//! Batches: what the cutter hands on at once.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cutter::{BATCH_BYTES, Cut};

/// Whether a batch holds content or pages of the layer, which come after all content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchKind {
    Content,
    Pages,
}

/// Chunks that the push met for the first time, in a buffer that goes back to its pool.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) kind: BatchKind,
    pub(crate) bytes: Vec<u8>,
    pub(crate) chunks: Vec<Cut>,
    pool: BufferPool,
}

impl Batch {
    pub(crate) fn new(
        kind: BatchKind,
        bytes: Vec<u8>,
        chunks: Vec<Cut>,
        pool: &BufferPool,
    ) -> Self {
        let pool = pool.clone();
        Self {
            kind,
            bytes,
            chunks,
            pool,
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

/// Buffers of [`BATCH_BYTES`] that are used again: new ones cost page faults.
#[derive(Debug, Clone, Default)]
pub(crate) struct BufferPool(Arc<Mutex<Vec<Vec<u8>>>>);

impl BufferPool {
    /// A buffer with any bytes in it.
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.pop().unwrap_or_else(|| vec![0; BATCH_BYTES])
    }

    fn give_back(&self, buffer: Vec<u8>) {
        if buffer.len() == BATCH_BYTES {
            let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            free.push(buffer);
        }
    }
}
