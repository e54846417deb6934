//! The disk of an instance becomes a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shale_hvplug::VmState;
use shale_model::BlockDevice;
use shale_view::{Disk, Overlay, View, open_plan};

use crate::api::{Brought, Outcome, Stage};
use crate::disk_file::write_disk;
use crate::disk_place::DiskPlace;
use crate::error::{HostError, HostResult, system};
use crate::file_disk::FileDisk;
use crate::name::InstanceName;
use crate::record::Record;
use crate::served::{Served, open_overlay};

use super::instance::Instance;
use super::{Host, Progress};

/// An instance whose guest does not write to its disk.
pub(super) struct Still {
    pub(super) record: Record,
    pub(super) disk: Arc<dyn BlockDevice>,
    /// What the guest wrote, where that lies apart.
    pub(super) overlay: Option<Arc<Overlay>>,
}

impl Host {
    /// Writes the disk of an instance to a file, as the guest left it: one that is paused as after a power cut.
    pub(super) async fn export(
        self: &Arc<Self>,
        name: &InstanceName,
        file: PathBuf,
        progress: Progress,
    ) -> HostResult<Outcome> {
        let instance = self.get(name)?;
        // Held until the file is complete: nobody may start or resume it meanwhile.
        let _changing = self.settled_to_change(&instance).await?;
        let disk = self.stand_still(&instance).await?.disk;
        let (disk_bytes, done) = (disk.size(), Arc::new(AtomicU64::new(0)));
        // Whoever removes the machine ends it.
        let patience = instance.hope.patience(name.as_str(), Duration::MAX);
        let written = done.clone();
        let work = self.blocking(move |host| {
            let report = |at, _| written.store(at, Relaxed);
            let work = async { Ok(write_disk(&*disk, &file, report).await?) };
            host.runtime.block_on(patience.wait(work))
        });
        let brought = || {
            Some(Brought {
                bytes: done.load(Relaxed),
                of: disk_bytes,
            })
        };
        let exported = self.stage_with(&progress, Stage::Export, work, brought);
        let written_bytes = exported.await?;
        Ok(Outcome::Exported {
            disk_bytes,
            written_bytes,
        })
    }

    /// What an instance has whose guest does not write to its disk. Whoever calls holds the right to change it.
    pub(super) async fn stand_still(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
    ) -> HostResult<Still> {
        let this = instance.clone();
        self.blocking(move |host| host.still(&this)).await
    }

    /// Blocks.
    fn still(&self, instance: &Instance) -> HostResult<Still> {
        let record = instance.live().record.clone();
        let record = record.ok_or_else(|| HostError::Busy(instance.name.to_string()))?;
        if let Some(vm) = self.machine_of(instance)? {
            let state = self.driver.state(&vm)?;
            if !matches!(state, VmState::Paused(_) | VmState::DiskFailed) {
                return Err(HostError::Runs(instance.name.to_string()));
            }
        }
        self.disk_of(instance, record)
    }

    /// What an instance has. Blocks.
    pub(super) fn disk_of(&self, instance: &Instance, record: Record) -> HostResult<Still> {
        let place = instance.paths.disk_at(&record.disk);
        if let DiskPlace::File { .. } = record.disk {
            let disk = FileDisk::open(&place).map_err(system("open", &place))?;
            return Ok(Still {
                record,
                disk: Arc::new(disk),
                overlay: None,
            });
        }
        let plan = record.origin.plan;
        let overlay = instance.live().disk.as_ref().map(Served::overlay);
        let overlay = match overlay {
            Some(overlay) => overlay,
            None => open_overlay(&place, plan)?,
        };
        let source = self.sources.get(&record.origin.repository())?;
        let plan = open_plan(&self.plan_path(plan), plan)?;
        // One of its own: that of the machine may be noting what a boot reads, and waits where this one fails.
        let view = View::for_command(plan, source.reader.clone());
        Ok(Still {
            record,
            disk: Arc::new(Disk::writable(Arc::new(view), overlay.clone())),
            overlay: Some(overlay),
        })
    }
}
