//! An instance while the service runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shale_hvplug::{Vm, VmFiles};
use shale_view::Trace;

use crate::dirs::HostDirs;
use crate::name::InstanceName;
use crate::patience::Hope;
use crate::record::Record;
use crate::served::Served;

use super::stall::Questions;

/// An instance.
pub(super) struct Instance {
    pub(super) name: InstanceName,
    pub(super) paths: Paths,
    /// Held by whoever changes it, one at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// That there is use in waiting for its content.
    pub(super) hope: Hope,
    live: Mutex<Live>,
}

/// What is known of an instance now.
#[derive(Default)]
pub(super) struct Live {
    /// As it is kept; `None` while it is made, and where it is damaged.
    pub(super) record: Option<Record>,
    /// The machine, from its start until its end was noticed.
    pub(super) vm: Option<Vm>,
    /// The disk, from before the machine starts until it has ended.
    pub(super) disk: Option<Served>,
    /// What its first boot reads, until it is ready.
    pub(super) trace: Option<Arc<Trace>>,
    /// When its hypervisor was asked whether the guest stands still.
    pub(super) questions: Questions,
    /// Whether the ports of the record are its own: from before the machine starts until it has ended.
    pub(super) holds_ports: bool,
    /// Why an instance does not run yet that starts by itself.
    pub(super) waits_to_start: Option<String>,
    /// Why the instance is not what its record says.
    pub(super) trouble: Option<String>,
}

impl Instance {
    pub(super) fn new(name: InstanceName, dirs: &HostDirs) -> Self {
        Self {
            paths: Paths::new(dirs, &name),
            name,
            changing: tokio::sync::Mutex::default(),
            hope: Hope::new(),
            live: Mutex::default(),
        }
    }

    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn vm(&self) -> Option<Vm> {
        self.live().vm.clone()
    }
}

/// The files of an instance.
///
/// ```text
/// <state>/instances/<name>/record.json    what it is
///                          overlay/       what it wrote
///                          console.log    what it printed
///                          hypervisor.log what its hypervisor said
///                          known_hosts    its host key, for ssh
///                          boot/          kernel and initial RAM disk, while it starts
/// <run>/<name>/disk        its disk, over NBD
///              control     its hypervisor's control socket
///              console     its serial console
///              pid         the number of its hypervisor's process
/// ```
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) dir: PathBuf,
    pub(super) run: PathBuf,
}

impl Paths {
    fn new(dirs: &HostDirs, name: &InstanceName) -> Self {
        Self {
            dir: dirs.instances().join(name.as_str()),
            run: dirs.run().join(name.as_str()),
        }
    }

    pub(super) fn overlay(&self) -> PathBuf {
        self.dir.join("overlay")
    }

    pub(super) fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    pub(super) fn boot(&self) -> PathBuf {
        self.dir.join("boot")
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.run.join("disk")
    }

    pub(super) fn vm_files(&self) -> VmFiles {
        VmFiles {
            control: self.run.join("control"),
            console: self.run.join("console"),
            pid: self.run.join("pid"),
            console_log: self.dir.join("console.log"),
            log: self.dir.join("hypervisor.log"),
        }
    }
}
