//! An instance gets a machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shale_hvplug::{DirectBoot, DiskOffer, Forward, Machine, Memory, Vm};

use crate::api::{EventKind, LoginTime, Outcome, Stage, Until, Wait};
use crate::console::{self, Waited};
use crate::dirs::{private_dir, remove_dir};
use crate::disk_place::DiskPlace;
use crate::error::{HostError, HostResult, system};
use crate::name::InstanceName;
use crate::patience::Patience;
use crate::record::{Phase, Record};

use super::attempt::Attempt;
use super::boot::write_boot_files;
use super::instance::Instance;
use super::ports::ports_of;
use super::{Host, Progress};

/// The guest's port of its SSH server.
const SSH: u16 = 22;

/// How often a start is tried when somebody else took a port between the look for free ones and the machine's own start.
const STARTS: u32 = 3;

/// What getty(8) prints when the guest is ready for somebody to log in.
pub(super) const LOGIN: &[u8] = b"login:";

/// Time that reads waited, and bytes that were fetched, up to a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reads {
    waited: Duration,
    fetched: u64,
    boot_set: u64,
}

/// Bytes of a console's log before a start.
pub(super) type ConsoleStart = u64;

impl Host {
    /// Starts an instance that is stopped.
    pub(super) async fn start(
        self: &Arc<Self>,
        name: &InstanceName,
        wait: Wait,
        progress: Progress,
    ) -> HostResult<Outcome> {
        let instance = self.get(name)?;
        let before = self.reads();
        let attempt = Attempt::new(&instance, wait, progress);
        let begun = {
            let _changing = self.right_to_change(&instance).await?;
            self.tell_of_missing(&instance);
            if let Some(vm) = instance.vm() {
                if vm.process.runs() {
                    return self.started(&instance, None).await;
                }
                self.settle(&instance).await;
            }
            {
                // That of a first boot which was not ready before its end says little, and nobody would end this one.
                let mut live = instance.live();
                let is_new = live.trace.as_ref().is_some_and(|trace| trace.is_empty());
                live.trace = live
                    .trace
                    .take()
                    .filter(|_| is_new && wait.until == Until::Login);
            }
            self.learn_boot_set_of(&instance).await;
            self.begin(&instance, &attempt).await?
        };
        self.wait_for_login(&instance, (before, begun), &attempt)
            .await
    }

    /// Starts the machine of an instance that has none. Whoever calls holds the right to change it.
    pub(super) async fn begin(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        attempt: &Attempt,
    ) -> HostResult<ConsoleStart> {
        let begun = self.begin_or_fail(instance, attempt).await;
        if let Err(error) = &begun {
            self.tell_failed(instance, attempt, error);
            self.settle(instance).await;
        }
        begun
    }

    pub(super) async fn begin_or_fail(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        attempt: &Attempt,
    ) -> HostResult<ConsoleStart> {
        self.check_hypervisor().await?;
        let mut starts = 1;
        let started = loop {
            let (this, patience) = (instance.clone(), attempt.patience.clone());
            let prepared = self.blocking(move |host| host.prepare(&this, patience));
            let record = self
                .stage(&attempt.progress, Stage::Kernel, prepared)
                .await?;
            attempt.progress.stage(Stage::Machine);
            let (this, ports) = (instance.clone(), ports_of(&record));
            let started = self.blocking(move |host| host.start_machine(&this, &record));
            match started.await {
                Err(_) if starts < STARTS && ports.any_is_taken() => {}
                started => break started?,
            }
            // One for SSH is another the next time; where it is published, that tells whose it is not.
            starts += 1;
            self.let_go(instance).await?;
        };
        let (name, caller) = (instance.name.as_str(), &attempt.progress.caller);
        let events = &self.witness.events;
        events.tell(Some(name), caller, EventKind::Starting);
        Ok(started)
    }

    /// Tells that an instance could not be made or started.
    pub(super) fn tell_failed(&self, instance: &Instance, attempt: &Attempt, error: &HostError) {
        let reason = error.failure().message;
        let (name, caller) = (instance.name.as_str(), &attempt.progress.caller);
        let events = &self.witness.events;
        events.tell(Some(name), caller, EventKind::StartFailed { reason });
    }

    /// Fails where no machine can be started. One that is installed while the service runs is found.
    pub(super) async fn check_hypervisor(self: &Arc<Self>) -> HostResult<()> {
        if !self.lacks_hypervisor.load(Ordering::Relaxed) {
            return Ok(());
        }
        let missing = self.blocking(|host| Ok(host.driver.capabilities().missing));
        match missing.await? {
            Some(missing) => Err(HostError::NoHypervisor(missing)),
            None => {
                self.lacks_hypervisor.store(false, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Ports, disk and kernel of an instance. Blocks.
    fn prepare(&self, instance: &Instance, patience: Patience) -> HostResult<Record> {
        let record = instance.live().record.clone();
        let mut record = record.ok_or_else(|| HostError::Busy(instance.name.to_string()))?;
        self.cut_power(instance)?;
        self.lay_ready(instance, &mut record, &patience)?;
        record.phase = Phase::Started;
        record.paused = false;
        self.keep(&instance.name, &record)?;
        instance.live().record = Some(record.clone());
        Ok(record)
    }

    /// Takes the ports of an instance, offers its disk, and reads its kernel. Blocks.
    pub(super) fn lay_ready(
        &self,
        instance: &Instance,
        record: &mut Record,
        patience: &Patience,
    ) -> HostResult<()> {
        self.take_ports(instance, record)?;
        private_dir(&instance.paths.run).map_err(system("make", &instance.paths.run))?;
        let device = match record.disk {
            DiskPlace::File { .. } => self.disk_of(instance, record.clone())?.disk,
            DiskPlace::Overlay { .. } => {
                let disk = self.serve(instance, record)?;
                let device = disk.device();
                instance.live().disk = Some(disk);
                device
            }
        };
        let files = self.boot_files(instance, device, patience)?;
        write_boot_files(&instance.paths.boot(), &files)
    }

    /// Blocks.
    fn start_machine(&self, instance: &Instance, record: &Record) -> HostResult<ConsoleStart> {
        let console = console_start(instance);
        let boot = instance.paths.boot();
        let paths = BootPaths::in_directory(&boot);
        let vm = self
            .driver
            .start(&machine(instance, record, paths, Memory::Own))?;
        self.has_machine(instance, vm);
        // The machine has read them.
        let _ = remove_dir(&boot);
        Ok(console)
    }

    /// Notes that an instance has this machine.
    pub(super) fn has_machine(&self, instance: &Instance, vm: Vm) {
        {
            let mut live = instance.live();
            live.vm = Some(vm);
            live.ending = None;
            live.missing_since = None;
            live.trouble = None;
        }
        self.note_boot(instance);
    }

    /// Waits for the login prompt, if that is wanted. Others may stop the instance meanwhile.
    pub(super) async fn wait_for_login(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        (before, console_start): (Reads, ConsoleStart),
        attempt: &Attempt,
    ) -> HostResult<Outcome> {
        if attempt.until == Until::Started {
            return self.started(instance, None).await;
        }
        let Some(Vm { process, files }) = instance.vm() else {
            return Err(HostError::NotRunning(instance.name.to_string()));
        };
        attempt.progress.stage(Stage::Boot);
        let (limit, end) = attempt.patience.limit();
        let log = &files.console_log;
        let waited = console::wait_for(log, console_start, LOGIN, end, || process.runs()).await;
        let name = instance.name.to_string();
        match waited {
            Waited::Found => {}
            Waited::Ended => {
                let console = console::tail(log);
                return Err(HostError::Ended { name, console });
            }
            Waited::TimedOut => {
                return Err(HostError::NoLogin {
                    name,
                    limit,
                    console: console::tail(log),
                });
            }
        }
        let now = self.reads();
        let login = LoginTime {
            seconds: attempt.progress.seconds(),
            waited_seconds: (now.waited - before.waited).as_secs_f64(),
            fetched_bytes: now.fetched - before.fetched,
            boot_set_bytes: now.boot_set - before.boot_set,
        };
        self.tell_of_boot(instance).await;
        self.witness.noted.ready(login.seconds);
        let ready = EventKind::Ready {
            seconds: login.seconds,
            waited_seconds: login.waited_seconds,
        };
        let (name, caller) = (instance.name.as_str(), &attempt.progress.caller);
        self.witness.events.tell(Some(name), caller, ready);
        self.keep_ready(instance, &login).await;
        self.started(instance, Some(login)).await
    }

    /// Keeps how long a start took, for forecasts.
    async fn keep_ready(self: &Arc<Self>, instance: &Arc<Instance>, login: &LoginTime) {
        // The waits are those of all guests of this host: where they are most of it, nothing is known of this one.
        if login.waited_seconds > login.seconds / 2.0 {
            return;
        }
        // The look at all instances has it for a moment every second.
        let Ok(_changing) = self.right_to_change(instance).await else {
            return;
        };
        let seconds = login.seconds - login.waited_seconds;
        let this = instance.clone();
        let kept = self.blocking(move |host| {
            let Some(mut record) = this.live().record.clone() else {
                return Ok(());
            };
            let millis = Some((seconds * 1e3) as u64);
            match host.memory_of(&this) {
                Some(_) => record.warm_ready_millis = millis,
                None => record.ready_millis = millis,
            }
            host.keep(&this.name, &record)?;
            this.live().record = Some(record);
            Ok(())
        });
        // Another start will say.
        let _ = kept.await;
    }

    /// Ends the trace of a first boot, which is ready.
    async fn tell_of_boot(self: &Arc<Self>, instance: &Arc<Instance>) {
        let (trace, record) = {
            let mut live = instance.live();
            (live.trace.take(), live.record.clone())
        };
        let (Some(trace), Some(record)) = (trace, record) else {
            return;
        };
        self.witness.noted.booted(trace.first_reads());
        let told = self.blocking(move |host| {
            let source = host.sources.get(&record.origin.repository())?;
            source.tell_of_boot(record.origin.template, &trace);
            Ok(())
        });
        // Without it, another boot will tell.
        let _ = told.await;
    }

    async fn started(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        login: Option<LoginTime>,
    ) -> HostResult<Outcome> {
        let instance = Box::new(self.show(instance).await?);
        Ok(Outcome::Started { instance, login })
    }

    /// What reads of the host's guests have cost so far.
    pub(super) fn reads(&self) -> Reads {
        let counters = self.sources.counters();
        Reads {
            waited: counters.waited(),
            fetched: counters.fetched_bytes(),
            boot_set: counters.boot_set_bytes(),
        }
    }
}

/// How much an instance has printed on its console.
pub(super) fn console_start(instance: &Instance) -> ConsoleStart {
    let log = instance.paths.vm_files().console_log;
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// Where what a machine boots is.
pub(super) struct BootPaths {
    pub(super) kernel: PathBuf,
    pub(super) initrd: Option<PathBuf>,
}

impl BootPaths {
    /// What was written to a directory.
    pub(super) fn in_directory(directory: &Path) -> Self {
        let initrd = directory.join("initrd");
        Self {
            kernel: directory.join("kernel"),
            initrd: initrd.exists().then_some(initrd),
        }
    }
}

/// The machine of an instance.
pub(super) fn machine(
    instance: &Instance,
    record: &Record,
    boot: BootPaths,
    memory: Memory,
) -> Machine {
    let mut forwards = record.ports.clone();
    forwards.push(Forward {
        host: record.login.ssh_port,
        guest: SSH,
    });
    Machine {
        name: instance.name.to_string(),
        uuid: record.uuid(),
        resources: record.resources,
        boot: Some(DirectBoot {
            kernel: boot.kernel,
            initrd: boot.initrd,
            command_line: record.origin.command_line.clone(),
        }),
        disks: vec![match record.disk {
            DiskPlace::Overlay { .. } => DiskOffer::Nbd(instance.paths.disk()),
            DiskPlace::File { .. } => DiskOffer::Block(instance.paths.disk_at(&record.disk)),
        }],
        data_disks: (0..record.data_disks.len())
            .map(|number| DiskOffer::Block(instance.paths.data_disk(number)))
            .collect(),
        forwards,
        memory,
        files: instance.paths.vm_files(),
    }
}
