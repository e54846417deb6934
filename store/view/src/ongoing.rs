//! How many of something are going on, for those who wait until none is, or until one is.

use tokio::sync::watch;

/// A count of what goes on.
pub(crate) struct Ongoing(watch::Sender<usize>);

impl Ongoing {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// One more, until the guard is dropped.
    pub(crate) fn begin(&self) -> OngoingGuard {
        self.0.send_modify(|count| *count += 1);
        OngoingGuard(self.0.clone())
    }

    /// Whether there is none.
    pub(crate) fn is_none(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Waits until there is none.
    pub(crate) async fn none(&self) {
        self.until(|count| count == 0).await;
    }

    /// Waits until there is one.
    pub(crate) async fn some(&self) {
        self.until(|count| count > 0).await;
    }

    async fn until(&self, is: impl Fn(usize) -> bool) {
        // There is no error while the sender is there.
        let _ = self.0.subscribe().wait_for(|count| is(*count)).await;
    }
}

/// One of what goes on.
pub(crate) struct OngoingGuard(watch::Sender<usize>);

impl Drop for OngoingGuard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
