//! How many of something are going on, for those who wait until none is.

use tokio::sync::watch;

/// A count of what goes on.
pub(crate) struct Ongoing(watch::Sender<usize>);

impl Ongoing {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// One more, until the guard is dropped.
    pub(crate) fn begin(&self) -> OngoingGuard<'_> {
        self.0.send_modify(|count| *count += 1);
        OngoingGuard(&self.0)
    }

    /// Waits until there is none.
    pub(crate) async fn none(&self) {
        // The error is when all is gone, which means the same.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One of what goes on.
pub(crate) struct OngoingGuard<'a>(&'a watch::Sender<usize>);

impl Drop for OngoingGuard<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
