//! The disk of an instance becomes a plain file: neither this service nor a registry matters to it any more.
//!
//! A machine that runs is moved by its hypervisor, which has both disks equal before it lets the old one go. The guest
//! stands still from that moment until the record names the file, durably; so whatever is killed on the way, what the
//! record names has all that the guest wrote.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::Duration;

use shale_hvplug::{DiskMover, Moving, Vm};
use shale_view::{View, open_plan};

use crate::api::{Brought, Outcome, Stage};
use crate::disk_file::write_disk;
use crate::disk_place::DiskPlace;
use crate::error::{HostError, HostResult, system};
use crate::name::InstanceName;
use crate::overlay_copy::Copied;
use crate::patience::Patience;
use crate::record::Record;

use super::instance::Instance;
use super::replace::remove_disk;
use super::{Host, Progress};

/// How often a copy is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Host {
    /// Makes the disk of an instance a plain file, also while its guest uses it.
    pub(super) async fn localize(
        self: &Arc<Self>,
        name: &InstanceName,
        progress: Progress,
    ) -> HostResult<Outcome> {
        let instance = self.get(name)?;
        let _changing = self.settled_to_change(&instance).await?;
        let record = instance.live().record.clone();
        let record = record.ok_or_else(|| HostError::Busy(name.to_string()))?;
        if let DiskPlace::Overlay { .. } = record.disk {
            // Whoever removes the machine ends it.
            let patience = instance.hope.patience(name.as_str(), Duration::MAX);
            if instance.vm().is_some() {
                self.bring_all(&record, &patience, &progress).await?;
            }
            let copied = Arc::new(Copied::default());
            let (this, copied_by_work) = (instance.clone(), copied.clone());
            let work = self
                .blocking(move |host| host.move_disk(&this, record, (&patience, &copied_by_work)));
            let brought = || {
                let (bytes, of) = (copied.bytes.load(Relaxed), copied.of.load(Relaxed));
                Some(Brought { bytes, of })
            };
            self.stage_with(&progress, Stage::Copy, work, brought)
                .await?;
        }
        Ok(Outcome::Instance(Box::new(self.show(&instance).await?)))
    }

    /// Brings the content of an instance before it is copied: a copy of a guest's disk holds the guest up where it waits.
    async fn bring_all(
        self: &Arc<Self>,
        record: &Record,
        patience: &Patience,
        progress: &Progress,
    ) -> HostResult<()> {
        let (repository, id) = (record.origin.repository(), record.origin.plan);
        let opened = self.blocking(move |host| {
            let plan = open_plan(&host.plan_path(id), id)?;
            Ok((host.sources.get(&repository)?, plan))
        });
        let (source, plan) = opened.await?;
        let view = View::for_command(plan, source.reader.clone());
        let cache = self.sources.cache();
        let brought = || {
            let (of, bytes) = super::cached::local_bytes(cache, view.plan()).ok()?;
            Some(Brought { bytes, of })
        };
        let work = patience.wait(async { Ok(source.filler.bring_whole(&view).await?) });
        self.stage_with(progress, Stage::Bring, work, brought).await
    }

    /// Blocks.
    fn move_disk(
        self: &Arc<Self>,
        instance: &Instance,
        mut next: Record,
        how: (&Patience, &Copied),
    ) -> HostResult<()> {
        let old = instance.paths.disk_at(&next.disk);
        next.disk = next.disk.next_file();
        let target = instance.paths.disk_at(&next.disk);
        // What an earlier try left.
        remove_disk(&target)?;
        let vm = self.machine_of(instance)?;
        let moved = match &vm {
            Some(vm) => self.move_live(instance, vm, &target, &next, how),
            None => self.copy_still(instance, &target, how),
        };
        if let Err(error) = moved {
            // What cannot be removed now is swept when the service starts.
            let _ = remove_disk(&target);
            return Err(error);
        }
        if let Err(error) = self.keep(&instance.name, &next) {
            // The guest stands still until a look finds where its disk is, and can keep that.
            let mut live = instance.live();
            live.vm = None;
            live.disk = None;
            return Err(error);
        }
        let served = {
            let mut live = instance.live();
            live.record = Some(next);
            live.trace = None;
            live.disk.take()
        };
        let closed = match served {
            Some(served) => self.runtime.block_on(served.close()),
            None => Ok(()),
        };
        // What was made durable there, or not, is nobody's any more.
        let _ = closed.and_then(|()| remove_disk(&old));
        match &vm {
            Some(vm) => self.let_go_on(instance, vm),
            None => Ok(()),
        }
    }

    /// Copies the disk of a machine that is stopped. Blocks.
    fn copy_still(
        &self,
        instance: &Instance,
        target: &Path,
        (patience, copied): (&Patience, &Copied),
    ) -> HostResult<()> {
        let record = instance.live().record.clone();
        let record = record.ok_or_else(|| HostError::Busy(instance.name.to_string()))?;
        let disk = self.disk_of(instance, record)?.disk;
        copied.of.store(disk.size(), Relaxed);
        let report = |at, _| copied.bytes.store(at, Relaxed);
        let work = async { Ok(write_disk(&*disk, target, report).await?) };
        self.runtime.block_on(patience.wait(work)).map(drop)
    }

    /// Has the hypervisor move the disk. Then the guest stands still, and has a mark that lets it go on. Blocks.
    fn move_live(
        &self,
        instance: &Instance,
        vm: &Vm,
        target: &Path,
        next: &Record,
        how: (&Patience, &Copied),
    ) -> HostResult<()> {
        let mover = self.driver.mover();
        let mover = mover.ok_or_else(|| HostError::CannotMove(instance.name.to_string()))?;
        let made = system("make", target);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(target);
        let sized = file.and_then(|file| file.set_len(next.disk_bytes));
        sized.map_err(made)?;
        let copied = mover
            .begin(vm, target)
            .map_err(HostError::Driver)
            .and_then(|()| self.wait_for_copy(instance, vm, mover, how))
            .and_then(|()| {
                self.mark_held(instance)?;
                Ok(mover.finish(vm, target)?)
            });
        if let Err(error) = copied {
            // A machine that has ended needs none of this.
            let given_up = mover.give_up(vm);
            let _ = self.let_go_on(instance, vm);
            return Err(given_up.err().map_or(error, HostError::Driver));
        }
        sync(target)
    }

    /// Waits until all is copied. Blocks.
    fn wait_for_copy(
        &self,
        instance: &Instance,
        vm: &Vm,
        mover: &dyn DiskMover,
        (patience, copied): (&Patience, &Copied),
    ) -> HostResult<()> {
        loop {
            if let Some(over) = patience.over() {
                return Err(over);
            }
            match mover.progress(vm)? {
                Moving::Complete => return Ok(()),
                Moving::Copying { bytes, of } => {
                    copied.bytes.store(bytes, Relaxed);
                    copied.of.store(of, Relaxed);
                }
                Moving::Late => {}
                Moving::Not => return Err(HostError::CannotMove(instance.name.to_string())),
                Moving::Failed(reason) => {
                    let name = instance.name.to_string();
                    return Err(HostError::MoveFailed { name, reason });
                }
            }
            // Nobody else looks after it meanwhile.
            self.look_at_stall(instance, vm)?;
            sleep(LOOK_EVERY);
        }
    }

    /// Takes note of what an earlier service was doing to the disk of a machine that runs: a move that came to its end is
    /// kept, and any other given up. The record that holds from then on. Blocks.
    pub(super) fn after_a_move(
        &self,
        instance: &Instance,
        vm: &Vm,
        mut record: Record,
    ) -> HostResult<Record> {
        let Some(mover) = self
            .driver
            .mover()
            .filter(|_| has_other_file(instance, &record))
        else {
            return Ok(record);
        };
        let moved = mover.moved_to(vm)?;
        match moved.and_then(|name| DiskPlace::named(&name)) {
            Some(place) if place != record.disk => {
                sync(&instance.paths.disk_at(&place))?;
                record.disk = place;
                self.keep(&instance.name, &record)?;
            }
            Some(_) => {}
            None => mover.give_up(vm)?,
        }
        Ok(record)
    }
}

/// Whether there is a file that may be the disk of an instance, and its record names another disk.
fn has_other_file(instance: &Instance, record: &Record) -> bool {
    let entries = fs::read_dir(&instance.paths.dir).into_iter().flatten();
    entries.flatten().any(|entry| {
        let place = DiskPlace::named(&entry.file_name().to_string_lossy());
        place.is_some_and(|place| matches!(place, DiskPlace::File { .. }) && place != record.disk)
    })
}

/// Makes a file durable, with its name.
fn sync(path: &Path) -> HostResult<()> {
    let parent = path.parent().unwrap_or(path);
    for path in [path, parent] {
        let synced = File::open(path).and_then(|file| file.sync_all());
        synced.map_err(system("sync", path))?;
    }
    Ok(())
}
