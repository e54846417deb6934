//! What a machine does, as the host sees it.

use std::time::{Duration, Instant};

use serde::Serialize;
use shale_hostd::HostClient;
use shale_hostd::api::{Instance, InstanceState, Outcome, Request};

use super::PATIENCE;
use crate::commands::host::failure;
use crate::commands::vm::state;
use crate::context::Context;

/// How often the host is asked what the machine does.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the machine did from a moment on.
#[derive(Debug, Serialize)]
pub(super) struct Seen {
    pub(super) seconds: f64,
    pub(super) state: String,
}

/// Looks at what a machine does.
pub(super) struct Watch<'a> {
    context: &'a Context,
    name: &'a str,
    begun: Option<Instant>,
    pub(super) seen: Vec<Seen>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(context: &'a Context, name: &'a str) -> Self {
        Self {
            context,
            name,
            begun: None,
            seen: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        self.name
    }

    /// From now on it is noted.
    pub(super) fn begin(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// Looks once. A service that is not there, because it was killed, is not started for that.
    pub(super) fn look(&mut self) -> Option<Instance> {
        let client = HostClient::connect(&self.context.dirs.host_socket()).ok()?;
        let name = self.name.to_owned();
        let outcome = client.call(Request::Inspect { name }, |_| {});
        let Ok(Outcome::Instance(instance)) = outcome.map_err(failure) else {
            return None;
        };
        if let Some(begun) = self.begun {
            let state = state(&instance);
            if self.seen.last().is_none_or(|last| last.state != state) {
                let seconds = begun.elapsed().as_secs_f64();
                self.seen.push(Seen { seconds, state });
            }
        }
        Some(*instance)
    }

    pub(super) fn look_for(&mut self, time: Duration) {
        self.look();
        std::thread::sleep(time);
    }

    /// Whether it runs in the end.
    pub(super) fn until_it_runs(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let instance = self.look();
            if instance.is_some_and(|instance| instance.state == InstanceState::Running) {
                return true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        false
    }
}
