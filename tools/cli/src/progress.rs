//! Progress of long work, on standard error.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::json;
use shale_ingest::{Progress, ProgressEvent};

use crate::output::{bytes, note};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A line that is rewritten on a terminal, nothing elsewhere.
    #[default]
    Auto,
    /// A line that is rewritten.
    Tty,
    /// A line every few seconds.
    Plain,
    /// A JSON object every few seconds.
    Json,
    /// Nothing.
    None,
}

/// When and how progress is printed.
struct Pace {
    mode: ProgressMode,
    started: Instant,
    shown: Mutex<Instant>,
}

impl Pace {
    fn new(mode: ProgressMode) -> Self {
        let mode = match mode {
            ProgressMode::Auto if std::io::stderr().is_terminal() => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::None,
            mode => mode,
        };
        let started = Instant::now();
        let shown = Mutex::new(started);
        Self {
            mode,
            started,
            shown,
        }
    }

    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64().max(0.001)
    }

    /// Prints, as a line or as an object, unless something was printed a moment ago.
    fn show(&self, text: impl FnOnce() -> String, object: impl FnOnce() -> serde_json::Value) {
        let pause = match self.mode {
            ProgressMode::Tty => Duration::from_millis(100),
            ProgressMode::Plain | ProgressMode::Json => Duration::from_secs(2),
            ProgressMode::Auto | ProgressMode::None => return,
        };
        let Ok(mut shown) = self.shown.try_lock() else {
            return;
        };
        if shown.elapsed() < pause {
            return;
        }
        *shown = Instant::now();
        match self.mode {
            ProgressMode::Tty => {
                let _ = write!(std::io::stderr(), "\r\x1b[K{}", text());
            }
            ProgressMode::Json => note!("{}", object()),
            _ => note!("{}", text()),
        }
    }

    /// Ends the line that was rewritten.
    fn end(&self) {
        if self.mode == ProgressMode::Tty {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Shows how far a disk is written.
pub(crate) struct DiskProgress {
    pace: Pace,
    total: u64,
}

impl DiskProgress {
    /// For a disk of `total` bytes.
    pub(crate) fn new(mode: ProgressMode, total: u64) -> Self {
        let pace = Pace::new(mode);
        Self { pace, total }
    }

    /// So many bytes are done, so many of them written.
    pub(crate) fn report(&self, done: u64, written: u64) {
        let (total, seconds) = (self.total, self.pace.seconds());
        let speed = (written as f64 / seconds) as u64;
        self.pace.show(
            || {
                let [done, total, written, speed] = [done, total, written, speed].map(bytes);
                format!("{done} of {total}, {written} of it data ({speed}/s)")
            },
            || json!({"done_bytes": done, "total_bytes": total, "written_bytes": written, "seconds": seconds}),
        );
    }

    /// Ends the line that was rewritten.
    pub(crate) fn end(&self) {
        self.pace.end();
    }
}

/// Shows how much of something is done.
pub(crate) struct ShareProgress {
    pace: Pace,
    what: &'static str,
}

impl ShareProgress {
    /// `what` is said of the bytes: that they are here, for instance.
    pub(crate) fn new(mode: ProgressMode, what: &'static str) -> Self {
        let pace = Pace::new(mode);
        Self { pace, what }
    }

    /// So many bytes of so many are done.
    pub(crate) fn report(&self, done: u64, total: u64) {
        let (what, seconds) = (self.what, self.pace.seconds());
        self.pace.show(
            || format!("{} of {} {what}", bytes(done), bytes(total)),
            || json!({"done_bytes": done, "total_bytes": total, "seconds": seconds}),
        );
    }

    /// Ends the line that was rewritten.
    pub(crate) fn end(&self) {
        self.pace.end();
    }
}

/// Shows how a push goes.
pub(crate) struct PushProgress {
    pace: Pace,
    read: AtomicU64,
    entries: AtomicU64,
    present: AtomicU64,
    sent: AtomicU64,
}

impl PushProgress {
    pub(crate) fn new(mode: ProgressMode) -> Self {
        Self {
            pace: Pace::new(mode),
            read: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            present: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Ends the line that was rewritten.
    pub(crate) fn end(&self) {
        self.pace.end();
    }
}

impl Progress for PushProgress {
    fn report(&self, event: ProgressEvent) {
        let (counter, by) = match event {
            ProgressEvent::Read { bytes } => (&self.read, bytes),
            ProgressEvent::Entry => (&self.entries, 1),
            ProgressEvent::Present { bytes, .. } => (&self.present, bytes),
            ProgressEvent::Sent { bytes } => (&self.sent, bytes),
        };
        counter.fetch_add(by, Relaxed);
        let (read, sent) = (self.read.load(Relaxed), self.sent.load(Relaxed));
        let (present, entries) = (self.present.load(Relaxed), self.entries.load(Relaxed));
        let seconds = self.pace.seconds();
        self.pace.show(
            || {
                let speed = (read as f64 / seconds) as u64;
                let [read, speed, sent, present] = [read, speed, sent, present].map(bytes);
                format!("{entries} entries, {read} read ({speed}/s), {sent} sent, {present} already there")
            },
            || {
                json!({"entries": entries, "read_bytes": read, "sent_bytes": sent,
                    "present_bytes": present, "seconds": seconds})
            },
        );
    }
}
