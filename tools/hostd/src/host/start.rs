//! An instance gets a machine.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use shale_hvplug::{DirectBoot, DiskOffer, Forward, Machine, Vm};

use crate::api::{LoginTime, Outcome, Stage, Wait};
use crate::console::{self, Waited};
use crate::dirs::private_dir;
use crate::error::{HostError, HostResult, system};
use crate::guest_files::{BootFiles, boot_files};
use crate::name::InstanceName;
use crate::record::{Phase, Record};

use super::instance::Instance;
use super::{Host, Progress, remove_dir};

/// The first port that is given to an instance for SSH: below those that the system gives to outgoing
/// connections, so that it is still free at the next start.
const FIRST_SSH_PORT: u16 = 22_000;

/// How many ports are tried: more instances than a host has.
const SSH_PORTS: u16 = 8_000;

/// The guest's port of its SSH server.
const SSH: u16 = 22;

/// What getty(8) prints when the guest is ready for somebody to log in.
const LOGIN: &[u8] = b"login:";

/// Time that reads waited, and bytes that were fetched, up to a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reads {
    waited: Duration,
    fetched: u64,
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
        let begun = {
            let _changing = instance.changing.lock().await;
            if let Some(vm) = instance.vm() {
                if vm.process.runs() {
                    return self.started(&instance, None).await;
                }
                self.settle(&instance).await;
            }
            self.begin(&instance, &progress).await?
        };
        self.wait_for_login(&instance, wait, (before, begun), &progress)
            .await
    }

    /// Starts the machine of an instance that has none. Whoever calls holds the right to change it.
    pub(super) async fn begin(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        progress: &Progress,
    ) -> HostResult<ConsoleStart> {
        let begun = self.begin_or_fail(instance, progress).await;
        if begun.is_err() {
            self.settle(instance).await;
        }
        begun
    }

    async fn begin_or_fail(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        progress: &Progress,
    ) -> HostResult<ConsoleStart> {
        progress.stage(Stage::Kernel);
        let this = instance.clone();
        let record = self.blocking(move |host| host.prepare(&this)).await?;
        progress.stage(Stage::Machine);
        let this = instance.clone();
        self.blocking(move |host| host.start_machine(&this, &record))
            .await
    }

    /// Disk, kernel and ports of an instance. Blocks.
    fn prepare(&self, instance: &Instance) -> HostResult<Record> {
        let record = instance.live().record.clone();
        let mut record = record.ok_or_else(|| HostError::Busy(instance.name.to_string()))?;
        self.cut_power(instance)?;
        private_dir(&instance.paths.run).map_err(system("make", &instance.paths.run))?;
        let disk = self.serve(instance, &record)?;
        let device = disk.device();
        instance.live().disk = Some(disk);
        let files = boot_files(device, self.runtime.clone())?;
        write_boot_files(&instance.paths.boot(), &files)?;
        for port in &record.ports {
            if !is_free(port.host) {
                return Err(HostError::Port(port.host));
            }
        }
        if !is_free(record.login.ssh_port) {
            self.choose_port(instance, &mut record)?;
        }
        record.phase = Phase::Started;
        self.keep(&instance.name, &record)?;
        instance.live().record = Some(record.clone());
        Ok(record)
    }

    /// Blocks.
    fn start_machine(&self, instance: &Instance, record: &Record) -> HostResult<ConsoleStart> {
        let files = instance.paths.vm_files();
        let console = fs::metadata(&files.console_log).map_or(0, |metadata| metadata.len());
        let boot = instance.paths.boot();
        let initrd = boot.join("initrd");
        let mut forwards = record.ports.clone();
        forwards.push(Forward {
            host: record.login.ssh_port,
            guest: SSH,
        });
        let machine = Machine {
            name: instance.name.to_string(),
            uuid: record.uuid(),
            resources: record.resources,
            boot: Some(DirectBoot {
                kernel: boot.join("kernel"),
                initrd: initrd.exists().then_some(initrd),
                command_line: record.origin.command_line.clone(),
            }),
            disks: vec![DiskOffer::Nbd(instance.paths.disk())],
            forwards,
            files,
        };
        let vm = self.driver.start(&machine)?;
        let mut live = instance.live();
        live.vm = Some(vm);
        live.trouble = None;
        // The machine has read them.
        let _ = remove_dir(&boot);
        Ok(console)
    }

    /// Waits for the login prompt, if that is wanted. Others may stop the instance meanwhile.
    pub(super) async fn wait_for_login(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        wait: Wait,
        (before, console_start): (Reads, ConsoleStart),
        progress: &Progress,
    ) -> HostResult<Outcome> {
        let Wait::Login { limit_seconds } = wait else {
            return self.started(instance, None).await;
        };
        let Some(Vm { process, files }) = instance.vm() else {
            return Err(HostError::NotRunning(instance.name.to_string()));
        };
        progress.stage(Stage::Boot);
        let limit = Duration::from_secs(limit_seconds);
        let log = &files.console_log;
        let waited = console::wait_for(log, console_start, LOGIN, limit, || process.runs()).await;
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
            seconds: progress.seconds(),
            waited_seconds: (now.waited - before.waited).as_secs_f64(),
            fetched_bytes: now.fetched - before.fetched,
        };
        self.started(instance, Some(login)).await
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
        }
    }

    /// Gives an instance a port for SSH that nobody uses now and no other instance will. Blocks.
    pub(super) fn choose_port(&self, instance: &Instance, record: &mut Record) -> HostResult<()> {
        let _alone = self
            .choosing_port
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = self.ports_of_others(&instance.name);
        let mut ports = FIRST_SSH_PORT..FIRST_SSH_PORT + SSH_PORTS;
        let free = ports.find(|port| !taken.contains(port) && is_free(*port));
        record.login.ssh_port = free.ok_or(HostError::NoPort)?;
        // Seen by whoever looks for a port from now on.
        instance.live().record = Some(record.clone());
        Ok(())
    }

    /// Ports of this machine that other instances have, running or not.
    fn ports_of_others(&self, name: &InstanceName) -> BTreeSet<u16> {
        let mut ports = BTreeSet::new();
        for other in self.all() {
            if other.name != *name
                && let Some(record) = &other.live().record
            {
                ports.extend(record.ports.iter().map(|port| port.host));
                ports.insert(record.login.ssh_port);
            }
        }
        ports
    }
}

/// Whether nobody listens on this port of the loopback.
fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn write_boot_files(dir: &Path, files: &BootFiles) -> HostResult<()> {
    remove_dir(dir)?;
    private_dir(dir).map_err(system("make", dir))?;
    let named = [
        ("kernel", Some(&files.kernel)),
        ("initrd", files.initrd.as_ref()),
    ];
    for (name, bytes) in named {
        if let Some(bytes) = bytes {
            let path = dir.join(name);
            fs::write(&path, bytes).map_err(system("write", &path))?;
        }
    }
    Ok(())
}
