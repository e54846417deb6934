//! Instances as they are shown.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shale_hvplug::{Vm, VmState};
use shale_model::PlanId;
use shale_view::{FillState, SourceReport, SourceState, open_plan};

use crate::api::{
    self, Damaged, Fill, Hedges, InstanceState, Outcome, ShownDisk, ShownMachine, ShownPlace,
    ShownSource, ShownSourceState, ShownStall, ShownStalls, Ssh, Survives,
};
use crate::data_disk::DataDisk;
use crate::disk_place::DiskPlace;
use crate::error::{HostError, HostResult};
use crate::local::local_bytes;
use crate::name::InstanceName;
use crate::record::{Phase, Record};
use crate::seen::{NO_ANSWER, Stalls};
use crate::served::Served;

use super::Host;
use super::deploy::alias;
use super::instance::Instance;
use super::looks::rounded;

fn fill(state: FillState) -> Fill {
    match state {
        FillState::Off => Fill::Off,
        FillState::Running => Fill::Running,
        FillState::Waiting(reason) => Fill::Waiting { reason },
        FillState::Whole => Fill::Whole,
        FillState::CacheFull => Fill::CacheFull,
        FillState::Damaged(reason) => Fill::Damaged { reason },
    }
}

fn source(report: SourceReport) -> ShownSource {
    ShownSource {
        url: report.name,
        requests: report.requests,
        bytes: report.bytes,
        failures: report.failures,
        state: match report.state {
            SourceState::Asked => ShownSourceState::Asked,
            SourceState::LeftAlone(time) => ShownSourceState::LeftAlone {
                millis: time.as_millis() as u64,
            },
            SourceState::Probed => ShownSourceState::Probed,
        },
    }
}

/// What is shown of a disk that is served.
#[derive(Default)]
struct Shown {
    waited_seconds: f64,
    stall: Option<String>,
    sources: Vec<ShownSource>,
}

impl Shown {
    fn of(disk: &Served) -> Self {
        let waiting = disk.waiting();
        let waits = waiting.is_some() || disk.is_late();
        let reason = waiting.and_then(|waiting| waiting.reason);
        Self {
            waited_seconds: rounded(disk.waited()),
            stall: waits.then(|| reason.unwrap_or_else(|| NO_ANSWER.into())),
            sources: disk.sources().into_iter().map(source).collect(),
        }
    }
}

fn stalls_of(stalls: &Stalls) -> ShownStalls {
    let sums = stalls.sums();
    let causes = sums.iter();
    let causes = causes.map(|(cause, time)| (cause.name().to_owned(), rounded(*time)));
    ShownStalls {
        count: stalls.count(),
        seconds: rounded(sums.values().sum()),
        causes: causes.collect(),
        now: stalls.now().map(|stall| ShownStall {
            cause: stall.cause.name().to_owned(),
            reason: stall.reason.clone(),
            seconds: rounded(stall.since.elapsed()),
        }),
    }
}

/// Bytes of a block as stat(2) counts them.
const STAT_BLOCK: u64 = 512;

impl Host {
    pub(super) async fn show_all(self: &Arc<Self>) -> HostResult<Outcome> {
        let (mut instances, mut damaged) = (Vec::new(), Vec::new());
        for instance in self.all() {
            match self.show(&instance).await {
                Ok(instance) => instances.push(instance),
                Err(HostError::Record { reason, .. }) => damaged.push(Damaged {
                    name: instance.name.to_string(),
                    reason,
                }),
                // It is being made, or was removed meanwhile.
                Err(HostError::Busy(_) | HostError::NoInstance(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Instances { instances, damaged })
    }

    pub(super) async fn show_one(self: &Arc<Self>, name: &InstanceName) -> HostResult<Outcome> {
        let instance = self.get(name)?;
        Ok(Outcome::Instance(Box::new(self.show(&instance).await?)))
    }

    pub(super) async fn show(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
    ) -> HostResult<api::Instance> {
        let instance = instance.clone();
        self.blocking(move |host| host.show_blocking(&instance))
            .await
    }

    fn show_blocking(&self, instance: &Instance) -> HostResult<api::Instance> {
        let (record, vm, trouble, waits) = {
            let live = instance.live();
            let waits = live.waits_to_start.clone();
            let trouble = live.trouble.clone();
            (live.record.clone(), live.vm.clone(), trouble, waits)
        };
        let waits = waits.map(|reason| format!("starts by itself: {reason}"));
        let name = instance.name.to_string();
        let record = record.ok_or_else(|| match trouble.clone() {
            Some(reason) => HostError::Record {
                path: instance.paths.dir.join("record.json"),
                reason,
            },
            None => HostError::Busy(name.clone()),
        })?;
        let (state, reason) = self.state(instance, &record, vm.as_ref());
        let files = instance.paths.vm_files();
        let disk = self.disk(instance, &record);
        let data_disks = data_disks(instance, &record);
        Ok(api::Instance {
            name,
            state,
            reason: waits.or(trouble).or(reason),
            paused_by_user: record.paused,
            autostart: record.autostart,
            warm: record.warm,
            reference: record.origin.reference,
            template: record.origin.template,
            plan: record.origin.plan,
            created: record.origin.created,
            machine: ShownMachine {
                memory_bytes: record.resources.memory_bytes,
                cpus: record.resources.cpus,
                acceleration: record.resources.acceleration,
                pid: vm.map(|vm| vm.process.pid),
            },
            ports: record.ports,
            ssh: Ssh {
                user: record.login.user,
                port: record.login.ssh_port,
                identity_file: record.login.identity_file,
                known_hosts: instance.paths.known_hosts(),
                host_key_alias: alias(&instance.name),
            },
            disk,
            data_disks,
            console: api::Console {
                socket: files.console,
                log: files.console_log,
            },
        })
    }

    fn state(
        &self,
        instance: &Instance,
        record: &Record,
        vm: Option<&Vm>,
    ) -> (InstanceState, Option<String>) {
        let Some(vm) = vm else {
            return match record.phase {
                Phase::Deploying => (InstanceState::Deploying, None),
                Phase::Stopped | Phase::Started | Phase::ShutDown => (InstanceState::Stopped, None),
            };
        };
        let both = || {
            let live = instance.live();
            let stall = live.standstill.stalls().now()?;
            Some(format!("by its user; stalled, too: {}", stall.reason))
        };
        match self.driver.state(vm) {
            Ok(VmState::Running) => (InstanceState::Running, None),
            Ok(VmState::Paused(reason)) => {
                let both = record.paused.then(both).flatten();
                (InstanceState::Paused, Some(both.unwrap_or(reason)))
            }
            Ok(VmState::DiskFailed) if record.paused => (InstanceState::Paused, both()),
            Ok(VmState::DiskFailed) => (InstanceState::Paused, Some(self.why_failed(instance))),
            Ok(VmState::Silent) => (InstanceState::Silent, None),
            Ok(VmState::Ended) => (InstanceState::Stopped, None),
            Err(error) => (InstanceState::Silent, Some(error.to_string())),
        }
    }

    fn disk(&self, instance: &Instance, record: &Record) -> ShownDisk {
        // What cannot be counted is shown as nothing: the instance may be of use without it.
        let (content_bytes, in_cache) = self.local_share(record).unwrap_or((0, 0));
        let (place, local_bytes) = match record.disk {
            DiskPlace::Overlay { .. } => (ShownPlace::Overlay, in_cache),
            DiskPlace::File { .. } => (ShownPlace::File, content_bytes),
        };
        let memory = self.memory_of(instance);
        let counters = self.sources.counters();
        let mut eta = (local_bytes == content_bytes).then_some(Duration::ZERO);
        let (mut served, mut state) = (Shown::default(), Fill::Off);
        let stalls = {
            let live = instance.live();
            if let Some(disk) = &live.disk {
                state = fill(disk.filled());
                served = Shown::of(disk);
                if state == Fill::Running {
                    eta = live.arrival.left(content_bytes.saturating_sub(local_bytes));
                }
            }
            stalls_of(live.standstill.stalls())
        };
        ShownDisk {
            bytes: record.disk_bytes,
            written_bytes: room_of(&instance.paths.disk_at(&record.disk)),
            content_bytes,
            local_bytes,
            place,
            survives: Survives {
                service: place == ShownPlace::File && memory.is_none(),
                registry: local_bytes == content_bytes
                    && memory.is_none_or(|memory| self.is_here(memory.plan)),
            },
            boot_set: self.boot_set_share(record),
            fill: state,
            eta_seconds: eta.map(rounded),
            waited_seconds: served.waited_seconds,
            stall: served.stall,
            stalls,
            sources: served.sources,
            hedges: Hedges {
                sent: counters.hedges(),
                won: counters.hedges_won(),
            },
        }
    }

    /// Bytes of the content of a plan, each chunk once, and those of them that the cache has.
    pub(super) fn local_share(&self, record: &Record) -> HostResult<(u64, u64)> {
        let plan = self.plan_path(record.origin.plan);
        let plan = open_plan(&plan, record.origin.plan)?;
        local_bytes(self.sources.cache(), &plan)
    }

    /// Whether this host has all content of a plan.
    fn is_here(&self, plan: PlanId) -> bool {
        let share = open_plan(&self.plan_path(plan), plan)
            .ok()
            .and_then(|file| local_bytes(self.sources.cache(), &file).ok());
        share.is_some_and(|(all, here)| all == here)
    }

    pub(super) fn plan_path(&self, plan: PlanId) -> std::path::PathBuf {
        self.dirs.plans().join(format!("{}.plan", plan.hex()))
    }
}

fn data_disks(instance: &Instance, record: &Record) -> Vec<api::DataDisk> {
    let disks = record.data_disks.iter().enumerate();
    let shown = disks.map(|(number, disk)| {
        let file = instance.paths.data_disk(number);
        api::DataDisk {
            serial: DataDisk::serial(number),
            bytes: disk.bytes,
            // One that is gone is shown when the machine starts.
            written_bytes: fs::metadata(&file).map_or(0, |found| found.blocks() * STAT_BLOCK),
            file,
        }
    });
    shown.collect()
}

/// Bytes that a file takes, or the files of a directory.
pub(super) fn room_of(path: &Path) -> u64 {
    if let Ok(metadata) = fs::metadata(path)
        && metadata.is_file()
    {
        return metadata.blocks() * STAT_BLOCK;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let metadata = entries.filter_map(|entry| entry.metadata().ok());
    metadata
        .map(|metadata| metadata.blocks() * STAT_BLOCK)
        .sum()
}
