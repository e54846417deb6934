//! Requests that wait, and the processes that no longer want them.
//!
//! The kernel says when a process that waits got a signal. Most signals must not end a read: programs do not expect that
//! of files, and a page that cannot be read in kills whoever touches it. So a request is given up only when its process is
//! to die, which the kernel shows in `/proc`; and as it says only once that there was a signal, who got one is looked at
//! again as long as the request waits.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// How often a process that got a signal is looked at. A person waits no longer for Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// SIGKILL in a mask of signals. The kernel adds it to a process that any signal is to end.
const SIGKILL_BIT: u64 = 1 << 8;

/// All requests that wait, by number.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<HashMap<u64, Arc<Notify>>>);

impl Waiting {
    /// Takes up a request; it stays until the guard is dropped.
    pub(crate) fn enter(&self, unique: u64, pid: u32) -> Waiter<'_> {
        let signalled = Arc::new(Notify::new());
        self.all().insert(unique, signalled.clone());
        Waiter {
            all: self,
            unique,
            pid,
            signalled,
        }
    }

    /// Tells a request that its process got a signal; whether it waits.
    pub(crate) fn signal(&self, unique: u64) -> bool {
        let found = self.all().get(&unique).cloned();
        if let Some(signalled) = &found {
            signalled.notify_one();
        }
        found.is_some()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Arc<Notify>>> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits.
pub(crate) struct Waiter<'a> {
    all: &'a Waiting,
    unique: u64,
    pid: u32,
    signalled: Arc<Notify>,
}

impl Waiter<'_> {
    /// Ends when the process that asks is to die.
    pub(crate) async fn given_up(&self) {
        self.signalled.notified().await;
        while !is_dying(self.pid) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.all.all().remove(&self.unique);
    }
}

/// Whether a thread is to be killed; also if that cannot be seen, as for processes of another view of the system.
fn is_dying(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).map_or(true, |status| has_sigkill(&status))
}

/// Whether SIGKILL is pending, in the text of `/proc/PID/status`.
fn has_sigkill(status: &str) -> bool {
    let masks = status.lines().filter_map(|line| {
        let mask = line
            .strip_prefix("SigPnd:")
            .or(line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    masks.fold(0, |all, mask| all | mask) & SIGKILL_BIT != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sigkill_ends_a_request() {
        let status = |own: u64, shared: u64| {
            format!("Name:\tcat\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\tffff\n")
        };
        assert!(!has_sigkill(&status(0, 0)));
        assert!(!has_sigkill(&status(1 << 16 | 1 << 14, 1 << 1)));
        assert!(has_sigkill(&status(1 << 8, 0)));
        assert!(has_sigkill(&status(0, 1 << 8 | 1)));
        assert!(!is_dying(std::process::id()));
        // No thread has this number.
        assert!(is_dying(u32::MAX));
    }

    #[test]
    fn a_signal_finds_the_request_that_waits() {
        let waiting = Waiting::default();
        let waiter = waiting.enter(8, std::process::id());
        assert!(waiting.signal(8) && !waiting.signal(9));
        drop(waiter);
        assert!(!waiting.signal(8));
    }
}
