//! An instance whose guest does not write to its disk, for whoever reads all of that.

use std::sync::Arc;

use shale_hvplug::VmState;
use shale_model::BlockDevice;
use shale_view::{Disk, Overlay, View, open_plan};
use tokio::sync::MutexGuard;

use crate::disk_place::DiskPlace;
use crate::error::{HostError, HostResult, system};
use crate::file_disk::FileDisk;
use crate::record::Record;
use crate::served::{Served, open_overlay};

use super::Host;
use super::instance::Instance;

/// An instance whose guest does not write to its disk.
pub(super) struct Still {
    pub(super) record: Record,
    pub(super) disk: Arc<dyn BlockDevice>,
    /// What the guest wrote, where that lies apart.
    pub(super) overlay: Option<Arc<Overlay>>,
}

impl Host {
    /// The right to change an instance, whose machine that ended is settled.
    pub(super) async fn settled_to_change<'a>(
        self: &Arc<Self>,
        instance: &'a Arc<Instance>,
    ) -> HostResult<MutexGuard<'a, ()>> {
        let changing = self.right_to_change(instance).await?;
        if instance.vm().is_some_and(|vm| !vm.process.runs()) {
            self.settle(instance).await;
        }
        Ok(changing)
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
