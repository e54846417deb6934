//! An instance while the service runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use shale_hvplug::{Vm, VmFiles};
use shale_view::Trace;
use tokio::task::AbortHandle;

use crate::api::Caller;
use crate::data_disk::DataDisk;
use crate::dirs::HostDirs;
use crate::disk_place::DiskPlace;
use crate::name::InstanceName;
use crate::patience::Hope;
use crate::record::{Origin, Phase, Record};
use crate::seen::{Arrival, Standstill, Wanted};
use crate::served::Served;
use crate::snapshot::Snapshot;

use super::boot::BootReading;

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
    /// Brings the rest of the snapshot that its memory is read from.
    pub(super) snapshot_fill: Option<AbortHandle>,
    /// What its first boot reads, until it is ready.
    pub(super) trace: Option<Arc<Trace>>,
    /// What it boots, which is read while it is made, until its first start.
    pub(super) boot_reading: Option<BootReading>,
    /// Whether its guest stands still, and why.
    pub(super) standstill: Standstill,
    /// Whether the ports of the record are its own: from before the machine starts until it has ended.
    pub(super) holds_ports: bool,
    /// What its disk was at other times.
    pub(super) snapshots: BTreeMap<InstanceName, Snapshot>,
    /// How its content comes.
    pub(super) arrival: Arrival,
    /// Whether it was told that all of it has come.
    pub(super) fill_is_told: bool,
    /// Who wants its machine to end, while it is to, and what the instance is then.
    pub(super) ending: Option<Ending>,
    /// When it was found that it has no machine that should have one.
    pub(super) missing_since: Option<Instant>,
    /// Why an instance does not run yet that starts by itself.
    pub(super) waits_to_start: Option<String>,
    /// Why the instance is not what its record says.
    pub(super) trouble: Option<String>,
}

/// That a machine is to end.
pub(super) struct Ending {
    /// Who wants it.
    pub(super) caller: Caller,
    /// What its instance is then.
    pub(super) phase: Phase,
}

impl Live {
    /// What its disk comes from, and what those come from that it may get back.
    pub(super) fn origins(&self) -> impl Iterator<Item = &Origin> {
        let snapshots = self.snapshots.values().map(|snapshot| &snapshot.origin);
        self.record
            .iter()
            .map(|record| &record.origin)
            .chain(snapshots)
    }

    /// What its user wants of its guest.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted::of(self.record.as_ref().is_some_and(|record| record.paused))
    }
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
///                          overlay/       what it wrote; `overlay-1` and so on once it was replaced
///                          snapshots/     what it had written at other times
///                          data0.raw      its first data disk, and so on
///                          identity.json  what makes it itself, keys too
///                          console.log    what it printed
///                          hypervisor.log what its hypervisor said
///                          known_hosts    its host key, for ssh
///                          boot/          kernel and initial RAM disk, while it starts
///                          warm/          a warm snapshot, while it is made
/// <run>/<name>/disk        its disk, over NBD
///              control     its hypervisor's control socket
///              console     its serial console
///              channel     to what waits in its guest for an identity, where it was started warm
///              pid         the number of its hypervisor's process
///              held        while it is paused to copy its disk
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

    /// Where a disk lies.
    pub(super) fn disk_at(&self, place: &DiskPlace) -> PathBuf {
        self.dir.join(place.name())
    }

    /// The file of a data disk.
    pub(super) fn data_disk(&self, number: usize) -> PathBuf {
        self.dir.join(DataDisk::file_name(number))
    }

    pub(super) fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    /// A file that is there while the guest is paused to copy its disk.
    pub(super) fn held(&self) -> PathBuf {
        self.run.join("held")
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
            channel: self.run.join("channel"),
            pid: self.run.join("pid"),
            console_log: self.dir.join("console.log"),
            log: self.dir.join("hypervisor.log"),
        }
    }
}
