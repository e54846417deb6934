//! What a client asks for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shale_hvplug::{Acceleration, Forward};

use super::{EventsWish, MountWish, Reimage, SnapshotAction};

/// What a client wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Nothing: is anybody there?
    Hello,
    /// Make an instance and start it.
    Deploy(Box<Deploy>),
    /// All instances.
    List,
    /// One instance.
    Inspect {
        /// Its name.
        name: String,
    },
    /// Start an instance that is stopped; one that runs is left alone.
    Start {
        /// Its name.
        name: String,
        /// What to wait for.
        wait: Wait,
    },
    /// Stop an instance; one that is stopped is left alone.
    Stop {
        /// Its name.
        name: String,
        /// How long the guest may take to shut down.
        timeout_seconds: u64,
        /// What happens to a guest that does not.
        then: IfStuck,
    },
    /// Stop the processors of an instance.
    Pause {
        /// Its name.
        name: String,
    },
    /// Whether an instance starts by itself after a boot of the host.
    Autostart {
        /// Its name.
        name: String,
        /// Whether it does.
        autostart: Autostart,
    },
    /// Let the processors of an instance run again.
    Resume {
        /// Its name.
        name: String,
    },
    /// Remove an instance with all that it wrote, running or not.
    Remove {
        /// Its name.
        name: String,
    },
    /// Write the disk of an instance that is stopped or paused to a file.
    Export {
        /// Its name.
        name: String,
        /// The file, with its path from the root; it must not exist.
        file: PathBuf,
    },
    /// Make the disk of an instance a plain file, also while it runs.
    Localize {
        /// Its name.
        name: String,
    },
    /// Make a template of what the guest of an instance that is stopped or paused has changed.
    Commit(Box<CommitWish>),
    /// Keep the disk of an instance as it is, or make it what it was.
    Snapshots {
        /// Its name.
        name: String,
        /// What to do.
        action: SnapshotAction,
    },
    /// Give an instance that is stopped a new root disk from a template.
    Reimage(Box<Reimage>),
    /// Let something fail on purpose for an instance that runs; by itself it is over when its time is.
    Drill {
        /// Its name.
        name: String,
        /// What fails.
        fault: DrillFault,
        /// For how long; at most [`MAX_DRILL_SECONDS`].
        seconds: u64,
    },
    /// What a deployment would bring, and how long it would take.
    Forecast(Box<ForecastWish>),
    /// Make a warm snapshot of a template, in place of the one that it has.
    Warm(Box<WarmWish>),
    /// Bring all of a template to this host.
    Precache(Box<Precache>),
    /// Let the content of a template leave the cache again.
    Unpin {
        /// Its reference as it was given, or its id.
        template: String,
    },
    /// Remove from the cache what no instance and no pin needs.
    PruneCache,
    /// The cache, and what this host has of which template.
    Cache,
    /// What is counted.
    Metrics,
    /// What happened, and what happens.
    Events(EventsWish),
    /// Serve a mount, which the client makes when it is told to.
    Mount(Box<MountWish>),
    /// All mounts.
    Mounts,
    /// A directory was unmounted: forget its mount, which the kernel may still be ending.
    Unmounted {
        /// The directory, with its path from the root.
        directory: PathBuf,
    },
    /// Shut all guests down, as the host is about to be. Those that start by themselves do so after its next boot.
    ShutDown {
        /// How long each may take; then its power is cut.
        timeout_seconds: u64,
    },
    /// End the service. Guests run on; their disks wait for the next service.
    End,
}

impl Request {
    /// Its name in the service's log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Deploy(_) => "deploy",
            Self::Warm(_) => "warm",
            Self::List => "list",
            Self::Inspect { .. } => "inspect",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Pause { .. } => "pause",
            Self::Autostart { .. } => "autostart",
            Self::Resume { .. } => "resume",
            Self::Remove { .. } => "remove",
            Self::Export { .. } => "export",
            Self::Localize { .. } => "localize",
            Self::Commit(_) => "commit",
            Self::Snapshots { .. } => "snapshots",
            Self::Reimage(_) => "reimage",
            Self::Drill { .. } => "drill",
            Self::Forecast(_) => "forecast",
            Self::Precache(_) => "precache",
            Self::Unpin { .. } => "unpin",
            Self::PruneCache => "prune_cache",
            Self::Cache => "cache",
            Self::Metrics => "metrics",
            Self::Events(_) => "events",
            Self::Mount(_) => "mount",
            Self::Mounts => "mounts",
            Self::Unmounted { .. } => "unmounted",
            Self::ShutDown { .. } => "shut_down",
            Self::End => "end",
        }
    }

    /// The machine that it is about.
    pub fn machine(&self) -> Option<&str> {
        match self {
            Self::Deploy(deploy) => Some(&deploy.name),
            Self::Commit(wish) => Some(&wish.name),
            Self::Reimage(wish) => Some(&wish.name),
            Self::Events(wish) => wish.machine.as_deref(),
            Self::Inspect { name }
            | Self::Start { name, .. }
            | Self::Stop { name, .. }
            | Self::Pause { name }
            | Self::Autostart { name, .. }
            | Self::Resume { name }
            | Self::Remove { name }
            | Self::Export { name, .. }
            | Self::Localize { name }
            | Self::Snapshots { name, .. }
            | Self::Drill { name, .. } => Some(name),
            Self::Hello
            | Self::Warm(_)
            | Self::List
            | Self::Forecast(_)
            | Self::Precache(_)
            | Self::Unpin { .. }
            | Self::PruneCache
            | Self::Cache
            | Self::Metrics
            | Self::Mount(_)
            | Self::Mounts
            | Self::Unmounted { .. }
            | Self::ShutDown { .. }
            | Self::End => None,
        }
    }

    /// Whether it changes nothing, so that a log need not tell of it.
    pub fn only_looks(&self) -> bool {
        matches!(
            self,
            Self::Hello
                | Self::List
                | Self::Inspect { .. }
                | Self::Cache
                | Self::Metrics
                | Self::Mounts
                | Self::Events(_)
                | Self::Snapshots {
                    action: SnapshotAction::List,
                    ..
                }
        )
    }
}

/// What fails on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrillFault {
    /// Nothing any more.
    None,
    /// The repository of the instance and its mirrors count as unreachable, also for others that come from there.
    RegistryDown,
    /// Every request to them takes longer.
    SlowLink {
        /// By so much.
        delay_millis: u64,
        /// And by its bytes at this rate.
        bytes_per_second: u64,
    },
    /// What the guest writes has no room.
    DiskFull,
}

/// Longest drill: nobody rehearses for longer, and one that was forgotten is over then.
pub const MAX_DRILL_SECONDS: u64 = 3600;

/// An instance to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Deploy {
    /// Its name, which is also its host name.
    pub name: String,
    /// The template's reference.
    pub reference: String,
    /// The repository that it is in.
    pub repository: Repository,
    /// Who logs in, and how.
    pub login: LoginWish,
    /// Its machine.
    pub machine: MachineWish,
    /// Ports of this host that lead into the guest, besides the one for SSH.
    pub ports: Vec<Forward>,
    /// Seconds that a request of the guest may wait for content until the guest is paused; `None` for never.
    pub pause_after_seconds: Option<u64>,
    /// Whether it starts by itself after a boot of the host.
    pub autostart: Autostart,
    /// How it begins.
    #[serde(default)]
    pub begin: Begin,
    /// What to wait for.
    pub wait: Wait,
}

/// How an instance begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// It boots.
    #[default]
    Boot,
    /// It goes on where the warm snapshot of its template was made, if there is one that fits; else it boots.
    Warm,
}

/// A warm snapshot that is to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WarmWish {
    /// The template's reference.
    pub reference: String,
    /// The repository that it is in, and that the snapshot goes to.
    pub repository: Repository,
    /// The machine that it is made with, without data disks.
    pub machine: MachineWish,
    /// Seconds until the guest must be ready.
    pub limit_seconds: u64,
}

/// A template that is to be made of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitWish {
    /// The instance.
    pub name: String,
    /// The reference that the template gets.
    pub reference: String,
    /// The repository that it goes to: the one that the instance is from.
    pub repository: Repository,
}

/// Whether an instance starts by itself after a boot of the host, if it ran before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Autostart {
    /// It does.
    On,
    /// It does not.
    Off,
}

impl Autostart {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

/// A deployment that is thought about.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ForecastWish {
    /// The template's reference.
    pub reference: String,
    /// The repository that it is in.
    pub repository: Repository,
    /// Its machine.
    pub machine: MachineWish,
}

/// A template that is to be brought to this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Precache {
    /// The template's reference.
    pub reference: String,
    /// The repository that it is in.
    pub repository: Repository,
    /// How long it is to stay.
    pub stay: StayWish,
}

/// How long content is to stay in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StayWish {
    /// Until something that is used more needs its room.
    AsLongAsThereIsRoom,
    /// Until it is unpinned.
    UntilUnpinned,
}

/// A repository: where it is, and what opens it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Repository {
    /// An absolute directory, or the URL of a registry.
    pub address: String,
    /// What is for the registry at this address alone; nothing for a directory.
    pub credentials: Credentials,
    /// Other registries that may have the same chunks, in the order in which they are asked before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
}

/// A registry that may have the same chunks as another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "MirrorForm", into = "MirrorForm")]
pub struct Mirror {
    /// Its URL.
    pub address: String,
    /// What is for this registry alone.
    pub credentials: Credentials,
}

/// As it is written: one without credentials is its URL, as all were once.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum MirrorForm {
    Address(String),
    Whole {
        address: String,
        credentials: Credentials,
    },
}

impl From<MirrorForm> for Mirror {
    fn from(form: MirrorForm) -> Self {
        match form {
            MirrorForm::Address(address) => Self {
                address,
                credentials: Credentials::default(),
            },
            MirrorForm::Whole {
                address,
                credentials,
            } => Self {
                address,
                credentials,
            },
        }
    }
}

impl From<Mirror> for MirrorForm {
    fn from(mirror: Mirror) -> Self {
        let Mirror {
            address,
            credentials,
        } = mirror;
        match credentials.is_empty() {
            true => Self::Address(address),
            false => Self::Whole {
                address,
                credentials,
            },
        }
    }
}

/// Most mirrors of a repository: where none answers, each costs a read its connection time.
pub const MAX_MIRRORS: usize = 8;

/// What a registry is shown, and what it is believed by. It holds no secret, only where one is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The file that holds the token, with its path from the root; read again when the registry refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The fingerprint of its certificate: `sha256:` and 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

impl Credentials {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Who logs in to an instance, and how.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LoginWish {
    /// The user; by default the template's.
    pub user: Option<String>,
    /// Public keys, as lines of `authorized_keys`; without any, the service's own key.
    pub authorized_keys: Vec<String>,
    /// The private key that `ssh` is to use, if it would not find it by itself.
    pub identity_file: Option<PathBuf>,
}

/// The machine of an instance; what is not said comes from the template.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MachineWish {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Processors; two by default.
    pub cpus: Option<u32>,
    /// Bytes of the disk; at least those of the template's.
    pub disk_bytes: Option<u64>,
    /// Bytes of each further disk.
    #[serde(default)]
    pub data_disks: Vec<u64>,
    /// How the processors run.
    pub acceleration: Acceleration,
}

/// How long a start waits, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// What for.
    pub until: Until,
    /// Seconds from the request on, with what is fetched before the machine runs.
    pub limit_seconds: u64,
}

/// What a start waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// The machine runs; the guest may not.
    Started,
    /// The login prompt is on the serial console.
    Login,
}

/// What happens to a guest that does not shut down in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfStuck {
    /// It runs on, and stopping fails.
    Fail,
    /// The power is cut.
    CutPower,
}
