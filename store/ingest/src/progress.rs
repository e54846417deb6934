//! What a push tells its observer.

/// One step of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressEvent {
    /// The source handed over this many bytes of file content, holes included.
    Read {
        /// How many.
        bytes: u64,
    },
    /// One more entry of the layer is complete.
    Entry,
    /// Chunks that need not be sent: the push had them already, or the sink did.
    Present {
        /// How many.
        chunks: u64,
        /// Their plain bytes.
        bytes: u64,
    },
    /// Bytes of a pack were handed to the sink.
    Sent {
        /// How many, compressed.
        bytes: u64,
    },
}

/// An observer of a push. It is called from several threads, often, and must not block.
pub trait Progress: Sync {
    /// Takes note of one step.
    fn report(&self, event: ProgressEvent);
}

/// Nobody looks.
impl Progress for () {
    fn report(&self, _: ProgressEvent) {}
}
