//! The files that keep events:
//!
//! ```text
//! <state>/events/events.jsonl      a line of JSON for each, at most MAX_FILE_BYTES
//! <state>/events/events.jsonl.1    those before them
//! ```
//! A line that is cut off, damaged, or of a kind that this version does not know is passed over.

use std::sync::Arc;

use shale_files::{File, FileResult, Files, OpenMode, read_file};

use crate::api::Event;
use crate::dirs::known_path;

/// Bytes of a file after which another is begun: some thousand events. Two files are kept.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The file that grows.
const CURRENT: &str = "events.jsonl";

/// The one before it.
const OLDER: &str = "events.jsonl.1";

/// Events on disk. What is appended outlives the process at once, and a power cut after the next sync.
pub(super) struct EventLog {
    files: Arc<dyn Files>,
    current: Arc<dyn File>,
    /// Bytes of it that are whole lines.
    len: u64,
    is_synced: bool,
}

impl EventLog {
    /// Takes up what is there; the last event that can be read.
    pub(super) fn open(files: Arc<dyn Files>) -> FileResult<(Self, Option<Event>)> {
        let (current, mut len) = match files.open(&known_path(CURRENT), OpenMode::Write) {
            Ok(file) => {
                let len = file.size()?;
                (Arc::from(file), len)
            }
            Err(error) if error.is_missing() => (create(&*files)?, 0),
            Err(error) => return Err(error),
        };
        let mut log = Self {
            files,
            current,
            len,
            is_synced: true,
        };
        if len > MAX_FILE_BYTES {
            // Not of our making. It stays to be looked at, and is read no more.
            log.rotate()?;
            len = 0;
        }
        let mut end = [b'\n'];
        if len > 0 {
            log.current.read_at(len - 1, &mut end)?;
        }
        if end != [b'\n'] {
            // The writer was killed: what it wrote stays a line of its own.
            log.current.write_at(len, b"\n")?;
            log.len += 1;
        }
        let last = log.read().pop();
        Ok((log, last))
    }

    /// Adds an event.
    pub(super) fn append(&mut self, event: &Event) -> FileResult<()> {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        if self.len + line.len() as u64 > MAX_FILE_BYTES {
            self.rotate()?;
        }
        // Where this fails half way, the next line is written over it.
        self.current.write_at(self.len, &line)?;
        self.len += line.len() as u64;
        self.is_synced = false;
        Ok(())
    }

    /// The file that has to be synced, if one has; then it counts as if it were.
    pub(super) fn unsynced(&mut self) -> Option<Arc<dyn File>> {
        let is_synced = std::mem::replace(&mut self.is_synced, true);
        (!is_synced).then(|| self.current.clone())
    }

    /// All events that can be read, in order.
    pub(super) fn read(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for name in [OLDER, CURRENT] {
            // One that is not there, or not ours, has none.
            let bytes = read_file(&*self.files, &known_path(name), MAX_FILE_BYTES as usize);
            events.extend(parse(&bytes.unwrap_or_default()));
        }
        events
    }

    fn rotate(&mut self) -> FileResult<()> {
        if !self.is_synced {
            self.current.sync()?;
        }
        self.files
            .rename(&known_path(CURRENT), &known_path(OLDER))?;
        self.current = create(&*self.files)?;
        self.len = 0;
        Ok(())
    }
}

/// An empty file that grows, whose name is durable.
fn create(files: &dyn Files) -> FileResult<Arc<dyn File>> {
    let file = files.open(&known_path(CURRENT), OpenMode::CreateNew)?;
    files.sync_dir(&known_path(""))?;
    Ok(Arc::from(file))
}

/// The events of these lines. Pure.
fn parse(bytes: &[u8]) -> impl Iterator<Item = Event> {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice(line).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shale_files::MemoryFiles;

    use super::*;
    use crate::api::{Caller, EventKind};

    fn event(id: u64) -> Event {
        Event {
            id,
            time: 5.0,
            machine: Some("web".into()),
            caller: Caller::default(),
            what: EventKind::Stalled {
                cause: "unavailable".into(),
                reason: "r".repeat(id as usize % 700),
            },
        }
    }

    fn ids(log: &EventLog) -> Vec<u64> {
        log.read().iter().map(|event| event.id).collect()
    }

    #[test]
    fn the_newest_events_are_kept_and_the_room_is_bounded() {
        let files = Arc::new(MemoryFiles::new());
        let (mut log, last) = EventLog::open(files.clone()).unwrap();
        assert_eq!(last, None);
        for id in 1..=12_000 {
            log.append(&event(id)).unwrap();
        }
        let kept = ids(&log);
        let first = kept[0];
        assert!(first > 1 && kept.len() > 2000, "{first}, {}", kept.len());
        assert!(kept.into_iter().eq(first..=12_000));
        for name in [OLDER, CURRENT] {
            let file = files.open(&known_path(name), OpenMode::Read).unwrap();
            assert!(file.size().unwrap() <= MAX_FILE_BYTES);
        }
        // What was synced is there after a power cut, and so is what was in the older file.
        log.unsynced().unwrap().sync().unwrap();
        assert!(log.unsynced().is_none());
        let (log, last) = EventLog::open(Arc::new(files.after_power_cut(3))).unwrap();
        assert_eq!(last, Some(event(12_000)));
        assert!(ids(&log).into_iter().eq(first..=12_000));
    }

    #[test]
    fn a_file_that_is_too_large_is_put_aside() {
        let files = Arc::new(MemoryFiles::new());
        let file = files
            .open(&known_path(CURRENT), OpenMode::CreateNew)
            .unwrap();
        file.set_size(MAX_FILE_BYTES + 1).unwrap();
        let (mut log, last) = EventLog::open(files).unwrap();
        assert_eq!(last, None);
        log.append(&event(1)).unwrap();
        assert_eq!(ids(&log), [1]);
    }

    proptest! {
        #[test]
        fn a_writer_that_was_killed_costs_the_event_that_it_wrote(
            whole in 0..6u64, cut in 0..200usize, damage in prop::option::of((0..900usize, any::<u8>()))
        ) {
            let files = Arc::new(MemoryFiles::new());
            let (mut log, _) = EventLog::open(files.clone()).unwrap();
            for id in 1..=whole {
                log.append(&event(id)).unwrap();
            }
            let torn = serde_json::to_vec(&event(whole + 1)).unwrap();
            let cut = cut.min(torn.len());
            log.current.write_at(log.len, &torn[..cut]).unwrap();
            if let Some((at, byte)) = damage {
                let size = log.current.size().unwrap();
                if (at as u64) < size {
                    log.current.write_at(at as u64, &[byte]).unwrap();
                }
            }
            let (mut next, last) = EventLog::open(files).unwrap();
            let id = last.map_or(1, |last| last.id + 1);
            next.append(&event(id)).unwrap();
            let read = next.read();
            prop_assert_eq!(read.last(), Some(&event(id)));
            if damage.is_none() {
                let all: Vec<u64> = (1..=id).collect();
                prop_assert_eq!(ids(&next), all);
                // Cut at its very end, the event lacks its newline only.
                prop_assert_eq!(id, whole + 1 + u64::from(cut == torn.len()));
            }
        }
    }
}
