//! Mounts: what a client wants, and what there is.
//!
//! Who wants a mount makes it, with rights of its own and in its own view of the system: the service says when
//! ([`super::Answer::Mount`]), and is sent the open `/dev/fuse` beside one byte (`SCM_RIGHTS`). So nobody mounts through the
//! service where they could not mount themselves, and the service needs no right to mount.
//!
//! The same goes for what the service needs mounted while it does something for a client, which is to be seen by one process
//! only: that is mounted on no directory, and its root is sent, too ([`MountPlace::Nowhere`]). A client that cannot mount
//! sends why, and no file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shale_model::TemplateId;

use super::Repository;

/// A mount that is to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountWish {
    /// The template's reference.
    pub reference: String,
    /// The repository that it is in.
    pub repository: Repository,
    /// The directory, with its path from the root.
    pub directory: PathBuf,
    /// How the disk is shown; without it, the tree is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskWish>,
}

/// How a disk is to be shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskWish {
    /// Directory for what is written to it, with its path from the root; without it the disk is read-only.
    pub overlay: Option<PathBuf>,
    /// Bytes of the disk, when the overlay is made.
    pub disk_bytes: Option<u64>,
    /// Numbers of the user and the group that the file belongs to.
    pub owner: (u32, u32),
}

/// How a client is to mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToMount {
    /// What it is a mount of.
    pub source: String,
    /// Whether it can be written to.
    pub writable: bool,
    /// Where.
    pub place: MountPlace,
}

/// Where a client is to mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountPlace {
    /// On the directory that it named.
    Directory,
    /// On none: the open root of the mount comes beside the device.
    Nowhere,
}

/// A mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountShown {
    /// The directory; that of a machine's memory is on none.
    pub directory: Option<PathBuf>,
    /// The machine whose memory it is, which alone sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The reference as it was given.
    pub reference: String,
    /// The template.
    pub template: TemplateId,
    /// What it shows.
    pub shows: ShownFace,
    /// Where what is written goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<PathBuf>,
    /// Seconds since 1970.
    pub created: u64,
    /// Requests that this service was asked.
    pub requests: u64,
    /// Requests that an earlier service had read and not answered.
    pub taken_over: u64,
    /// How it is.
    pub state: ShownMountState,
    /// Why whoever uses it waits, if it cannot be served now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// How a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShownMountState {
    /// It is being made.
    Making,
    /// It is served.
    Served,
    /// Whoever uses it waits.
    Waits,
    /// It is not in its place any more, and served for those who still use it.
    Unmounted,
}

/// What a mount shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShownFace {
    /// A tree.
    Tree,
    /// A disk, as a file.
    Disk,
}
