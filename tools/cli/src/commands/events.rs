//! `shale events`.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use nix::unistd::{Uid, User};
use serde_json::json;
use shale_hostd::api::{Event, EventKind, EventsWish, PreviousService, Told};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::host::{connect, failure};
use crate::context::Context;
use crate::output::{Format, bytes, note, say, utc};

/// Show what happened on this host: machines, their content, the service
///
/// The newest events are kept, some thousand, also over a restart of the service. With --format json each is an object
/// in a line of its own; the fields are a stable interface.
///
/// Examples:
///   shale events
///   shale events web --since 2h
///   shale events --follow --format json
///   shale events --since 2026-11-25T17:00:00Z
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Events {
    /// Only those of this machine
    machine: Option<String>,
    /// Go on with what happens, until interrupted; without --since and --after, with nothing before
    #[arg(long, short)]
    follow: bool,
    /// Only those since then: a time (RFC 3339, or seconds since 1970), or how long ago (90s, 10m, 2h, 7d)
    #[arg(long, value_name = "TIME|DURATION", value_parser = parse_since)]
    since: Option<Since>,
    /// Only those with a larger number than this
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
}

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Since {
    /// Seconds since 1970.
    At(f64),
    /// So long ago.
    Ago(Duration),
}

impl Events {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let since = self.since.map(|since| match since {
            Since::At(seconds) => seconds,
            Since::Ago(time) => now.saturating_sub(time).as_secs_f64(),
        });
        let wish = EventsWish {
            machine: self.machine,
            since,
            after: self.after,
            follow: self.follow,
        };
        let (format, quiet) = (context.global.format, context.global.quiet);
        let told = connect(context)?.events(wish, |told| print(&told, format, quiet));
        told.map_err(failure)
    }
}

fn print(told: &Told, format: Format, quiet: bool) -> io::Result<()> {
    match (told, format) {
        (Told::Event(event), _) if quiet => say!("{}", event.id),
        (Told::Event(event), Format::Json) => say!("{}", serde_json::to_string(event)?),
        (Told::Event(event), Format::Table) => say!("{}", line(event)),
        (Told::Lost { events }, Format::Json) if !quiet => {
            say!("{}", json!({ "kind": "lost", "events": events }))
        }
        (Told::Lost { events }, _) => {
            note!("{events} events came faster than they were read, and are not shown");
            Ok(())
        }
    }
}

/// An event for people.
fn line(event: &Event) -> String {
    let (time, kind) = (utc(event.time as u64), event.what.name());
    let machine = event.machine.as_deref().unwrap_or("-");
    let line = format!("{time}  {machine:<16}  {kind:<17}  {}", details(event));
    line.trim_end().to_owned()
}

fn details(event: &Event) -> String {
    let said = said(&event.what);
    let Some(uid) = event.caller.uid else {
        return said;
    };
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let user = user.map_or_else(|| format!("user {uid}"), |user| user.name);
    match said.is_empty() {
        true => format!("by {user}"),
        false => format!("{said}, by {user}"),
    }
}

fn said(what: &EventKind) -> String {
    match what {
        EventKind::ServiceStarted {
            version,
            pid,
            previous,
        } => {
            let before = match previous {
                None => "",
                Some(PreviousService::Stopped) => ", the one before was stopped",
                Some(PreviousService::Killed) => ", the one before was killed",
            };
            format!("version {version}, process {pid}{before}")
        }
        EventKind::Deployed {
            reference,
            template,
        }
        | EventKind::Committed {
            reference,
            template,
        }
        | EventKind::Reimaged {
            reference,
            template,
        } => format!("{reference} {}", template.short()),
        EventKind::Ready {
            seconds,
            waited_seconds,
        } => format!("after {seconds:.2} s, reads waited {waited_seconds:.2} s of it"),
        EventKind::StartFailed { reason } => reason.clone(),
        EventKind::Stalled { cause, reason } => format!("{cause}: {reason}"),
        EventKind::GoingOn { after_seconds } => format!("after {after_seconds:.1} s"),
        EventKind::StallOver { after_seconds } => {
            format!("after {after_seconds:.1} s; its user has it paused")
        }
        EventKind::PauseLifted => "it goes on when its stall is over".into(),
        EventKind::Died { unseen: true } => "while no service ran".into(),
        EventKind::SnapshotMade { snapshot }
        | EventKind::SnapshotRestored { snapshot }
        | EventKind::SnapshotRemoved { snapshot } => snapshot.clone(),
        EventKind::BootSetBrought {
            template,
            bytes: brought,
        } => format!("{} of {}", bytes(*brought), template.short()),
        EventKind::FillDone {
            bytes: brought,
            seconds,
        } => format!("{} in {seconds:.1} s", bytes(*brought)),
        EventKind::SourceBroken { source } => source.clone(),
        EventKind::SourceBack {
            source,
            after_seconds,
        } => format!("{source} after {after_seconds:.1} s"),
        EventKind::Drill { fault, seconds } => format!("{fault} for {seconds} s"),
        EventKind::ServiceStopping
        | EventKind::ServiceReloaded
        | EventKind::Starting
        | EventKind::Paused
        | EventKind::Resumed
        | EventKind::Stopped
        | EventKind::Died { unseen: false }
        | EventKind::Removed
        | EventKind::Localized => String::new(),
    }
}

fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Since::At(time.unix_timestamp_nanos() as f64 / 1e9));
    }
    let wrong =
        || format!("`{text}` is neither a time as 2026-11-25T17:00:00Z nor as 90s, 10m, 2h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if text.len() == digits.len() {
        let seconds = text.parse::<f64>().ok();
        let seconds = seconds.filter(|seconds| seconds.is_finite());
        return seconds.map(Since::At).ok_or_else(wrong);
    }
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(unit).ok_or_else(wrong)?;
    Ok(Since::Ago(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use shale_hostd::api::Caller;

    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let ago = |seconds| Ok(Since::Ago(Duration::from_secs(seconds)));
        for (text, since) in [
            ("90s", ago(90)),
            ("10m", ago(600)),
            ("2h", ago(7200)),
            ("7d", ago(604_800)),
            ("1764080571", Ok(Since::At(1_764_080_571.0))),
            ("1764080571.5", Ok(Since::At(1_764_080_571.5))),
            ("2025-11-25T14:22:51Z", Ok(Since::At(1_764_080_571.0))),
            ("2025-11-25T15:22:51+01:00", Ok(Since::At(1_764_080_571.0))),
        ] {
            assert_eq!(parse_since(text), since, "{text}");
        }
        for text in [
            "",
            "s",
            "-1s",
            "1w",
            "1.5h",
            "nan",
            "yesterday",
            "999999999999999999d",
        ] {
            assert!(parse_since(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_event_is_a_line() {
        let mut event = Event {
            id: 1,
            time: 1_764_080_571.7,
            machine: Some("web".into()),
            caller: Caller::default(),
            what: EventKind::Stalled {
                cause: "unavailable".into(),
                reason: "nobody is there".into(),
            },
        };
        let stalled = "2025-11-25 14:22:51 UTC  web               stalled            \
                       unavailable: nobody is there";
        assert_eq!(line(&event), stalled);
        event.caller.uid = Some(0);
        event.what = EventKind::Paused;
        let paused = "2025-11-25 14:22:51 UTC  web               paused             by root";
        assert_eq!(line(&event), paused);
        event.caller.uid = None;
        event.what = EventKind::Removed;
        let removed = "2025-11-25 14:22:51 UTC  web               removed";
        assert_eq!(line(&event), removed);
    }
}
