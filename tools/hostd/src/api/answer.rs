//! What the service answers.

use serde::{Deserialize, Serialize};
use shale_model::Trouble;

use super::{
    CachePrune, CacheShown, CachedTemplate, Damaged, Forecast, Instance, LoginTime, MountShown,
    NewTemplate, ReimageNote, Snapshot, ToMount, Told,
};

/// One line of the service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A part of the work begins, or has to wait.
    Stage(StageReport),
    /// Something happened.
    Told(Told),
    /// All is there for a mount: the client makes it, and sends its open device.
    Mount(ToMount),
    /// It is done. The last line.
    Done(Outcome),
    /// It failed. The last line.
    Failed(Failure),
}

/// How far a request is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// The part that is being done.
    pub stage: Stage,
    /// Seconds since the request came.
    pub seconds: f64,
    /// Why it waits for content, if it does: what the last fetch that failed said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall: Option<String>,
    /// How much of the content is here, where all of it is brought, or how much of a disk is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brought: Option<Brought>,
}

/// How much of a template's content is on this host, or how much of a disk is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brought {
    /// Bytes that are here.
    pub bytes: u64,
    /// Bytes of all of it.
    pub of: u64,
}

/// The parts of long work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The template becomes a plan.
    Compose,
    /// Some of the content is brought, to see how fast it comes.
    Sample,
    /// The disk of the instance is written to a file.
    Export,
    /// What changed on the disk of the instance is pushed.
    Commit,
    /// The disk of the instance is copied.
    Copy,
    /// All content of the template is brought.
    Bring,
    /// The instance gets its identity, on a disk of its size.
    Identity,
    /// It is looked for a warm snapshot that fits.
    FindWarm,
    /// The guest goes on where it was kept, and gets its identity.
    Wake,
    /// The state of the machine, its memory and what its guest wrote are pushed.
    Keep,
    /// Kernel and initial RAM disk are read from its disk.
    Kernel,
    /// The hypervisor starts.
    Machine,
    /// The guest boots.
    Boot,
    /// The guest shuts down.
    ShutDown,
}

/// What became of a machine that was to end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineEnd {
    /// The name of its instance.
    pub name: String,
    /// How.
    #[serde(flatten)]
    pub how: HowEnded,
    /// Seconds that it took.
    pub seconds: f64,
}

/// How a machine ended that was to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", content = "reason", rename_all = "snake_case")]
pub enum HowEnded {
    /// Its guest shut down.
    ShutDown,
    /// Its guest did not in time, and its power was cut.
    PowerCut,
    /// It did not, or nobody knows, for this reason.
    Not(String),
}

/// What came of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There is nothing to say about it.
    Nothing,
    /// The service is there.
    Here {
        /// The number of its process.
        pid: u32,
    },
    /// The service ends.
    Ending {
        /// The number of its process, which is there until it has ended.
        pid: u32,
    },
    /// All guests were shut down that ran, in order of name.
    ShutDown {
        /// How each ended.
        machines: Vec<MachineEnd>,
    },
    /// The instance, as it is now.
    Instance(Box<Instance>),
    /// All instances, in order of name.
    Instances {
        /// Those that there is something to say about.
        instances: Vec<Instance>,
        /// Those whose record cannot be read.
        damaged: Vec<Damaged>,
    },
    /// Something fails on purpose.
    Drilled {
        /// Other instances that run and feel it.
        others: Vec<String>,
    },
    /// What a deployment would take.
    Forecast(Box<Forecast>),
    /// A template was brought.
    Cached(Box<CachedTemplate>),
    /// The cache.
    Cache(Box<CacheShown>),
    /// What is counted, as OpenMetrics text.
    Metrics(String),
    /// A disk was written to a file.
    Exported {
        /// Bytes of the disk.
        disk_bytes: u64,
        /// Bytes of these that are no zeros, which the file holds.
        written_bytes: u64,
    },
    /// A template was made.
    Committed(Box<NewTemplate>),
    /// A warm snapshot was made, which is a template.
    Warmed(Box<NewTemplate>),
    /// An instance got a new root disk.
    Reimaged {
        /// As it is now.
        instance: Box<Instance>,
        /// What is not as it was.
        notes: Vec<ReimageNote>,
    },
    /// A snapshot was made.
    Snapshot(Box<Snapshot>),
    /// All snapshots of an instance, in order of name.
    Snapshots {
        /// Those that there is something to say about.
        snapshots: Vec<Snapshot>,
        /// Those that cannot be read.
        damaged: Vec<Damaged>,
    },
    /// A mount is served.
    Mounted(Box<MountShown>),
    /// All mounts, in order of directory.
    Mounts {
        /// Those that there is something to say about.
        mounts: Vec<MountShown>,
        /// Those whose record cannot be read.
        damaged: Vec<Damaged>,
    },
    /// Something was removed from the cache.
    Pruned(CachePrune),
    /// The instance was started.
    Started {
        /// As it is now.
        instance: Box<Instance>,
        /// When its login prompt came, if that was waited for.
        login: Option<LoginTime>,
    },
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What failed and why.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The request, as the service's log names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// The kinds of failure: as [`Trouble`], on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The thing does not exist.
    NotFound,
    /// The caller may not do this.
    Denied,
    /// It exists already, or is in use.
    Conflict,
    /// No answer in time.
    Unavailable,
    /// Bytes are not what their id says.
    Integrity,
    /// The request breaks a rule or a limit.
    Invalid,
    /// The disk is full.
    NoSpace,
    /// Anything else.
    Failed,
}

impl From<Trouble> for FailureKind {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NotFound => Self::NotFound,
            Trouble::Denied => Self::Denied,
            Trouble::Conflict => Self::Conflict,
            Trouble::Unavailable => Self::Unavailable,
            Trouble::Integrity => Self::Integrity,
            Trouble::Invalid => Self::Invalid,
            Trouble::NoSpace => Self::NoSpace,
            Trouble::Failed => Self::Failed,
        }
    }
}
