//! The disk of an instance becomes a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use shale_hvplug::VmState;
use shale_model::BlockDevice;

use crate::api::{Brought, Outcome, Stage};
use crate::disk_file::write_disk;
use crate::error::{HostError, HostResult};
use crate::name::InstanceName;
use crate::served::Opened;

use super::instance::Instance;
use super::{Host, Progress};

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
        let _changing = self.right_to_change(&instance).await?;
        let this = instance.clone();
        let disk = self.blocking(move |host| host.still_disk(&this)).await?;
        let (disk_bytes, done) = (disk.size(), AtomicU64::new(0));
        let work = async {
            let written = write_disk(&*disk, &file, |at, _| done.store(at, Relaxed)).await;
            Ok(written?)
        };
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

    /// The disk of an instance whose guest does not write to it. Blocks.
    fn still_disk(&self, instance: &Instance) -> HostResult<Arc<dyn BlockDevice>> {
        let (record, vm, disk) = {
            let live = instance.live();
            let disk = live.disk.as_ref().map(|disk| disk.device());
            (live.record.clone(), live.vm.clone(), disk)
        };
        let record = record.ok_or_else(|| HostError::Busy(instance.name.to_string()))?;
        if let Some(vm) = vm.filter(|vm| vm.process.runs()) {
            let is_still = matches!(
                self.driver.state(&vm)?,
                VmState::Paused(_) | VmState::DiskFailed
            );
            return match (is_still, disk) {
                (true, Some(disk)) => Ok(disk),
                _ => Err(HostError::Runs(instance.name.to_string())),
            };
        }
        let source = self.sources.get(&record.origin.repository())?;
        let opened = Opened::new(
            &source,
            (record.origin.plan, None),
            &instance.paths.overlay(),
        )?;
        Ok(opened.disk)
    }
}
