//! The disk of an instance becomes a plain file: neither this service nor a registry matters to it any more.
//!
//! A machine that runs is moved by its hypervisor, which has both disks equal before it lets the old one go. The guest
//! stands still from that moment until the record names the file, durably; so whatever is killed on the way, what the
//! record names has all that the guest wrote.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::Duration;

use shale_hvplug::{DiskMover, DriverError, Moving, Vm};
use shale_view::{View, open_plan};

use crate::api::{Brought, EventKind, Outcome, Stage};
use crate::disk_file::write_disk;
use crate::disk_place::DiskPlace;
use crate::error::{HostError, HostResult, system};
use crate::file_copy::sync_with_name;
use crate::local::local_bytes;
use crate::name::InstanceName;
use crate::overlay_copy::Copied;
use crate::patience::Patience;
use crate::record::Record;

use super::instance::Instance;
use super::replace::remove_disk;
use super::{Host, Progress};

/// Why a disk was not moved.
enum NotMoved {
    /// It is where it was, and the copy of no use.
    At(HostError),
    /// Nobody knows where it is.
    Unknown(HostError),
}

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
                self.bring_all(&instance, &record, (&patience, &progress))
                    .await?;
            }
            let copied = Arc::new(Copied::default());
            let (this, copied_by_work) = (instance.clone(), copied.clone());
            let work = self
                .blocking(move |host| host.move_disk(&this, record, (&patience, &copied_by_work)));
            self.stage_with(&progress, Stage::Copy, work, || copied.brought())
                .await?;
            let (events, caller) = (&self.witness.events, &progress.caller);
            events.tell(Some(name.as_str()), caller, EventKind::Localized);
        }
        Ok(Outcome::Instance(Box::new(self.show(&instance).await?)))
    }

    /// Brings the content of an instance before it is copied: a copy of a guest's disk holds the guest up where it waits.
    async fn bring_all(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        record: &Record,
        (patience, progress): (&Patience, &Progress),
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
            let (of, bytes) = local_bytes(cache, view.plan()).ok()?;
            Some(Brought { bytes, of })
        };
        let looks = async {
            loop {
                tokio::time::sleep(super::LOOK_EVERY).await;
                // Nobody else looks after a machine that is being changed.
                let this = instance.clone();
                let look = self.blocking(move |host| Ok(host.look_after(&this)));
                let _ = look.await;
            }
        };
        let work = patience.wait(async {
            tokio::select! {
                brought = source.filler.bring_whole(&view) => Ok(brought?),
                () = looks => Ok(()),
                // What came stays as long as there is room; nothing of the machine was changed.
                () = progress.left() => Err(HostError::GivenUp(instance.name.to_string())),
            }
        });
        self.stage_with(progress, Stage::Bring, work, brought).await
    }

    /// Blocks.
    fn move_disk(
        self: &Arc<Self>,
        instance: &Instance,
        record: Record,
        how: (&Patience, &Copied),
    ) -> HostResult<()> {
        let vm = self.machine_of(instance)?;
        let mut next = match &vm {
            // An earlier move may have come to its end, and its record not to the disk.
            Some(vm) => self.after_a_move(instance, vm, record.clone())?,
            None => record.clone(),
        };
        if next.disk == record.disk {
            next.disk = next.disk.next_file();
            let target = instance.paths.disk_at(&next.disk);
            // What an earlier try left.
            remove_disk(&target)?;
            let moved = match &vm {
                Some(vm) => self.move_live(instance, vm, &target, &next, how),
                None => self
                    .copy_still(instance, &target, how)
                    .map_err(NotMoved::At),
            };
            match moved {
                Ok(()) => {}
                Err(NotMoved::At(error)) => {
                    // What cannot be removed now is swept when the service starts.
                    let _ = remove_disk(&target);
                    return Err(error);
                }
                Err(NotMoved::Unknown(error)) => {
                    self.leave_to_a_look(instance);
                    return Err(error);
                }
            }
            if let Err(error) = self.keep(&instance.name, &next) {
                self.leave_to_a_look(instance);
                return Err(error);
            }
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
        let _ = closed.and_then(|()| remove_disk(&instance.paths.disk_at(&record.disk)));
        match &vm {
            Some(vm) => self.let_go_on(instance, vm),
            None => Ok(()),
        }
    }

    /// It is not known which disk the machine has, or that cannot be kept. Its guest is not let go on, and both disks stay,
    /// until a look takes the machine over anew and finds out.
    fn leave_to_a_look(&self, instance: &Instance) {
        let mut live = instance.live();
        live.vm = None;
        live.disk = None;
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
    ) -> Result<(), NotMoved> {
        let mover = self.driver.mover();
        let cannot = || NotMoved::At(HostError::CannotMove(instance.name.to_string()));
        let mover = mover.ok_or_else(cannot)?;
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(target);
        let sized = file.and_then(|file| file.set_len(next.disk_bytes));
        sized.map_err(|error| NotMoved::At(system("make", target)(error)))?;
        let moved = mover
            .begin(vm, target)
            .map_err(HostError::Driver)
            .and_then(|()| self.wait_for_copy(instance, vm, mover, how))
            .and_then(|()| {
                self.mark_held(instance)?;
                mover.finish(vm, target)?;
                sync_with_name(target)
            });
        let Err(error) = moved else {
            return Ok(());
        };
        // A machine that has ended wrote nothing more than its old disk has.
        let is_undone = !vm.process.runs()
            || (mover.give_up(vm).is_ok() && matches!(mover.moved_to(vm), Ok(None)));
        if !is_undone {
            return Err(NotMoved::Unknown(error));
        }
        let _ = self.let_go_on(instance, vm);
        Err(NotMoved::At(error))
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
            let moving = match mover.progress(vm) {
                // It is busy, and asked again.
                Err(DriverError::NoAnswer { .. }) => Moving::Late,
                moving => moving?,
            };
            match moving {
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
            // Nobody else looks after a machine that is being changed.
            let _ = self.look_after(instance);
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
        let mut moved = mover.moved_to(vm)?;
        if moved.is_none() {
            mover.give_up(vm)?;
            // It may have come to its end before it could be given up.
            moved = mover.moved_to(vm)?;
        }
        if let Some(place) = moved.and_then(|name| DiskPlace::named(&name))
            && place != record.disk
        {
            sync_with_name(&instance.paths.disk_at(&place))?;
            record.disk = place;
            self.keep(&instance.name, &record)?;
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
