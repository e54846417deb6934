//! What a machine boots: read from its disk, or while that is made.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use shale_model::{BlockDevice, PlanId};
use shale_view::{Disk, View, open_plan};
use tokio::task::JoinHandle;

use crate::dirs::{private_dir, remove_dir};
use crate::error::{HostResult, system};
use crate::guest_files::{BootFiles, boot_files};
use crate::patience::Patience;
use crate::source::Source;

use super::Host;
use super::instance::Instance;

/// What a machine boots, which is read while it is made.
pub(super) struct BootReading {
    plan: PlanId,
    /// What it is read from, and the machine's disk lies on: how long reads of it waited is the machine's.
    view: Arc<View>,
    files: JoinHandle<Option<BootFiles>>,
}

impl BootReading {
    /// Waits until nothing is read any more.
    pub(super) async fn ended(self) {
        let _ = self.files.await;
    }
}

impl Host {
    /// Begins to read what a new machine boots, from the plan of its template: its identity changes none of that. Where
    /// it cannot be read, the start reads again, and says why. Blocks for a moment.
    pub(super) fn begin_boot_reading(
        &self,
        instance: &Instance,
        source: &Source,
        plan: PlanId,
        patience: Patience,
    ) -> HostResult<()> {
        let view = self.view_of(instance, source, plan)?;
        let disk = Arc::new(Disk::read_only(view.clone()));
        let runtime = self.runtime.clone();
        let read = move || boot_files(disk, runtime, patience).ok();
        let files = self.runtime.spawn_blocking(read);
        instance.live().boot_reading = Some(BootReading { plan, view, files });
        Ok(())
    }

    /// The view of an instance's plan, whose reads are noted in the trace of a first boot. Blocks.
    pub(super) fn view_of(
        &self,
        instance: &Instance,
        source: &Source,
        plan: PlanId,
    ) -> HostResult<Arc<View>> {
        let trace = {
            let live = instance.live();
            if let Some(reading) = &live.boot_reading
                && reading.plan == plan
            {
                return Ok(reading.view.clone());
            }
            live.trace.clone()
        };
        let file = open_plan(&source.composer.plan_path(plan), plan)?;
        let view = View::new(file, source.reader.clone()).traced(trace);
        Ok(Arc::new(view))
    }

    /// What a machine boots from `disk`. Blocks.
    pub(super) fn boot_files(
        &self,
        instance: &Instance,
        disk: Arc<dyn BlockDevice>,
        patience: &Patience,
    ) -> HostResult<BootFiles> {
        let reading = instance.live().boot_reading.take();
        let read = reading.and_then(|reading| self.runtime.block_on(reading.files).ok());
        if let Some(files) = read.flatten() {
            return Ok(files);
        }
        let files = boot_files(disk, self.runtime.clone(), patience.clone());
        // A read that was given up shows as a disk that cannot be read.
        files.map_err(|error| patience.over().unwrap_or(error.into()))
    }
}

/// Writes them where a hypervisor finds them.
pub(super) fn write_boot_files(dir: &Path, files: &BootFiles) -> HostResult<()> {
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
