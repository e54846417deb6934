//! The disk of an instance becomes a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::api::{Brought, Outcome, Stage};
use crate::disk_file::write_disk;
use crate::error::HostResult;
use crate::name::InstanceName;

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
}
