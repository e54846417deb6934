//! What happened on the host, for whoever wants to know: kept for a while, over restarts of the service too, and told
//! to those who follow.
//!
//! ```text
//! Events::tell   numbers an event, keeps it, tells it
//!   EventLog     two files, the older one and the one that grows; bounded, read whatever a crash left of them
//!   broadcast    those who follow; one who is too slow loses events and is told how many
//! ```

mod follow;
mod log;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use shale_files::{FileResult, Files};
use tokio::sync::{Semaphore, broadcast};

use crate::api::{Caller, Event, EventKind, PreviousService};

pub(crate) use follow::follow;
use log::EventLog;

/// Events that one who follows may be behind: what happens to a hundred machines that start together, some times over.
const BEHIND: usize = 1024;

/// Those who follow at a time. They stay, so they are fewer than clients.
const MAX_FOLLOWERS: usize = 64;

/// Longest text of an event in bytes. Reasons are a line or two.
const MAX_TEXT_BYTES: usize = 1000;

/// The events of a host.
pub(crate) struct Events {
    state: Mutex<State>,
    feed: broadcast::Sender<Arc<Event>>,
    followers: Semaphore,
    clock: fn() -> SystemTime,
}

struct State {
    log: EventLog,
    next: u64,
    previous: Option<PreviousService>,
    counts: BTreeMap<&'static str, u64>,
}

impl Events {
    /// The events that are kept in `files`, and those to come.
    ///
    /// # Errors
    /// The files cannot be made.
    pub(crate) fn open(files: Arc<dyn Files>, clock: fn() -> SystemTime) -> FileResult<Self> {
        let (log, last) = EventLog::open(files)?;
        let previous = last.as_ref().map(|last| match last.what {
            EventKind::ServiceStopping => PreviousService::Stopped,
            _ => PreviousService::Killed,
        });
        Ok(Self {
            state: Mutex::new(State {
                log,
                next: last.map_or(1, |last| last.id + 1),
                previous,
                counts: BTreeMap::new(),
            }),
            feed: broadcast::Sender::new(BEHIND),
            followers: Semaphore::new(MAX_FOLLOWERS),
            clock,
        })
    }

    /// Something happened by itself.
    pub(crate) fn happened(&self, machine: Option<&str>, what: EventKind) {
        self.tell(machine, &Caller::default(), what);
    }

    /// Something happened that somebody asked for. A write to the system's page cache is all that it waits for.
    pub(crate) fn tell(&self, machine: Option<&str>, caller: &Caller, what: EventKind) {
        let since = (self.clock)().duration_since(UNIX_EPOCH);
        // Milliseconds: a number that people can read.
        let millis = since.map_or(0, |since| since.as_millis() as u64);
        let what = shortened(what);
        let (kind, fields) = (what.name(), serde_json::to_string(&what));
        let (id, kept) = {
            let mut state = self.state();
            let event = Event {
                id: state.next,
                time: millis as f64 / 1000.0,
                machine: machine.map(str::to_owned),
                caller: caller.clone(),
                what,
            };
            state.next += 1;
            *state.counts.entry(kind).or_default() += 1;
            let (id, kept) = (event.id, state.log.append(&event));
            // Under the lock, so that they come in order. Nobody who listens is no error.
            let _ = self.feed.send(Arc::new(event));
            (id, kept)
        };
        // Not under the lock: whoever reads the log may be slow.
        let (machine, fields) = (machine.unwrap_or_default(), fields.unwrap_or_default());
        tracing::info!(event = id, kind, machine, fields, "event");
        if let Err(error) = kept {
            // Who follows was told all the same.
            tracing::warn!(event = id, %error, "an event is not kept");
        }
    }

    /// How the service before this one ended.
    pub(crate) fn previous(&self) -> Option<PreviousService> {
        self.state().previous
    }

    /// The machines that were stalled when the service before this one ended, each with the event that began it. Blocks.
    pub(crate) fn stalled_before(&self) -> BTreeMap<String, Event> {
        still_stalled(self.kept())
    }

    /// How many of each kind happened since the service started.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.state().counts.clone()
    }

    /// Makes durable what was kept. Blocks.
    pub(crate) fn sync(&self) {
        let unsynced = self.state().log.unsynced();
        // Not under the lock: a disk may take its time.
        let synced = unsynced.map(|file| file.sync());
        if let Some(Err(error)) = synced {
            tracing::warn!(%error, "events are not durable");
        }
    }

    /// The events that are kept, in order. Blocks.
    fn kept(&self) -> Vec<Event> {
        self.state().log.read()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The machines that are stalled after these events, and since which. Pure.
fn still_stalled(events: Vec<Event>) -> BTreeMap<String, Event> {
    let mut stalled = BTreeMap::new();
    for event in events {
        let Some(machine) = event.machine.clone() else {
            continue;
        };
        match event.what {
            EventKind::Stalled { .. } => {
                // For another cause it is the same stall.
                stalled.entry(machine).or_insert(event);
            }
            EventKind::GoingOn { .. }
            | EventKind::StallOver { .. }
            | EventKind::Starting
            | EventKind::Stopped
            | EventKind::Died { .. }
            | EventKind::Localized
            | EventKind::Removed => {
                stalled.remove(&machine);
            }
            _ => {}
        }
    }
    stalled
}

/// The same, with long reasons cut.
fn shortened(mut what: EventKind) -> EventKind {
    if let EventKind::Stalled { reason, .. } | EventKind::StartFailed { reason } = &mut what {
        reason.truncate(reason.floor_char_boundary(MAX_TEXT_BYTES));
    }
    what
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_stalled_until_something_ends_that() {
        let stalled = || EventKind::Stalled {
            cause: "transfer".into(),
            reason: String::new(),
        };
        let going_on = || EventKind::GoingOn { after_seconds: 1.0 };
        let events = [
            ("a", stalled()),
            ("b", stalled()),
            ("a", stalled()),
            ("c", stalled()),
            ("b", going_on()),
            ("c", EventKind::Died { unseen: false }),
            ("d", stalled()),
            ("d", EventKind::StallOver { after_seconds: 1.0 }),
            ("a", EventKind::Paused),
            (
                "b",
                EventKind::Ready {
                    seconds: 1.0,
                    waited_seconds: 0.0,
                },
            ),
        ];
        let events = events
            .into_iter()
            .zip(1..)
            .map(|((machine, what), id)| Event {
                id,
                time: 0.0,
                machine: Some(machine.into()),
                caller: Caller::default(),
                what,
            });
        let left = still_stalled(events.collect());
        let left: Vec<_> = left
            .iter()
            .map(|(name, event)| (name.as_str(), event.id))
            .collect();
        assert_eq!(left, [("a", 1)]);
    }
}
