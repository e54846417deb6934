//! What the command line and the host service say to each other.
//!
//! A client connects to the service's unix socket, which is its user's and root's alone, and sends one
//! line of JSON: a [`Call`]. The service answers with lines of JSON, each an [`Answer`]: any number of
//! stages, then one result or one failure, and closes. A client that leaves early does not end what it
//! asked for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shale_hvplug::{Acceleration, Forward};
use shale_ingest::Pushed;
use shale_model::{LayerId, PlanId, Reference, TemplateId, Trouble};

mod disks;

pub use disks::{DataDisk, Reimage, ReimageNote, Snapshot, SnapshotAction};

/// Version of everything in this file. Client and service are the same program, but a service may have
/// been started by an older one.
pub const API_VERSION: u32 = 6;

/// Longest line that the service takes: some hundred authorized keys.
pub const MAX_CALL_BYTES: u64 = 1 << 20;

/// The one line of a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// [`API_VERSION`] of the client.
    pub version: u32,
    /// What it wants.
    pub request: Request,
}

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
    /// End the service. Guests run on; their disks wait for the next service.
    End,
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
    /// What to wait for.
    pub wait: Wait,
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
    /// How the processors would run.
    pub acceleration: Acceleration,
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
    /// URLs of other registries that may have the same chunks, in the order in which they are asked before this one.
    /// They are shown no token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
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

/// One line of the service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A part of the work begins, or has to wait.
    Stage(StageReport),
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
    /// Kernel and initial RAM disk are read from its disk.
    Kernel,
    /// The hypervisor starts.
    Machine,
    /// The guest boots.
    Boot,
    /// The guest shuts down.
    ShutDown,
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
    /// A disk was written to a file.
    Exported {
        /// Bytes of the disk.
        disk_bytes: u64,
        /// Bytes of these that are no zeros, which the file holds.
        written_bytes: u64,
    },
    /// A template was made.
    Committed(Box<NewTemplate>),
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

/// A template whose topmost layer was pushed. Its JSON is a stable interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewTemplate {
    /// Its reference.
    pub reference: String,
    /// The template.
    pub template: TemplateId,
    /// The layer.
    pub layer: LayerId,
    /// Entries of the layer.
    pub entries: u64,
    /// Bytes of its files, holes among them.
    pub logical_bytes: u64,
    /// Chunks of its files.
    pub chunks: u64,
    /// Chunks, pages of the layer among them, that the repository lacked.
    pub sent_chunks: u64,
    /// Their plain bytes.
    pub sent_chunk_bytes: u64,
    /// Bytes of the packs that hold them.
    pub pack_bytes: u64,
    /// These packs.
    pub packs: u64,
}

impl NewTemplate {
    /// What a push made.
    pub fn new(reference: &Reference, template: TemplateId, pushed: &Pushed) -> Self {
        let (totals, stats) = (pushed.root.totals, pushed.stats);
        Self {
            reference: reference.name.to_string(),
            template,
            layer: pushed.layer,
            entries: totals.entries,
            logical_bytes: totals.bytes,
            chunks: totals.chunks,
            sent_chunks: stats.sent_chunks,
            sent_chunk_bytes: stats.sent_chunk_bytes,
            pack_bytes: stats.pack_bytes,
            packs: stats.packs,
        }
    }
}

/// What a deployment would bring, and how long it would take. Its JSON is a stable interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Forecast {
    /// The reference as it was given.
    pub reference: String,
    /// The template.
    pub template: TemplateId,
    /// The plan of its disk.
    pub plan: PlanId,
    /// Where what is not here comes from: a directory or a URL.
    pub source: String,
    /// Bytes of the template's content.
    pub content_bytes: u64,
    /// Bytes of these that this host has.
    pub local_bytes: u64,
    /// What a boot reads; `None` if nobody knows.
    pub boot: Option<BootForecast>,
    /// How fast the source sends; `None` if there was too little to bring.
    pub bytes_per_second: Option<f64>,
    /// When its login prompt would come; `None` if no machine of this host tells.
    pub ready: Option<ReadyForecast>,
}

/// What a boot of a template reads, as other boots showed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BootForecast {
    /// The template of those boots: this one, or the nearest that has any.
    pub template: TemplateId,
    /// Bytes of its boot set, as they are sent.
    pub stored_bytes: u64,
    /// Bytes of these that were not on this host.
    pub missing_bytes: u64,
}

/// When a login prompt would come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadyForecast {
    /// The machine of this host that tells.
    pub machine: String,
    /// Whether it is of the same template.
    pub is_same_template: bool,
    /// Seconds that its last start took, without those in which reads waited.
    pub machine_seconds: f64,
    /// Seconds from the command on, as if nothing of the boot set came while the guest boots; `None` if it is not known
    /// what a boot reads.
    pub seconds: Option<f64>,
}

/// The chunk cache of a host, and what is in it. Its JSON is a stable interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CacheShown {
    /// Most bytes of all its files together.
    pub cap_bytes: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Bytes of those that do not leave, because something in them is pinned.
    pub pinned_bytes: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Bytes of the plans, which are no part of the cache.
    pub plan_bytes: u64,
    /// The templates that this host has plans of, in order of their ids.
    pub templates: Vec<CachedTemplate>,
}

/// What a host has of a template. Its JSON is a stable interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CachedTemplate {
    /// The template.
    pub template: TemplateId,
    /// The plan of its disk.
    pub plan: PlanId,
    /// The references that machines and pins of this host know it by.
    pub references: Vec<String>,
    /// Bytes of its content.
    pub content_bytes: u64,
    /// Bytes of these that are in the cache.
    pub local_bytes: u64,
    /// Whether they stay there.
    pub pinned: bool,
    /// The machines of this host that are made from it.
    pub machines: Vec<String>,
    /// Why the plan of what is pinned cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What came of pruning the cache.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct CachePrune {
    /// Bytes of files that were removed.
    pub freed_bytes: u64,
}

/// An instance whose record cannot be read. It can be removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Damaged {
    /// Its name.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

/// How long an instance took to its login prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LoginTime {
    /// Seconds since the request.
    pub seconds: f64,
    /// Seconds of these in which reads of this host's guests waited for content.
    pub waited_seconds: f64,
    /// Bytes that were fetched in that time because reads waited for them.
    pub fetched_bytes: u64,
    /// Bytes of the boot set that came in that time.
    pub boot_set_bytes: u64,
}

/// An instance as it is shown; its JSON is a stable interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: InstanceState,
    /// Why, where there is a reason: a pause by an error, a damaged record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it starts by itself after a boot of the host, if it ran before.
    pub autostart: bool,
    /// The template's reference at deployment.
    pub reference: String,
    /// The template.
    pub template: TemplateId,
    /// The plan that its disk is made from.
    pub plan: PlanId,
    /// When it was deployed, in seconds since 1970 (UTC).
    pub created: u64,
    /// Its machine.
    pub machine: ShownMachine,
    /// Ports of this host's loopback that lead into the guest, besides the one for SSH.
    pub ports: Vec<Forward>,
    /// How to log in.
    pub ssh: Ssh,
    /// Its disk.
    pub disk: ShownDisk,
    /// Its other disks.
    #[serde(default)]
    pub data_disks: Vec<DataDisk>,
    /// Its serial console: a unix socket while it runs, and a log.
    pub console: Console,
}

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// It is being made.
    Deploying,
    /// It has no machine.
    Stopped,
    /// The guest's processors run.
    Running,
    /// The guest's processors stand still.
    Paused,
    /// The hypervisor is there and does not answer.
    Silent,
}

/// The machine of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShownMachine {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Processors.
    pub cpus: u32,
    /// How they run.
    pub acceleration: Acceleration,
    /// The hypervisor's process, while it runs.
    pub pid: Option<u32>,
}

/// How to log in to an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ssh {
    /// The user.
    pub user: String,
    /// The port of 127.0.0.1 that leads to the guest's SSH server.
    pub port: u16,
    /// The private key to use; `None` for what `ssh` finds by itself.
    pub identity_file: Option<PathBuf>,
    /// A file with the guest's host key, under the name in `host_key_alias`.
    pub known_hosts: PathBuf,
    /// The name under which the host key is known.
    pub host_key_alias: String,
}

/// The disk of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShownDisk {
    /// Bytes that the guest sees.
    pub bytes: u64,
    /// Bytes on this host that the guest wrote, or that make it itself.
    pub written_bytes: u64,
    /// Bytes of the template's content.
    pub content_bytes: u64,
    /// Bytes of these that this host has.
    pub local_bytes: u64,
    /// What it is.
    pub place: ShownPlace,
    /// Whether the machine runs on when something is lost.
    pub survives: Survives,
    /// Whether the rest is on its way.
    pub fill: Fill,
    /// Seconds that reads of this host's guests waited for content since the service started.
    pub waited_seconds: f64,
    /// Why a read waits now.
    pub stall: Option<String>,
    /// Where its content comes from while it runs, in the order in which it is asked for: mirrors, and then the
    /// repository. Machines that come from the same share what is counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<ShownSource>,
    /// Second requests of this host, for what a first one had not brought.
    #[serde(default)]
    pub hedges: Hedges,
}

/// One source of content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownSource {
    /// Its URL, or its directory.
    pub url: String,
    /// Requests that it was sent since the service started.
    pub requests: u64,
    /// Bytes of packs that came from it.
    pub bytes: u64,
    /// Requests that it did not answer, answered wrong, or so late that another source was faster.
    pub failures: u64,
    /// Whether it is asked.
    #[serde(flatten)]
    pub state: ShownSourceState,
}

/// Whether a source is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ShownSourceState {
    /// It is.
    Asked,
    /// It failed several times and is left alone.
    LeftAlone {
        /// For so many milliseconds yet.
        millis: u64,
    },
    /// It failed several times, and the next request finds out whether it is there again.
    Probed,
}

/// Second requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hedges {
    /// Those that were sent.
    pub sent: u64,
    /// Those of them that were faster.
    pub won: u64,
}

/// What the disk of an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShownPlace {
    /// What the guest wrote, over a plan whose content comes when it is read.
    Overlay,
    /// A plain file with all of it.
    File,
}

/// Whether a machine runs on when something is lost that it may need, without waiting for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survives {
    /// The host service: nobody answers its reads and writes until the next one does.
    pub service: bool,
    /// The registry: what is not on this host has to come from there.
    pub registry: bool,
}

/// How the content of an instance comes to this host before its guest asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Fill {
    /// It does not: fills are off, the repository is on this machine, or the instance is stopped.
    Off,
    /// It is on its way.
    Running,
    /// The source failed and is asked again later.
    Waiting {
        /// Why.
        reason: String,
    },
    /// All of it was brought.
    Whole,
    /// The cache has no room for more.
    CacheFull,
    /// The plan cannot be read.
    Damaged {
        /// Why not.
        reason: String,
    },
}

/// The serial console of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Console {
    /// A unix socket that serves one client at a time, while the instance runs.
    pub socket: PathBuf,
    /// What the guest printed; older output is in the file with `.1` behind its name.
    pub log: PathBuf,
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
