//! What a service finds when it starts, and what ends without being told to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shale_hvplug::Vm;

use crate::api::EventKind;
use crate::dirs::remove_dir;
use crate::disk_place::DiskPlace;
use crate::disk_socket::{DiskSocket, sweep_disk_sockets};
use crate::error::HostResult;
use crate::logs;
use crate::name::InstanceName;
use crate::record::{Phase, Record};
use crate::seen::Arrival;
use crate::served::Served;

use super::Host;
use super::instance::Instance;
use super::replace::sweep;
use super::snapshots::take_up_snapshots;

/// What an instance has that an earlier service left.
enum Found {
    /// A machine, or nobody knows.
    Machine,
    /// No machine.
    NoMachine,
}

/// What a look at an instance found.
pub(super) enum Look {
    Well,
    /// Its machine ended by itself.
    Ended,
    /// It has no machine, though the service before this one left it with one.
    Missing,
}

/// How long it takes until a hypervisor that a service was starting when it was killed can be found, at most.
const STARTING_TIME: Duration = Duration::from_secs(5);

impl Host {
    /// Takes up every instance that an earlier service left.
    pub(super) fn adopt_all(self: &Arc<Self>) -> HostResult<()> {
        let stalled = self.witness.events.stalled_before();
        for name in self.records.names()? {
            let instance = Arc::new(Instance::new(name.clone(), &self.dirs));
            match self.records.get(&name) {
                // What has no record was being removed, or was never more than a directory.
                Ok(None) => {
                    remove_dir(&instance.paths.dir)?;
                    remove_dir(&instance.paths.run)?;
                    continue;
                }
                // One that began warm may have a machine, whose guest has no identity.
                Ok(Some(record)) if record.phase == Phase::Deploying => {
                    match self.cut_power(&instance) {
                        Ok(()) => {
                            self.discard(&instance)?;
                            continue;
                        }
                        Err(error) => {
                            instance.live().trouble = Some(error.failure().message);
                        }
                    }
                }
                Ok(Some(record)) => {
                    let starts = Self::starts_by_itself(&record);
                    let _ = take_up_snapshots(&instance);
                    instance.live().record = Some(record);
                    match self.adopt(&instance) {
                        Found::NoMachine if starts => Self::note_waiting(&instance),
                        Found::NoMachine => Self::note_missing(&instance),
                        Found::Machine => {
                            if let Some(began) = stalled.get(name.as_str()) {
                                self.take_over_stall(&instance, began);
                            }
                        }
                    }
                    let (record, trouble) = {
                        let live = instance.live();
                        (live.record.clone(), live.trouble.clone())
                    };
                    // Where it is not sure which disk is its own, all stay. What cannot be swept is in nobody's way.
                    if let (Some(record), None) = (record, trouble) {
                        let _ = sweep(&instance, &record);
                    }
                }
                Err(error) => instance.live().trouble = Some(error.failure().message),
            }
            self.instances().insert(name, instance);
        }
        // A keeper that does not answer keeps nobody from anything.
        let _ = sweep_disk_sockets(&self.held, |machine| self.may_have_disk_open(machine));
        Ok(())
    }

    /// Whether there may be a machine of this name that has its disk from this service, or waits for it.
    fn may_have_disk_open(&self, machine: &str) -> bool {
        let Ok(instance) = InstanceName::new(machine).and_then(|name| self.get(&name)) else {
            return false;
        };
        let live = instance.live();
        live.disk.is_some() || live.trouble.is_some()
    }

    /// Takes over the machine of an instance, if it runs. Blocks.
    fn adopt(&self, instance: &Instance) -> Found {
        let Some(record) = instance.live().record.clone() else {
            return Found::Machine;
        };
        let found = self.driver.attach(&instance.paths.vm_files());
        let taken = match found {
            Ok(None) => {
                // What its memory was read from ends with it.
                let _ = self.wait_for_memory_end(instance.name.as_str());
                return Found::NoMachine;
            }
            Ok(Some(vm)) => self.take_over(instance, &vm, record).map(|disk| (vm, disk)),
            Err(error) => Err(error.into()),
        };
        let (vm, disk) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                instance.live().trouble = Some(error.failure().message);
                return Found::Machine;
            }
        };
        {
            let mut live = instance.live();
            live.vm = Some(vm);
            live.disk = disk;
            live.holds_ports = true;
            live.trouble = None;
        }
        self.note_boot(instance);
        self.fill_memory(instance);
        Found::Machine
    }

    /// Offers the disk of a machine that runs, where it has to be. Blocks.
    fn take_over(
        &self,
        instance: &Instance,
        vm: &Vm,
        record: Record,
    ) -> HostResult<Option<Served>> {
        if let DiskPlace::File { .. } = record.disk {
            return Ok(None);
        }
        // First: a hypervisor that waits for its disk in the middle of a move answers nobody.
        let served = self.serve(instance, &record)?;
        self.learn_boot_set(instance);
        let record = self.after_a_move(instance, vm, record)?;
        instance.live().record = Some(record.clone());
        match record.disk {
            DiskPlace::Overlay { .. } => Ok(Some(served)),
            DiskPlace::File { .. } => {
                self.runtime.block_on(served.close())?;
                Ok(None)
            }
        }
    }

    /// Offers the disk of an instance. Blocks.
    pub(super) fn serve(&self, instance: &Instance, record: &Record) -> HostResult<Served> {
        let source = self.sources.get(&record.origin.repository())?;
        let overlay = instance.paths.disk_at(&record.disk);
        let socket = DiskSocket::new(self.held.clone(), &instance.name, instance.paths.disk())?;
        let view = self.view_of(instance, &source, record.origin.plan)?;
        let patience = record.pause_after_seconds.map(Duration::from_secs);
        let overlay = (overlay.as_path(), patience);
        Served::open(
            &source,
            (record.origin.plan, view),
            overlay,
            socket,
            &self.runtime,
        )
    }

    /// Notes that an instance has no machine, if it should have one.
    fn note_missing(instance: &Instance) {
        let mut live = instance.live();
        let record = live.record.as_ref();
        if record.is_some_and(|record| record.phase == Phase::Started) {
            live.missing_since.get_or_insert_with(Instant::now);
        }
    }

    /// Tells that a machine ended while no service ran, if it is one of those.
    pub(super) fn tell_of_missing(&self, instance: &Instance) {
        let missing = instance.live().missing_since.take();
        if missing.is_some() {
            self.happened(instance, EventKind::Died { unseen: true });
        }
    }

    /// Removes all of an instance: its record first, so that what is left is known to be garbage. Blocks.
    pub(super) fn discard(&self, instance: &Instance) -> HostResult<()> {
        self.records.remove(&instance.name)?;
        self.wait_for_memory_end(instance.name.as_str())?;
        remove_dir(&instance.paths.run)?;
        remove_dir(&instance.paths.dir)
    }

    /// Notices machines that ended, and those that an earlier service was starting when it was killed; keeps
    /// logs bounded.
    pub(super) async fn look_after_all(self: &Arc<Self>) {
        for instance in self.all() {
            // Whoever changes it notices by itself.
            let Ok(_changing) = instance.changing.try_lock() else {
                continue;
            };
            let this = instance.clone();
            let look = self.blocking(move |host| Ok(host.look_after(&this))).await;
            match look {
                Ok(Look::Ended) => self.settle(&instance).await,
                Ok(Look::Missing) => {
                    self.tell_of_missing(&instance);
                    self.settle(&instance).await;
                }
                Ok(Look::Well) | Err(_) => {}
            }
        }
    }

    /// Blocks.
    pub(super) fn look_after(&self, instance: &Instance) -> Look {
        let (vm, phase) = {
            let live = instance.live();
            (
                live.vm.clone(),
                live.record.as_ref().map(|record| record.phase),
            )
        };
        match vm {
            Some(vm) => {
                // A log that cannot be cut is cut the next time.
                let _ = logs::rotate(&vm.files.console_log);
                let _ = logs::rotate(&vm.files.log);
                if !vm.process.runs() {
                    return Look::Ended;
                }
                // A hypervisor that does not answer is asked again at the next look.
                let _ = self.let_go_on(instance, &vm);
                let _ = self.look_at_stall(instance, &vm);
                self.look_at(instance);
            }
            None if phase == Some(Phase::Started) => {
                let found = self.adopt(instance);
                let mut live = instance.live();
                let since = live.missing_since;
                match found {
                    Found::Machine => live.missing_since = None,
                    Found::NoMachine if since.is_some_and(|at| at.elapsed() > STARTING_TIME) => {
                        return Look::Missing;
                    }
                    Found::NoMachine => {}
                }
            }
            None => {}
        }
        Look::Well
    }

    /// Closes what an instance has whose machine ended, and keeps what it is now.
    pub(super) async fn settle(self: &Arc<Self>, instance: &Arc<Instance>) {
        let wanted = instance.live().ending.as_ref().map(|ending| ending.phase);
        let closed = self.let_go(instance).await;
        let phase = wanted.unwrap_or(Phase::Stopped);
        let kept = self.keep_phase(instance, phase).await;
        if let Err(error) = closed.and(kept) {
            instance.live().trouble = Some(error.failure().message);
        }
    }

    /// Closes what an instance has whose machine ended.
    pub(super) async fn let_go(self: &Arc<Self>, instance: &Arc<Instance>) -> HostResult<()> {
        let (disk, ended) = {
            let mut live = instance.live();
            live.holds_ports = false;
            live.fill_is_told = false;
            live.arrival = Arrival::default();
            live.standstill.end(Instant::now());
            if let Some(fill) = live.snapshot_fill.take() {
                fill.abort();
            }
            let ended = live.vm.take().map(|_| live.ending.take());
            (live.disk.take(), ended)
        };
        let (events, name) = (&self.witness.events, Some(instance.name.as_str()));
        match ended {
            None => {}
            Some(None) => events.happened(name, EventKind::Died { unseen: false }),
            Some(Some(ending)) => events.tell(name, &ending.caller, EventKind::Stopped),
        }
        let closed = match disk {
            Some(disk) => disk.close().await,
            None => Ok(()),
        };
        let this = instance.clone();
        let unmounted = self.blocking(move |host| host.wait_for_memory_end(this.name.as_str()));
        closed.and(unmounted.await)
    }

    /// Keeps what an instance should do, durably.
    pub(super) async fn keep_phase(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        phase: Phase,
    ) -> HostResult<()> {
        let instance = instance.clone();
        self.blocking(move |host| {
            let mut record = match &instance.live().record {
                Some(record) if record.phase != phase => record.clone(),
                _ => return Ok(()),
            };
            record.phase = phase;
            host.keep(&instance.name, &record)?;
            instance.live().record = Some(record);
            Ok(())
        })
        .await
    }

    /// Keeps a record, durably. Blocks.
    pub(super) fn keep(&self, name: &InstanceName, record: &Record) -> HostResult<()> {
        self.records.put(name, record)
    }
}
