//! Why the host service cannot do what it was asked.

mod advice;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shale_files::{FileError, LockError};
use shale_fusefs::{MountError, TreeError};
use shale_hvplug::DriverError;
use shale_ingest::PushError;
use shale_model::{FormatError, ReferenceError, SeamError};
use shale_nbd::{ExportError, ListenError};
use shale_view::{BringError, OverlayError, PlanFileError, ReadError};

use crate::compose::ComposeError;
use crate::disk_file::DiskFileError;
use crate::guest_disk::GuestDiskError;
use crate::guest_files::GuestFileError;
use crate::keeper::KeeperError;
use crate::seed::SeedError;

/// Results of the host service.
pub type HostResult<T> = Result<T, HostError>;

/// An error of whoever opens places: the service does not know which places there are.
pub type PlaceFailure = Box<dyn Error + Send + Sync>;

/// Why the host service cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no instance of this name.
    #[error("there is no virtual machine `{0}`")]
    NoInstance(String),
    /// There is nothing on this machine that could start a machine.
    #[error("no machine can be started here: {0}")]
    NoHypervisor(String),
    /// There is an instance of this name already.
    #[error("there is a virtual machine `{0}` already")]
    Exists(String),
    /// The name is no host name.
    #[error("`{0}` is not a name: 1 to 63 of a-z, 0-9 and -, which does not stand at an end")]
    Name(String),
    /// The reference is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Nothing has this reference.
    #[error("there is no template `{reference}`{}", for_platform(.platform))]
    NoTemplate {
        /// The reference.
        reference: String,
        /// The platform that it has no template for, if the reference is there.
        platform: Option<String>,
    },
    /// The repository cannot be opened.
    #[error("open the repository")]
    Place(#[source] PlaceFailure),
    /// The disk cannot be made so small.
    #[error("a disk of {asked} bytes is too small for the template, whose disk has {least}")]
    DiskTooSmall {
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes of the template's disk.
        least: u64,
    },
    /// A data disk cannot have this size.
    #[error("a data disk of {asked} bytes: it has at least one, and at most {most}")]
    DataDiskBytes {
        /// Bytes that were asked for.
        asked: u64,
        /// Most that it can have.
        most: u64,
    },
    /// The machine has no place for so many disks.
    #[error("a virtual machine has at most {0} data disks")]
    DataDisks(usize),
    /// The machine cannot have so little memory.
    #[error("{asked} bytes of memory are too few for the template, which needs {least}")]
    MemoryTooSmall {
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes that the template needs.
        least: u64,
    },
    /// One port of this machine cannot lead to two of the guest.
    #[error("port {0} is published twice")]
    PortTwice(u16),
    /// A port of this machine is in use.
    #[error("port {0} of 127.0.0.1 is in use")]
    Port(u16),
    /// No port is left for SSH.
    #[error("no port of 127.0.0.1 is free for SSH")]
    NoPort,
    /// The directory for sockets is too deep.
    #[error("`{}` is too long for the path of a socket", .0.display())]
    SocketPath(PathBuf),
    /// The instance does not run.
    #[error("`{0}` does not run")]
    NotRunning(String),
    /// Something else is being done to the instance.
    #[error("`{0}` is being changed by another command")]
    Busy(String),
    /// Another command removes the instance, or the service ends.
    #[error("`{0}` was given up: it is being removed, or the host service ends")]
    GivenUp(String),
    /// What the instance needs before its machine runs did not come in time.
    #[error("the content of `{name}` did not come within {limit:?}{}", because(.stall))]
    NoContent {
        /// The instance.
        name: String,
        /// How long it was waited for.
        limit: Duration,
        /// What the last fetch that failed said.
        stall: Option<String>,
    },
    /// The guest did not shut down in time.
    #[error("the guest of `{name}` did not shut down within {limit:?}")]
    StillRunning {
        /// The instance.
        name: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The guest is paused until its content comes.
    #[error("`{name}` waits for its content: {reason}")]
    Stalled {
        /// The instance.
        name: String,
        /// Why it does not come.
        reason: String,
    },
    /// The guest did not show a login prompt in time. It runs on.
    #[error("`{name}` showed no login prompt within {limit:?}; its console ends with:\n{console}")]
    NoLogin {
        /// The instance.
        name: String,
        /// How long it was waited for.
        limit: Duration,
        /// The end of its console.
        console: String,
    },
    /// The machine ended before the guest showed a login prompt.
    #[error("`{name}` ended before its login prompt; its console ends with:\n{console}")]
    Ended {
        /// The instance.
        name: String,
        /// The end of its console.
        console: String,
    },
    /// The record of an instance is not what this version writes.
    #[error("`{}` is damaged: {reason}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The template does not become an image.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// The plan cannot be opened.
    #[error(transparent)]
    Plan(#[from] PlanFileError),
    /// The plan is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The content of a template cannot be brought.
    #[error(transparent)]
    Bring(#[from] BringError),
    /// The disk of an instance cannot be written to a file.
    #[error(transparent)]
    DiskFile(#[from] DiskFileError),
    /// What the guest has on its disk cannot be read.
    #[error(transparent)]
    GuestDisk(#[from] GuestDiskError),
    /// What it changed cannot be pushed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// A template lies where the layers are that it is made of.
    #[error("`{name}` is made from a template in {repository}, and so would be the new one")]
    OtherRepository {
        /// The instance.
        name: String,
        /// Where its template is.
        repository: String,
    },
    /// The hypervisor moves no disk while its machine runs.
    #[error("the disk of `{0}` cannot be moved while it runs")]
    CannotMove(String),
    /// The hypervisor could not copy the disk.
    #[error("the disk of `{name}` cannot be copied: {reason}")]
    MoveFailed {
        /// The instance.
        name: String,
        /// What the hypervisor says.
        reason: String,
    },
    /// There are too many snapshots already.
    #[error("`{0}` has {1} snapshots, which is the limit")]
    Snapshots(String, usize),
    /// The guest writes to its disk.
    #[error("`{0}` runs, and writes to its disk")]
    Runs(String),
    /// There is no snapshot of this name.
    #[error("`{name}` has no snapshot `{snapshot}`")]
    NoSnapshot {
        /// The instance.
        name: String,
        /// The snapshot.
        snapshot: String,
    },
    /// There is a snapshot of this name already.
    #[error("`{name}` has a snapshot `{snapshot}` already")]
    SnapshotExists {
        /// The instance.
        name: String,
        /// The snapshot.
        snapshot: String,
    },
    /// A snapshot is not what this version writes.
    #[error("snapshot `{snapshot}` is damaged: {reason}")]
    DamagedSnapshot {
        /// The snapshot.
        snapshot: String,
        /// What is wrong.
        reason: String,
    },
    /// A warm snapshot is not what it should be.
    #[error("the warm snapshot is damaged: {0}")]
    WarmSnapshot(String),
    /// An identity cannot be put into words of a shell.
    #[error("a guest that runs cannot be given its identity: {0}")]
    IdentityScript(String),
    /// The hypervisor keeps no machines.
    #[error("no machine of this hypervisor can be kept")]
    CannotKeep,
    /// What waits in a guest for its identity cannot be spoken to.
    #[error("the guest does not wait for an identity")]
    Channel(#[source] io::Error),
    /// The disk of an instance that runs is not replaced.
    #[error("`{0}` is not stopped")]
    NotStopped(String),
    /// The content of a template is not kept in the cache on purpose.
    #[error("`{0}` is not pinned")]
    NotPinned(String),
    /// The disk cannot be made what the instance is.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The overlay cannot be opened.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The disk cannot be offered.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The disk cannot be offered over NBD.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The kernel cannot be read.
    #[error(transparent)]
    Kernel(#[from] GuestFileError),
    /// The directory has a mount of this host already.
    #[error("`{}` is mounted already", .0.display())]
    Mounted(PathBuf),
    /// Who was to mount did not.
    #[error("nothing was mounted on `{}`", .0.display())]
    NotMade(PathBuf),
    /// The command that asked did not mount what the memory of its machine is to be read from.
    #[error("the command could not mount the snapshot: {0}")]
    NoMemory(String),
    /// There are too many mounts.
    #[error("this host has {0} mounts, which is the most that it can have")]
    Mounts(usize),
    /// A mount is not made, or does not go away.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The tree of a plan cannot be shown.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// What is mounted cannot be kept open.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// The hypervisor cannot.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Names and manifests cannot be read.
    #[error(transparent)]
    Seam(#[from] SeamError),
    /// Another service runs.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file of the host cannot be read or written.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The system refused.
    #[error("{action} `{}`", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A part of the service ended in the middle of the work: a bug.
    #[error("the work was interrupted")]
    Interrupted,
}

fn for_platform(platform: &Option<String>) -> String {
    match platform {
        Some(platform) => format!(" for {platform}"),
        None => String::new(),
    }
}

fn because(stall: &Option<String>) -> String {
    match stall {
        Some(stall) => format!(": {stall}"),
        None => String::new(),
    }
}

impl From<ReadError> for HostError {
    fn from(error: ReadError) -> Self {
        Self::Compose(error.into())
    }
}

impl HostError {
    /// The same error with what it waited for, where it waited for content.
    pub(crate) fn stalled(mut self, reason: Option<String>) -> Self {
        if let Self::NoContent { stall, .. } = &mut self {
            *stall = reason;
        }
        self
    }
}

/// Makes an error of the system an error of the host.
pub(crate) fn system(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HostError {
    let path = path.to_owned();
    move |source| HostError::System {
        action,
        path,
        source,
    }
}
