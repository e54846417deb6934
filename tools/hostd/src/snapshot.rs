//! Snapshots of an instance's disk as they are kept: a directory each, with an overlay, or a file, and, written last,
//! `snapshot.json`. Without that there is no snapshot.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shale_files::{DirFiles, FilePath, Files, remove_durably};

use crate::dirs::{known_path, remove_dir};
use crate::disk_place::DiskPlace;
use crate::error::HostResult;
use crate::kept::KeptIn;
use crate::name::InstanceName;
use crate::record::{Origin, Record};

/// `format` of a snapshot.
const FORMAT: &str = "shale.snapshot.v1";

/// The file that says what a snapshot is, and its successor while it is written.
const NAME: &str = "snapshot.json";
const TEMP: &str = "snapshot.json.new";

/// Longest file that is read; they have less than a thousand bytes.
const MAX_BYTES: usize = 1 << 20;

/// What of its instance a snapshot keeps besides the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Snapshot {
    format: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) origin: Origin,
    /// Bytes of the disk.
    pub(crate) disk_bytes: u64,
    /// The public host key that is on it.
    pub(crate) host_key: String,
    /// What the disk is.
    #[serde(default, skip_serializing_if = "KeptDisk::is_overlay")]
    pub(crate) disk: KeptDisk,
}

/// What a snapshot's disk is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeptDisk {
    /// What the guest had written, over the plan of its origin. As all were once.
    #[default]
    Overlay,
    /// All of it, in a plain file.
    File,
}

impl KeptDisk {
    fn is_overlay(&self) -> bool {
        *self == Self::Overlay
    }

    /// That of a disk that lies there.
    fn of(place: &DiskPlace) -> Self {
        match place {
            DiskPlace::Overlay { .. } => Self::Overlay,
            DiskPlace::File { .. } => Self::File,
        }
    }
}

impl Snapshot {
    /// A snapshot of the instance with this record.
    pub(crate) fn of(record: &Record, created: u64) -> Self {
        Self {
            format: FORMAT.into(),
            created,
            origin: record.origin.clone(),
            disk_bytes: record.disk_bytes,
            host_key: record.login.host_key.clone(),
            disk: KeptDisk::of(&record.disk),
        }
    }

    /// The record of an instance that gets this disk in place of its own.
    pub(crate) fn restored(&self, record: &Record) -> Record {
        let mut record = record.clone();
        if record.origin.template != self.origin.template {
            // It says nothing of this one.
            record.ready_millis = None;
        }
        record.origin = self.origin.clone();
        record.disk_bytes = self.disk_bytes;
        record.login.host_key = self.host_key.clone();
        record
    }
}

const FILE: KeptIn = KeptIn {
    name: NAME,
    temp: TEMP,
    format: FORMAT,
    max_bytes: MAX_BYTES,
};

/// The snapshots of an instance, in a directory that is made with the first of them.
pub(crate) struct Snapshots {
    root: PathBuf,
}

/// What there is of each name: a snapshot, or why it cannot be read.
pub(crate) type Kept = BTreeMap<InstanceName, Result<Snapshot, String>>;

impl Snapshots {
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the disk of a snapshot lies: an overlay's directory, or a file.
    pub(crate) fn disk(&self, name: &InstanceName, disk: KeptDisk) -> PathBuf {
        self.dir(name).join(match disk {
            KeptDisk::Overlay => "overlay",
            KeptDisk::File => "disk.raw",
        })
    }

    /// All that there are.
    pub(crate) fn list(&self) -> HostResult<Kept> {
        let mut found = Kept::new();
        for name in self.names()? {
            match self.read(&name) {
                Ok(Some(snapshot)) => found.insert(name, Ok(snapshot)),
                // It was never finished.
                Ok(None) => None,
                Err(error) => found.insert(name, Err(error.failure().message)),
            };
        }
        Ok(found)
    }

    /// Makes the directory of a snapshot that there is not, without what an earlier try left in it.
    pub(crate) fn begin(&self, name: &InstanceName, disk: KeptDisk) -> HostResult<()> {
        let dir = self.dir(name);
        remove_dir(&dir)?;
        // The overlay's own directory last, so that all names above it are durable.
        DirFiles::create(&self.root)?;
        DirFiles::create(&dir)?;
        if disk == KeptDisk::Overlay {
            DirFiles::create(&self.disk(name, disk))?;
        }
        Ok(())
    }

    /// Removes what is there of a snapshot that could not be finished.
    pub(crate) fn give_up(&self, name: &InstanceName) {
        // What cannot be removed now is swept when the service starts.
        let _ = remove_dir(&self.dir(name));
    }

    /// Keeps that a snapshot is complete, durably.
    pub(crate) fn finish(&self, name: &InstanceName, snapshot: &Snapshot) -> HostResult<()> {
        FILE.put(&self.dir(name), snapshot)
    }

    /// Removes a snapshot, durably: what is left of it is garbage from then on.
    pub(crate) fn remove(&self, name: &InstanceName) -> HostResult<()> {
        let dir = self.dir(name);
        remove_durably(&DirFiles::open(&dir)?, &known_path(NAME))?;
        remove_dir(&dir)
    }

    /// Removes what was never finished.
    pub(crate) fn sweep(&self) -> HostResult<()> {
        for name in self.names()? {
            if let Ok(None) = self.read(&name) {
                remove_dir(&self.dir(&name))?;
            }
        }
        Ok(())
    }

    fn read(&self, name: &InstanceName) -> HostResult<Option<Snapshot>> {
        FILE.get(&self.dir(name))
    }

    /// What is no name of a snapshot is none of ours.
    fn names(&self) -> HostResult<Vec<InstanceName>> {
        let entries = match DirFiles::open(&self.root) {
            Ok(files) => files.list(&FilePath::root())?,
            Err(error) if error.is_missing() => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let names = entries.iter().map(|entry| InstanceName::new(&entry.name));
        Ok(names.filter_map(Result::ok).collect())
    }

    fn dir(&self, name: &InstanceName) -> PathBuf {
        self.root.join(name.as_str())
    }
}
