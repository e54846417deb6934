//! What a server did, to be read by whoever shows metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::request::Command;

/// Totals since the server was made, over all connections and exports. They only grow; read them with
/// `load(Relaxed)`. A request counts when it is begun.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that began.
    pub connections_opened: AtomicU64,
    /// Connections that ended, well or not.
    pub connections_closed: AtomicU64,
    /// Connections that ended by an error: the client's, the network's, or a deadline.
    pub connections_failed: AtomicU64,
    /// Read requests.
    pub reads: AtomicU64,
    /// Bytes of read requests.
    pub read_bytes: AtomicU64,
    /// Write requests.
    pub writes: AtomicU64,
    /// Bytes of write requests.
    pub written_bytes: AtomicU64,
    /// Trim and write zeroes requests.
    pub zeroes: AtomicU64,
    /// Flush requests; FUA is not among them.
    pub flushes: AtomicU64,
    /// Error replies.
    pub errors: AtomicU64,
}

impl Counters {
    pub(crate) fn count(&self, command: &Command) {
        match command {
            Command::Read { len, .. } => {
                add(&self.reads, 1);
                add(&self.read_bytes, u64::from(*len));
            }
            Command::Write { len, .. } => {
                add(&self.writes, 1);
                add(&self.written_bytes, u64::from(*len));
            }
            Command::Zero { .. } => add(&self.zeroes, 1),
            Command::Flush => add(&self.flushes, 1),
            Command::Status { .. } | Command::Cache { .. } | Command::Disconnect => {}
        }
    }
}

/// Adds to a counter. Nothing is ordered by counters, so the weakest order does.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
