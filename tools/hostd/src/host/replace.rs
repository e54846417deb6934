//! An instance gets another disk: the new one is made completely, then the record names it, then the old one goes. Killed
//! anywhere, it has one or the other (I6).

use std::fs;
use std::io;
use std::path::Path;

use shale_files::DirFiles;
use shale_hvplug::Vm;

use crate::dirs::remove_dir;
use crate::disk_place::DiskPlace;
use crate::error::{HostError, HostResult, system};
use crate::record::Record;

use super::Host;
use super::deploy::{alias, put_private};
use super::instance::Instance;

impl Host {
    /// Gives an instance that is stopped the overlay that `make` makes, durably, in an empty directory, and the record
    /// `next`, which is told where that is. Blocks.
    pub(super) fn replace_disk(
        &self,
        instance: &Instance,
        next: Record,
        make: impl FnOnce(&Path) -> HostResult<()>,
    ) -> HostResult<()> {
        let place = next.disk.next_overlay();
        self.put_disk(instance, next, place, |directory| {
            DirFiles::create(directory)?;
            make(directory)
        })
    }

    /// The same with a disk that `make` makes, durably, at a path where nothing is, for `place`. Blocks.
    pub(super) fn put_disk(
        &self,
        instance: &Instance,
        mut next: Record,
        place: DiskPlace,
        make: impl FnOnce(&Path) -> HostResult<()>,
    ) -> HostResult<()> {
        let old = std::mem::replace(&mut next.disk, place);
        let path = instance.paths.disk_at(&next.disk);
        // What an earlier try left.
        remove_disk(&path)?;
        if let Err(error) = make(&path) {
            // What cannot be removed now is swept when the service starts.
            let _ = remove_disk(&path);
            return Err(error);
        }
        // Where this fails, the record on disk may name either: both stay until the service starts again.
        self.keep(&instance.name, &next)?;
        instance.live().record = Some(next.clone());
        let _ = remove_disk(&instance.paths.disk_at(&old));
        put_known_host(instance, &next)
    }

    /// The machine of an instance, also one that an earlier service started; `None` if none runs. Blocks.
    pub(super) fn machine_of(&self, instance: &Instance) -> HostResult<Option<Vm>> {
        let vm = match instance.vm() {
            Some(vm) => Some(vm),
            None => self.driver.attach(&instance.paths.vm_files())?,
        };
        Ok(vm.filter(|vm| vm.process.runs()))
    }

    /// The record of an instance that has no machine: its disk is nobody's. Blocks.
    pub(super) fn stopped(&self, instance: &Instance) -> HostResult<Record> {
        if self.machine_of(instance)?.is_some() {
            return Err(HostError::NotStopped(instance.name.to_string()));
        }
        let record = instance.live().record.clone();
        record.ok_or_else(|| HostError::Busy(instance.name.to_string()))
    }
}

/// Removes what is a disk of an instance: a directory or a file.
pub(super) fn remove_disk(path: &Path) -> HostResult<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => remove_dir(path),
        removed => removed.map_err(system("remove", path)),
    }
}

/// Removes disks in the directory of an instance that its record does not name, and tells `ssh` the host key that it does:
/// what a service was doing when it was killed. Blocks.
pub(super) fn sweep(instance: &Instance, record: &Record) -> HostResult<()> {
    let dir = &instance.paths.dir;
    for entry in fs::read_dir(dir).map_err(system("list", dir))? {
        let entry = entry.map_err(system("list", dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_other = DiskPlace::named(&name).is_some_and(|disk| disk != record.disk);
        // A copy of a disk that was not complete has its name, and more behind it.
        let is_part = name.starts_with("disk") && name.ends_with(".part");
        if is_other || is_part {
            remove_disk(&entry.path())?;
        }
    }
    put_known_host(instance, record)
}

/// Makes the host key of the record the one that `ssh` knows.
pub(super) fn put_known_host(instance: &Instance, record: &Record) -> HostResult<()> {
    let path = instance.paths.known_hosts();
    let line = format!("{} {}\n", alias(&instance.name), record.login.host_key);
    match fs::read(&path) {
        Ok(known) if known == line.as_bytes() => Ok(()),
        _ => put_private(&path, line.as_bytes()),
    }
}
