//! Waits between tries.

use std::time::Duration;

use shale_model::ChunkId;

use super::RetrySettings;

/// Waits between tries, each twice as long as the one before, up to a limit.
pub(super) struct Backoff {
    next: Duration,
    longest: Duration,
    /// Of 256: three quarters to five quarters of each wait, so that readers of different chunks do not come
    /// back at once.
    jitter: u32,
}

impl Backoff {
    pub(super) fn begin(retry: &RetrySettings, chunk: ChunkId) -> Self {
        Self {
            next: retry.first_wait,
            longest: retry.longest_wait,
            // The chunk's hash is random enough, and the same on every run.
            jitter: 192 + u32::from(chunk.as_bytes()[0]) / 2,
        }
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.next * self.jitter / 256).await;
        self.next = (self.next * 2).min(self.longest);
    }
}
