//! What happened on a host.

use serde::{Deserialize, Serialize};
use shale_model::TemplateId;

/// Something that happened. Its JSON is a stable interface: kinds and fields may come, none goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number: one more than that of the event before it, also over a restart of the service.
    pub id: u64,
    /// When, in seconds since 1970 (UTC).
    pub time: f64,
    /// The machine that it happened to; none where it is the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Who asked for it; nobody where it happened by itself.
    #[serde(flatten)]
    pub caller: Caller,
    /// What it is.
    #[serde(flatten)]
    pub what: EventKind,
}

/// Who asks for something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The number of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The request, as the service's log names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// The service began, and has taken over what it found.
    ServiceStarted {
        /// Its version.
        version: String,
        /// The number of its process.
        pid: u32,
        /// How the one before it ended; `None` if there was none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<PreviousService>,
    },
    /// The service ends; machines run on.
    ServiceStopping,
    /// The service took up its settings again.
    ServiceReloaded,
    /// A machine was made. It is not started yet.
    Deployed {
        /// The template's reference.
        reference: String,
        /// The template.
        template: TemplateId,
    },
    /// Its hypervisor runs, and its guest begins to boot.
    Starting,
    /// Its login prompt is there. Told only of starts that somebody waits for.
    Ready {
        /// Seconds since the request.
        seconds: f64,
        /// Seconds of these in which reads waited for content.
        waited_seconds: f64,
    },
    /// It could not be made or started.
    StartFailed {
        /// Why.
        reason: String,
    },
    /// Somebody stopped its processors.
    Paused,
    /// Somebody let its processors run again.
    Resumed,
    /// Its reads wait for long, or it stands still because its disk cannot answer.
    Stalled {
        /// Why, as metrics have it.
        cause: String,
        /// Why.
        reason: String,
    },
    /// It goes on that was stalled.
    GoingOn {
        /// For how long.
        after_seconds: f64,
    },
    /// It is stalled no longer; but its user has it paused, and it goes on only when that is over.
    StallOver {
        /// For how long.
        after_seconds: f64,
    },
    /// Its user, who had paused it, lets it run: it does when its stall is over.
    PauseLifted,
    /// Somebody stopped it.
    Stopped,
    /// Its machine ended and nobody had stopped it: the guest shut itself down, or the hypervisor is dead.
    Died {
        /// Whether that was while no service ran, so that the time is when it was found out.
        unseen: bool,
    },
    /// It is gone, with all that it wrote.
    Removed,
    /// Its disk was kept as it is.
    SnapshotMade {
        /// The name.
        snapshot: String,
    },
    /// Its disk is what it was then.
    SnapshotRestored {
        /// The name.
        snapshot: String,
    },
    /// A snapshot of it is gone.
    SnapshotRemoved {
        /// The name.
        snapshot: String,
    },
    /// What it changed is a template now.
    Committed {
        /// Its reference.
        reference: String,
        /// The template.
        template: TemplateId,
    },
    /// It has a new root disk.
    Reimaged {
        /// The template's reference.
        reference: String,
        /// The template.
        template: TemplateId,
    },
    /// Its disk is a plain file now.
    Localized,
    /// All that boots of a template read is on this host.
    BootSetBrought {
        /// The template.
        template: TemplateId,
        /// Bytes of chunks in it, those included that were here before.
        bytes: u64,
    },
    /// All content of a machine is on this host that was not when it started.
    FillDone {
        /// Bytes of chunks that were missing.
        bytes: u64,
        /// Seconds that it took.
        seconds: f64,
    },
    /// A source of content failed several times in a row.
    SourceBroken {
        /// Its URL, or its directory.
        source: String,
    },
    /// It answers again.
    SourceBack {
        /// Its URL, or its directory.
        source: String,
        /// For how long it did not.
        after_seconds: f64,
    },
    /// Something fails on purpose.
    Drill {
        /// What.
        fault: String,
        /// For how long.
        seconds: u64,
    },
}

/// How the service before this one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreviousService {
    /// It was told to.
    Stopped,
    /// It was killed, or the host went down.
    Killed,
}

impl EventKind {
    /// Its name, which is the `kind` in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ServiceStarted { .. } => "service_started",
            Self::ServiceStopping => "service_stopping",
            Self::ServiceReloaded => "service_reloaded",
            Self::Deployed { .. } => "deployed",
            Self::Starting => "starting",
            Self::Ready { .. } => "ready",
            Self::StartFailed { .. } => "start_failed",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Stalled { .. } => "stalled",
            Self::GoingOn { .. } => "going_on",
            Self::StallOver { .. } => "stall_over",
            Self::PauseLifted => "pause_lifted",
            Self::Stopped => "stopped",
            Self::Died { .. } => "died",
            Self::Removed => "removed",
            Self::SnapshotMade { .. } => "snapshot_made",
            Self::SnapshotRestored { .. } => "snapshot_restored",
            Self::SnapshotRemoved { .. } => "snapshot_removed",
            Self::Committed { .. } => "committed",
            Self::Reimaged { .. } => "reimaged",
            Self::Localized => "localized",
            Self::BootSetBrought { .. } => "boot_set_brought",
            Self::FillDone { .. } => "fill_done",
            Self::SourceBroken { .. } => "source_broken",
            Self::SourceBack { .. } => "source_back",
            Self::Drill { .. } => "drill",
        }
    }
}

/// Which events somebody wants.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EventsWish {
    /// Those of this machine.
    pub machine: Option<String>,
    /// Those from this time on, in seconds since 1970.
    pub since: Option<f64>,
    /// Those with a larger number.
    pub after: Option<u64>,
    /// Those that come, too. Without `since` and `after`, only those.
    pub follow: bool,
}

impl EventsWish {
    /// Whether this one is wanted.
    pub fn wants(&self, event: &Event) -> bool {
        let of_machine = self.machine.is_none() || self.machine == event.machine;
        let in_time = self.since.is_none_or(|since| event.time >= since);
        let behind = self.after.is_none_or(|after| event.id > after);
        of_machine && in_time && behind
    }

    /// Whether those are wanted that were before.
    pub fn wants_earlier(&self) -> bool {
        !self.follow || self.since.is_some() || self.after.is_some()
    }
}

/// What somebody is told who wants events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// This happened.
    Event(Event),
    /// So many events are lost to who reads too slowly. Those that are still kept can be asked for again.
    Lost {
        /// How many.
        events: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_flat_object_whose_kind_is_its_name() {
        let event = Event {
            id: 7,
            time: 1_764_080_571.25,
            machine: Some("web".into()),
            caller: Caller {
                uid: Some(0),
                request: Some("0123456789abcdef".into()),
            },
            what: EventKind::Ready {
                seconds: 4.5,
                waited_seconds: 0.5,
            },
        };
        let text = serde_json::to_string(&event).unwrap();
        let expected = r#"{"id":7,"time":1764080571.25,"machine":"web","uid":0,"request":"0123456789abcdef","kind":"ready","seconds":4.5,"waited_seconds":0.5}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        for what in [
            EventKind::Paused,
            EventKind::Died { unseen: true },
            EventKind::SourceBack {
                source: "http://a".into(),
                after_seconds: 2.0,
            },
        ] {
            let value = serde_json::to_value(&what).unwrap();
            assert_eq!(value["kind"], what.name());
        }
        let by_itself = r#"{"id":8,"time":1.0,"kind":"service_stopping"}"#;
        let read: Event = serde_json::from_str(by_itself).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), by_itself);
    }

    #[test]
    fn a_wish_is_for_a_machine_a_time_and_what_follows_a_number() {
        let event = |id, time, machine: &str| Event {
            id,
            time,
            machine: Some(machine.into()),
            caller: Caller::default(),
            what: EventKind::Paused,
        };
        let wish = EventsWish {
            machine: Some("a".into()),
            since: Some(10.0),
            after: Some(3),
            follow: true,
        };
        assert!(wish.wants(&event(4, 10.0, "a")));
        assert!(!wish.wants(&event(4, 10.0, "b")));
        assert!(!wish.wants(&event(4, 9.9, "a")));
        assert!(!wish.wants(&event(3, 10.0, "a")));
        let follow = |since| EventsWish {
            since,
            follow: true,
            ..EventsWish::default()
        };
        assert!(EventsWish::default().wants_earlier() && follow(Some(0.0)).wants_earlier());
        assert!(!follow(None).wants_earlier());
    }
}
