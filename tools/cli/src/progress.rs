//! Progress of long work, on standard error.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::ValueEnum;
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

/// Shows how a push goes.
pub(crate) struct PushProgress {
    mode: ProgressMode,
    read: AtomicU64,
    entries: AtomicU64,
    present: AtomicU64,
    sent: AtomicU64,
    started: Instant,
    shown: Mutex<Instant>,
}

impl PushProgress {
    pub(crate) fn new(mode: ProgressMode) -> Self {
        let mode = match mode {
            ProgressMode::Auto if std::io::stderr().is_terminal() => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::None,
            mode => mode,
        };
        let now = Instant::now();
        Self {
            mode,
            read: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            present: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            started: now,
            shown: Mutex::new(now),
        }
    }

    /// Ends the line that was rewritten.
    pub(crate) fn end(&self) {
        if self.mode == ProgressMode::Tty {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    fn show(&self) {
        let (read, sent) = (self.read.load(Relaxed), self.sent.load(Relaxed));
        let (present, entries) = (self.present.load(Relaxed), self.entries.load(Relaxed));
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let speed = bytes((read as f64 / seconds) as u64);
        let text = format!(
            "{entries} entries, {} read ({speed}/s), {} sent, {} already there",
            bytes(read),
            bytes(sent),
            bytes(present)
        );
        match self.mode {
            ProgressMode::Tty => {
                let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
            }
            ProgressMode::Json => note!(
                "{}",
                serde_json::json!({"entries": entries, "read_bytes": read, "sent_bytes": sent,
                    "present_bytes": present, "seconds": seconds})
            ),
            ProgressMode::Plain => note!("{text}"),
            ProgressMode::Auto | ProgressMode::None => {}
        }
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
        let pause = match self.mode {
            ProgressMode::Tty => Duration::from_millis(100),
            ProgressMode::Plain | ProgressMode::Json => Duration::from_secs(2),
            ProgressMode::Auto | ProgressMode::None => return,
        };
        if let Ok(mut shown) = self.shown.try_lock()
            && shown.elapsed() >= pause
        {
            *shown = Instant::now();
            self.show();
        }
    }
}
