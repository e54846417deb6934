//! One direction of a link.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::Link;

/// What travels: some bytes of a connection, or the end of them.
pub(super) type Parcel = Vec<u8>;

/// A cable: parcels go in from any connection, leave at the link's rate in the order they came, and are
/// delivered a delay later.
///
/// A thread of its own delivers, because timers of an async runtime are a millisecond coarse.
#[derive(Debug)]
pub(super) struct Wire {
    shared: Arc<Shared>,
    link: Link,
    deliverer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    schedule: Schedule,
    travelling: VecDeque<Travelling>,
    closed: bool,
}

#[derive(Debug)]
struct Travelling {
    arrives: Instant,
    parcel: Parcel,
    to: UnboundedSender<Parcel>,
}

/// When bytes leave: pure, so that it can be tested without a clock.
#[derive(Debug)]
struct Schedule {
    free_at: Instant,
}

impl Schedule {
    /// When bytes that come at `now` and take `sending` have left.
    fn send(&mut self, now: Instant, sending: Duration) -> Instant {
        self.free_at = self.free_at.max(now) + sending;
        self.free_at
    }
}

impl Wire {
    pub(super) fn new(link: Link) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                schedule: Schedule {
                    free_at: Instant::now(),
                },
                travelling: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let of_thread = shared.clone();
        let deliverer = thread::Builder::new().name("wire".into());
        let deliverer = deliverer.spawn(move || of_thread.deliver())?;
        Ok(Self {
            shared,
            link,
            deliverer: Some(deliverer),
        })
    }

    /// Puts a parcel in, to be delivered to `to`. What `to` no longer takes is lost.
    pub(super) fn send(&self, parcel: Parcel, to: UnboundedSender<Parcel>) {
        let sending = self.link.time_to_send(parcel.len());
        let mut state = self.shared.lock();
        let arrives = state.schedule.send(Instant::now(), sending) + self.link.delay();
        state.travelling.push_back(Travelling {
            arrives,
            parcel,
            to,
        });
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
        if let Some(deliverer) = self.deliverer.take() {
            let _ = deliverer.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers until the wire is dropped.
    fn deliver(&self) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            match state.travelling.front().map(|first| first.arrives) {
                None => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner)
                }
                // Delays and order are the same for all, so the first one in is the first to arrive, and
                // nothing that comes meanwhile can be due before.
                Some(arrives) if arrives > now => {
                    drop(state);
                    thread::sleep(arrives - now);
                    state = self.lock();
                }
                Some(_) => {
                    if let Some(Travelling { parcel, to, .. }) = state.travelling.pop_front() {
                        let _ = to.send(parcel);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_one_after_the_other_at_the_rate() {
        let start = Instant::now();
        let (second, milli) = (Duration::from_secs(1), Duration::from_millis(1));
        let mut schedule = Schedule { free_at: start };
        assert_eq!(schedule.send(start, second), start + second);
        // It waits for what was before it, and an idle time is not made up for.
        assert_eq!(schedule.send(start + milli, second), start + 2 * second);
        assert_eq!(
            schedule.send(start + 9 * second, second),
            start + 10 * second
        );
    }

    #[test]
    fn parcels_arrive_in_order_and_not_before_their_time() {
        let link: Link = "1000mbit,10ms".parse().unwrap();
        let wire = Wire::new(link).unwrap();
        let (to, mut delivered) = tokio::sync::mpsc::unbounded_channel();
        let begun = Instant::now();
        for number in 0..100u8 {
            wire.send(vec![number], to.clone());
        }
        for number in 0..100u8 {
            assert_eq!(delivered.blocking_recv().unwrap(), [number]);
        }
        assert!(begun.elapsed() >= link.delay());
    }
}
