//! Disks of instances: new ones, earlier ones, more of them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shale_model::{PlanId, TemplateId};

use super::{Repository, ShownPlace};

/// What is done about the snapshots of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotAction {
    /// Keep its disk as it is now; a guest that runs stands still meanwhile.
    Create {
        /// What to call it.
        snapshot: String,
    },
    /// All of them.
    List,
    /// Make its disk what it was then; it must be stopped.
    Restore {
        /// Which.
        snapshot: String,
    },
    /// Remove one.
    Remove {
        /// Which.
        snapshot: String,
    },
}

/// A snapshot of an instance's disk. Its JSON is a stable interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970 (UTC).
    pub created: u64,
    /// Bytes on this host that it takes.
    pub bytes: u64,
    /// What it is: what the guest had written, or all of a disk that was a plain file. The room of a file counts as its own
    /// also where the file system has it shared with the disk.
    pub place: ShownPlace,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// The reference of the template that the instance had then.
    pub reference: String,
    /// The template.
    pub template: TemplateId,
    /// The plan that the disk was made from.
    pub plan: PlanId,
}

/// An instance that is to get a new root disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reimage {
    /// Its name.
    pub name: String,
    /// The reference of a template and the repository that it is in; without them, what its own reference means now.
    pub template: Option<(String, Repository)>,
    /// Public keys that may log in to a machine that an older version deployed, which did not keep its own.
    pub authorized_keys: Vec<String>,
    /// Seconds that content may take to come.
    pub limit_seconds: u64,
}

/// What is not as it was on a new root disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReimageNote {
    /// The host key and the machine id are new ones: the old were not kept.
    NewHostKey,
    /// The machine has more memory, because the template needs it.
    MoreMemory,
}

/// A disk of an instance besides its root disk. Its JSON is a stable interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataDisk {
    /// Its serial number: the guest finds it at `/dev/disk/by-id/virtio-` and this.
    pub serial: String,
    /// The file with its bytes.
    pub file: PathBuf,
    /// Bytes that the guest sees.
    pub bytes: u64,
    /// Bytes on this host that it takes.
    pub written_bytes: u64,
}
