//! Disks of instances: snapshots.

use serde::{Deserialize, Serialize};
use shale_model::{PlanId, TemplateId};

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
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// The reference of the template that the instance had then.
    pub reference: String,
    /// The template.
    pub template: TemplateId,
    /// The plan that the disk was made from.
    pub plan: PlanId,
}
