//! The disk of an instance as it was: kept, brought back, removed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shale_hvplug::{Vm, VmState};
use shale_view::{Overlay, open_plan};

use crate::api::{self, Damaged, Outcome, ShownPlace, SnapshotAction, Stage};
use crate::disk_place::DiskPlace;
use crate::error::{HostError, HostResult, system};
use crate::file_copy::copy_file;
use crate::name::InstanceName;
use crate::overlay_copy::{Copied, copy_overlay};
use crate::patience::Patience;
use crate::record::Record;
use crate::served::{Served, open_overlay};
use crate::snapshot::{KeptDisk, Snapshot, Snapshots};

use super::instance::Instance;
use super::show::room_of;
use super::{Host, Progress};

/// Most snapshots of an instance. All are read when the service starts, and each takes the room of what the guest had written.
const MAX_SNAPSHOTS: usize = 64;

/// A guest that stands still for as long as its disk is copied.
struct Held(Vm);

impl Host {
    /// Does something about the snapshots of an instance.
    pub(super) async fn snapshots(
        self: &Arc<Self>,
        name: &InstanceName,
        action: SnapshotAction,
        progress: Progress,
    ) -> HostResult<Outcome> {
        let instance = self.get(name)?;
        let named = |snapshot: String| InstanceName::new(&snapshot);
        let action: Action = match action {
            SnapshotAction::List => {
                let list = self.blocking(move |_| list(&instance));
                return list.await;
            }
            SnapshotAction::Remove { snapshot } => {
                let snapshot = named(snapshot)?;
                let _changing = self.right_to_change(&instance).await?;
                let this = instance.clone();
                let remove = self.blocking(move |_| remove(&this, &snapshot));
                return remove.await.map(|()| Outcome::Nothing);
            }
            SnapshotAction::Create { snapshot } => (Self::take_snapshot, named(snapshot)?),
            SnapshotAction::Restore { snapshot } => (Self::restore_snapshot, named(snapshot)?),
        };
        let _changing = self.settled_to_change(&instance).await?;
        self.copy(&instance, action, progress).await
    }

    /// Copies a disk; the client is told how much of it is done.
    async fn copy(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        (work, snapshot): Action,
        progress: Progress,
    ) -> HostResult<Outcome> {
        // Whoever removes the machine ends it.
        let name = instance.name.as_str();
        let patience = instance.hope.patience(name, Duration::MAX);
        let copied = Arc::new(Copied::default());
        let (this, copied_by_work) = (instance.clone(), copied.clone());
        let work = self.blocking(move |host| {
            let how = (&patience, &*copied_by_work);
            work(host, &this, &snapshot, how)
        });
        let copied = || copied.brought();
        self.stage_with(&progress, Stage::Copy, work, copied).await
    }

    /// Blocks.
    fn take_snapshot(
        self: &Arc<Self>,
        instance: &Instance,
        name: &InstanceName,
        (patience, copied): (&Patience, &Copied),
    ) -> HostResult<Outcome> {
        let record = instance.live().record.clone();
        let record = record.ok_or_else(|| HostError::Busy(instance.name.to_string()))?;
        let kept = Snapshots::at(instance.paths.snapshots());
        let there = kept.list()?;
        if there.contains_key(name) {
            return Err(HostError::SnapshotExists {
                name: instance.name.to_string(),
                snapshot: name.to_string(),
            });
        }
        if there.len() >= MAX_SNAPSHOTS {
            let name = instance.name.to_string();
            return Err(HostError::Snapshots(name, MAX_SNAPSHOTS));
        }
        let snapshot = Snapshot::of(&record, self.now());
        let finished = kept.begin(name, snapshot.disk).and_then(|()| {
            let target = kept.disk(name, snapshot.disk);
            self.while_it_is_still(instance, |let_go_on| match record.disk {
                DiskPlace::Overlay { .. } => {
                    let (overlay, plan) = (overlay_of(instance, &record)?, record.origin.plan);
                    copy_overlay(&overlay, plan, &target, patience, copied, let_go_on)
                }
                DiskPlace::File { .. } => {
                    let file = instance.paths.disk_at(&record.disk);
                    copy_file(&file, &target, patience, copied, let_go_on)
                }
            })?;
            kept.finish(name, &snapshot)
        });
        if let Err(error) = finished {
            kept.give_up(name);
            return Err(error);
        }
        let shown = shown(&kept, name, &snapshot);
        instance.live().snapshots.insert(name.clone(), snapshot);
        Ok(Outcome::Snapshot(Box::new(shown)))
    }

    /// Does `work` with the disk of a guest, which writes nothing until that lets it go on. Blocks.
    fn while_it_is_still(
        &self,
        instance: &Instance,
        work: impl FnOnce(&dyn Fn() -> HostResult<()>) -> HostResult<()>,
    ) -> HostResult<()> {
        let held = self.hold(instance)?;
        let let_go_on = || match &held {
            Some(Held(vm)) => self.let_go_on(instance, vm),
            None => Ok(()),
        };
        let worked = work(&let_go_on);
        // It does that at once where the work has not come so far; where it fails, the next look tries again.
        worked.and(let_go_on())
    }

    /// Pauses a guest that runs. A mark says so to the next service, should this one be killed. Blocks.
    fn hold(&self, instance: &Instance) -> HostResult<Option<Held>> {
        let Some(vm) = self.machine_of(instance)? else {
            return Ok(None);
        };
        match self.driver.state(&vm)? {
            VmState::Ended => return Ok(None),
            // It stands still already, for somebody or until its content comes, and nobody lets it go on while this
            // command has the right to change it.
            VmState::Paused(_) | VmState::DiskFailed => return Ok(None),
            VmState::Running | VmState::Silent => {}
        }
        self.mark_held(instance)?;
        self.driver.pause(&vm)?;
        Ok(Some(Held(vm)))
    }

    /// Marks a guest as one that stands still only until a command has ended. Blocks.
    pub(super) fn mark_held(&self, instance: &Instance) -> HostResult<()> {
        let mark = instance.paths.held();
        File::create(&mark).map_err(system("make", &mark)).map(drop)
    }

    /// Lets a guest go on that was paused to copy its disk, unless somebody else wants it paused; one that was not is left
    /// alone. Whoever calls holds the right to change the instance. Blocks.
    pub(super) fn let_go_on(&self, instance: &Instance, vm: &Vm) -> HostResult<()> {
        let mark = instance.paths.held();
        if !mark.exists() {
            return Ok(());
        }
        let paused = instance.live().record.as_ref().is_some_and(|it| it.paused);
        if !paused && vm.process.runs() {
            self.driver.resume(vm)?;
        }
        remove_mark(&mark)
    }

    /// Blocks.
    fn restore_snapshot(
        self: &Arc<Self>,
        instance: &Instance,
        name: &InstanceName,
        (patience, copied): (&Patience, &Copied),
    ) -> HostResult<Outcome> {
        let record = self.stopped(instance)?;
        let kept = Snapshots::at(instance.paths.snapshots());
        let snapshot = find(instance, &kept, name)?;
        let plan = snapshot.origin.plan;
        let (next, from) = (snapshot.restored(&record), kept.disk(name, snapshot.disk));
        match snapshot.disk {
            KeptDisk::Overlay => {
                // Before the disk that can be read is given up.
                open_plan(&self.plan_path(plan), plan)?;
                let from = open_overlay(&from, plan)?;
                self.replace_disk(instance, next, |dir| {
                    copy_overlay(&from, plan, dir, patience, copied, || Ok(()))
                })?;
            }
            KeptDisk::File => {
                let place = next.disk.next_file();
                self.put_disk(instance, next, place, |file| {
                    copy_file(&from, file, patience, copied, || Ok(()))
                })?;
            }
        }
        instance.live().trace = None;
        Ok(Outcome::Nothing)
    }
}

/// Work on a disk, and the snapshot that it is about.
type Action = (
    fn(&Arc<Host>, &Instance, &InstanceName, (&Patience, &Copied)) -> HostResult<Outcome>,
    InstanceName,
);

/// What the guest of an instance wrote, where that lies over a plan. Blocks.
fn overlay_of(instance: &Instance, record: &Record) -> HostResult<Arc<Overlay>> {
    let overlay = instance.live().disk.as_ref().map(Served::overlay);
    match overlay {
        Some(overlay) => Ok(overlay),
        None => open_overlay(&instance.paths.disk_at(&record.disk), record.origin.plan),
    }
}

/// All snapshots of an instance. Blocks.
fn list(instance: &Instance) -> HostResult<Outcome> {
    let kept = Snapshots::at(instance.paths.snapshots());
    let (mut snapshots, mut damaged) = (Vec::new(), Vec::new());
    for (name, found) in kept.list()? {
        match found {
            Ok(snapshot) => snapshots.push(shown(&kept, &name, &snapshot)),
            Err(reason) => damaged.push(Damaged {
                name: name.to_string(),
                reason,
            }),
        }
    }
    Ok(Outcome::Snapshots { snapshots, damaged })
}

/// Blocks.
fn remove(instance: &Instance, name: &InstanceName) -> HostResult<()> {
    let kept = Snapshots::at(instance.paths.snapshots());
    if !kept.list()?.contains_key(name) {
        return Err(no_snapshot(instance, name));
    }
    kept.remove(name)?;
    instance.live().snapshots.remove(name);
    Ok(())
}

/// Removes what killed services left of snapshots; the others are known from then on. Blocks.
pub(super) fn take_up_snapshots(instance: &Instance) -> HostResult<()> {
    let kept = Snapshots::at(instance.paths.snapshots());
    kept.sweep()?;
    let found = kept.list()?.into_iter();
    let whole = found.filter_map(|(name, snapshot)| Some((name, snapshot.ok()?)));
    instance.live().snapshots = whole.collect::<BTreeMap<_, _>>();
    Ok(())
}

fn find(instance: &Instance, kept: &Snapshots, name: &InstanceName) -> HostResult<Snapshot> {
    match kept.list()?.remove(name) {
        None => Err(no_snapshot(instance, name)),
        Some(Ok(snapshot)) => Ok(snapshot),
        Some(Err(reason)) => Err(HostError::DamagedSnapshot {
            snapshot: name.to_string(),
            reason,
        }),
    }
}

fn no_snapshot(instance: &Instance, name: &InstanceName) -> HostError {
    HostError::NoSnapshot {
        name: instance.name.to_string(),
        snapshot: name.to_string(),
    }
}

fn shown(kept: &Snapshots, name: &InstanceName, snapshot: &Snapshot) -> api::Snapshot {
    api::Snapshot {
        name: name.to_string(),
        created: snapshot.created,
        bytes: room_of(&kept.disk(name, snapshot.disk)),
        place: match snapshot.disk {
            KeptDisk::Overlay => ShownPlace::Overlay,
            KeptDisk::File => ShownPlace::File,
        },
        disk_bytes: snapshot.disk_bytes,
        reference: snapshot.origin.reference.clone(),
        template: snapshot.origin.template,
        plan: snapshot.origin.plan,
    }
}

fn remove_mark(mark: &Path) -> HostResult<()> {
    match fs::remove_file(mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system("remove", mark)(error)),
        _ => Ok(()),
    }
}
