//! What is counted of a host.

use std::collections::BTreeMap;
use std::sync::Arc;

use shale_model::PlanId;

use crate::api::{BootSetShare, Caller, DrillFault, EventKind, Outcome, Request, SnapshotAction};
use crate::disk_place::DiskPlace;
use crate::error::{HostError, HostResult};
use crate::local::local_bytes_of;
use crate::metrics::{Counted, CountedMachine, MachineState, render};
use crate::record::{Phase, Record};

use super::Host;
use super::instance::{Instance, Live};

/// Bytes of the content of plans, and those of them that are here.
type Shares = BTreeMap<PlanId, Option<(u64, u64)>>;

impl Host {
    /// What is counted, as OpenMetrics text.
    pub(crate) async fn metrics(self: &Arc<Self>) -> HostResult<String> {
        self.blocking(|host| {
            let cache = host.sources.cache();
            let mut shares = Shares::new();
            let machines = host.all();
            let machines = machines.iter().map(|it| host.count(it, &mut shares));
            let counted = Counted {
                started: host.started,
                counters: host.sources.counters(),
                noted: &host.witness.noted,
                cache: (cache.usage(), cache.deeds()),
                machines: machines.collect(),
                sources: host.sources.sums().into_iter().collect(),
                events: host.witness.events.counts(),
            };
            render(&counted).map_err(|_| HostError::Interrupted)
        })
        .await
    }

    /// Blocks.
    fn count(&self, instance: &Instance, shares: &mut Shares) -> CountedMachine {
        let (record, state, stalls) = {
            let live = instance.live();
            let sums = live.standstill.stalls().sums().iter();
            let sums = sums.map(|(cause, time)| (cause.name(), time.as_secs_f64()));
            (live.record.clone(), state(&live), sums.collect())
        };
        let local = record.as_ref().and_then(|it| self.share(it, shares));
        let boot_set = record.as_ref().and_then(|it| self.boot_set_share(it));
        let ratio = |(here, of): (u64, u64)| match of {
            // All of nothing is here.
            0 => 1.0,
            of => here as f64 / of as f64,
        };
        CountedMachine {
            name: instance.name.to_string(),
            state,
            local: local.map(ratio),
            boot_set: boot_set.map(|share| ratio((share.local_bytes, share.bytes))),
            stalls,
        }
    }

    /// Bytes of an instance's content that are here, and all of them. Blocks.
    fn share(&self, record: &Record, shares: &mut Shares) -> Option<(u64, u64)> {
        if let DiskPlace::File { .. } = record.disk {
            return Some((0, 0));
        }
        let plan = record.origin.plan;
        let found = shares.entry(plan);
        let (of, here) = (*found.or_insert_with(|| self.local_share(record).ok()))?;
        Some((here, of))
    }

    /// Finds out what boots of an instance's template read, so that it can be said how much of it is here. Blocks.
    ///
    /// A new machine has brought that, or has all that it needs: its deployment asks a registry for nothing that can be spared.
    pub(super) fn learn_boot_set(&self, instance: &Instance) {
        let record = instance.live().record.clone();
        if let Some(record) = record
            && let DiskPlace::Overlay { .. } = record.disk
            && let Ok(source) = self.sources.get(&record.origin.repository())
        {
            source.learn_boot_set(record.origin.template);
        }
    }

    /// The same.
    pub(super) async fn learn_boot_set_of(self: &Arc<Self>, instance: &Arc<Instance>) {
        let instance = instance.clone();
        let learn = self.blocking(move |host| {
            host.learn_boot_set(&instance);
            Ok(())
        });
        // Without it, it is not said.
        let _ = learn.await;
    }

    /// Of what boots of an instance's template read, how much is here. Where the disk is a file, all is.
    pub(super) fn boot_set_share(&self, record: &Record) -> Option<BootSetShare> {
        let chunks = self.sources.boot_set(record.origin.template)?;
        let (bytes, in_cache) = local_bytes_of(self.sources.cache(), &chunks);
        let local_bytes = match record.disk {
            DiskPlace::Overlay { .. } => in_cache,
            DiskPlace::File { .. } => bytes,
        };
        Some(BootSetShare { bytes, local_bytes })
    }

    /// Tells what a request has done that somebody made.
    pub(super) fn tell_done(
        &self,
        (machine, caller): (Option<&str>, &Caller),
        planned: Option<EventKind>,
        outcome: &Outcome,
    ) {
        if let Some(what) = planned.or_else(|| of_outcome(outcome)) {
            self.witness.events.tell(machine, caller, what);
        }
    }
}

/// What a machine does, as far as that is known without asking its hypervisor.
fn state(live: &Live) -> MachineState {
    let Some(record) = &live.record else {
        return match live.trouble {
            Some(_) => MachineState::Damaged,
            None => MachineState::Deploying,
        };
    };
    match (&live.vm, record.phase) {
        (None, Phase::Deploying) => MachineState::Deploying,
        (None, Phase::Stopped | Phase::Started | Phase::ShutDown) => MachineState::Stopped,
        (Some(_), _) if record.paused => MachineState::Paused,
        (Some(_), _) if live.standstill.stalls().now().is_some() => MachineState::Stalled,
        (Some(_), _) => MachineState::Running,
    }
}

/// What will have happened when a request is done, where the request says all of it. Pure.
pub(super) fn of_request(request: &Request) -> Option<EventKind> {
    match request {
        Request::Pause { .. } => Some(EventKind::Paused),
        Request::Resume { .. } => Some(EventKind::Resumed),
        Request::Remove { .. } => Some(EventKind::Removed),
        Request::Snapshots { action, .. } => match action.clone() {
            SnapshotAction::Create { snapshot } => Some(EventKind::SnapshotMade { snapshot }),
            SnapshotAction::Restore { snapshot } => Some(EventKind::SnapshotRestored { snapshot }),
            SnapshotAction::Remove { snapshot } => Some(EventKind::SnapshotRemoved { snapshot }),
            SnapshotAction::List => None,
        },
        Request::Drill { fault, seconds, .. } => {
            let fault = match fault {
                DrillFault::None => return None,
                DrillFault::RegistryDown => "registry_down",
                DrillFault::SlowLink { .. } => "slow_link",
                DrillFault::DiskFull => "disk_full",
            };
            Some(EventKind::Drill {
                fault: fault.into(),
                seconds: *seconds,
            })
        }
        _ => None,
    }
}

/// What has happened that only the outcome of a request says. Pure.
fn of_outcome(outcome: &Outcome) -> Option<EventKind> {
    match outcome {
        Outcome::Committed(new) => Some(EventKind::Committed {
            reference: new.reference.clone(),
            template: new.template,
        }),
        Outcome::Reimaged { instance, .. } => Some(EventKind::Reimaged {
            reference: instance.reference.clone(),
            template: instance.template,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_change_a_machine_are_told() {
        let name = || "a".to_owned();
        let snapshots = |action| Request::Snapshots {
            name: name(),
            action,
        };
        let drill = |fault| Request::Drill {
            name: name(),
            fault,
            seconds: 5,
        };
        for (request, kind) in [
            (Request::Pause { name: name() }, Some("paused")),
            (Request::Resume { name: name() }, Some("resumed")),
            (Request::Remove { name: name() }, Some("removed")),
            (
                snapshots(SnapshotAction::Restore { snapshot: name() }),
                Some("snapshot_restored"),
            ),
            (snapshots(SnapshotAction::List), None),
            (drill(DrillFault::DiskFull), Some("drill")),
            (drill(DrillFault::None), None),
            (Request::List, None),
        ] {
            let what = of_request(&request);
            assert_eq!(what.map(|what| what.name()), kind, "{request:?}");
        }
    }
}
