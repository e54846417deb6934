//! What a look at the host finds, every second: machines that are stalled or go on, content that has come, sources that
//! break and come back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shale_model::DeviceError;
use shale_view::FillState;

use crate::api::{Event, EventKind};
use crate::local::local_bytes;
use crate::metrics::SourceSums;
use crate::seen::{Change, NO_ANSWER, Sight, Stall, StallCause};
use crate::served::Served;

use super::Host;
use super::instance::{Instance, Live};

impl Host {
    /// Looks at an instance whose machine runs. Blocks.
    pub(super) fn look_at(&self, instance: &Instance) {
        let now = Instant::now();
        let (change, filled) = {
            let mut live = instance.live();
            let (sight, wanted) = (sight_of(&live), live.wanted());
            (live.standstill.look(sight, wanted, now), filled(&mut live))
        };
        let name = Some(instance.name.as_str());
        let happened = |what| self.witness.events.happened(name, what);
        match change {
            None => {}
            Some(Change::Stalled(stall)) => happened(EventKind::Stalled {
                cause: stall.cause.name().to_owned(),
                reason: stall.reason,
            }),
            Some(Change::GoesOn(after)) => happened(EventKind::GoingOn {
                after_seconds: rounded(after),
            }),
            Some(Change::Over(after)) => happened(EventKind::StallOver {
                after_seconds: rounded(after),
            }),
        }
        if let Some((bytes, time)) = filled {
            let seconds = rounded(time);
            happened(EventKind::FillDone { bytes, seconds });
        }
        self.note_arrival(instance, now);
    }

    /// Notes how much of an instance's content is here, while it comes. Blocks.
    fn note_arrival(&self, instance: &Instance, now: Instant) {
        // Not under the lock: all chunks of the plan are looked up.
        let plan = {
            let live = instance.live();
            let disk = live.disk.as_ref();
            let fills = disk.filter(|disk| disk.filled() == FillState::Running);
            let due = fills.filter(|_| live.arrival.is_due(now));
            due.map(Served::view)
        };
        let Some(view) = plan else { return };
        if let Ok((_, here)) = local_bytes(self.sources.cache(), view.plan()) {
            instance.live().arrival.note(now, here);
        }
    }

    /// Takes up that an instance was stalled when the service before this one ended, if its machine runs.
    pub(super) fn take_over_stall(&self, instance: &Instance, began: &Event) {
        let EventKind::Stalled { cause, reason } = &began.what else {
            return;
        };
        let now = Instant::now();
        let for_seconds = (self.now() as f64 - began.time).max(0.0);
        let for_time = Duration::try_from_secs_f64(for_seconds).unwrap_or_default();
        let mut live = instance.live();
        if live.vm.is_some() {
            let stall = Stall {
                // The clock of this boot may not reach so far back.
                since: now.checked_sub(for_time).unwrap_or(now),
                cause: StallCause::named(cause),
                reason: reason.clone(),
            };
            live.standstill.take_over(stall, now);
        }
    }

    /// Tells of sources that broke or came back since the last look.
    pub(super) fn look_at_sources(&self, broken: &mut BTreeMap<String, Instant>) {
        for what in changes(broken, &self.sources.sums(), Instant::now()) {
            self.witness.events.happened(None, what);
        }
    }

    /// Tells what became of a machine.
    pub(super) fn happened(&self, instance: &Instance, what: EventKind) {
        let name = instance.name.as_str();
        self.witness.events.happened(Some(name), what);
    }
}

/// What there is to see of an instance's disk.
pub(super) fn sight_of(live: &Live) -> Sight {
    let Some(disk) = &live.disk else {
        return Sight::default();
    };
    let waiting = disk.waiting().map(|waiting| Stall {
        since: waiting.since.into_std(),
        cause: StallCause::Content(waiting.cause),
        reason: waiting.reason.unwrap_or_else(|| NO_ANSWER.into()),
    });
    let error = disk.failed().reason.map(|error| Stall {
        since: Instant::now(),
        cause: match error {
            DeviceError::NoSpace(_) => StallCause::DiskFull,
            _ => StallCause::DiskFailed,
        },
        reason: error.to_string(),
    });
    Sight {
        is_late: disk.is_late(),
        waiting,
        // Looked at only where that is the question.
        has_room: error.is_some() && disk.has_room(),
        is_whole: disk.filled() == FillState::Whole,
        error,
    }
}

/// What a fill has brought, the first time that it is done.
fn filled(live: &mut Live) -> Option<(u64, Duration)> {
    let brought = live.disk.as_ref()?.brought_all()?;
    let was_told = std::mem::replace(&mut live.fill_is_told, true);
    (!was_told).then_some(brought)
}

/// What changed of the sources, of which `broken` are those that were broken, and since when. Pure.
fn changes(
    broken: &mut BTreeMap<String, Instant>,
    sums: &BTreeMap<String, SourceSums>,
    now: Instant,
) -> Vec<EventKind> {
    let mut changes = Vec::new();
    for (source, sums) in sums {
        match (sums.is_broken, broken.get(source).copied()) {
            (true, None) => {
                broken.insert(source.clone(), now);
                changes.push(EventKind::SourceBroken {
                    source: source.clone(),
                });
            }
            (false, Some(since)) => {
                broken.remove(source);
                changes.push(EventKind::SourceBack {
                    source: source.clone(),
                    after_seconds: rounded(now - since),
                });
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    changes
}

/// Seconds, to the millisecond: looks tell no more.
pub(super) fn rounded(time: Duration) -> f64 {
    time.as_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_of_when_it_breaks_and_when_it_is_back() {
        let begun = Instant::now();
        let sums = |is_broken| {
            let sums = SourceSums {
                is_broken,
                ..SourceSums::default()
            };
            BTreeMap::from([("http://a".to_owned(), sums)])
        };
        let mut broken = BTreeMap::new();
        let mut look = |is_broken, seconds| {
            let now = begun + Duration::from_secs(seconds);
            changes(&mut broken, &sums(is_broken), now)
        };
        let source = || "http://a".to_owned();
        assert_eq!(look(false, 0), []);
        let told = EventKind::SourceBroken { source: source() };
        assert_eq!(look(true, 1), [told]);
        assert_eq!(look(true, 2), []);
        let told = EventKind::SourceBack {
            source: source(),
            after_seconds: 4.0,
        };
        assert_eq!(look(false, 5), [told]);
        assert_eq!(look(false, 6), []);
    }
}
