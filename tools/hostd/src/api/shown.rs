//! Instances as they are shown.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shale_hvplug::{Acceleration, Forward};
use shale_model::{PlanId, TemplateId};

use super::DataDisk;

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
    /// Whether its user has paused it: then it does not go on by itself, though it may be stalled as well.
    #[serde(default)]
    pub paused_by_user: bool,
    /// Whether it starts by itself after a boot of the host, if it ran before.
    pub autostart: bool,
    /// How it began, where a warm start was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<WarmStart>,
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

/// How an instance began for which a warm start was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmStart {
    /// From a snapshot.
    From {
        /// The template that is the snapshot.
        snapshot: TemplateId,
    },
    /// By a boot.
    Cold {
        /// Why not from a snapshot.
        reason: String,
    },
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
    /// Of what boots of its template read, how much this host has; nothing while that is not known.
    #[serde(default)]
    pub boot_set: Option<BootSetShare>,
    /// Whether the rest is on its way.
    pub fill: Fill,
    /// Seconds until all of its content is here, at the rate of the last half minute; 0 when it is. Nothing where nobody
    /// can say: nothing comes, or it is too early to tell.
    #[serde(default)]
    pub eta_seconds: Option<f64>,
    /// Seconds in which reads of this machine waited for content since this service has its disk.
    pub waited_seconds: f64,
    /// Why a read waits now: what the last fetch from where its content comes said.
    pub stall: Option<String>,
    /// When it was stalled since the service started.
    #[serde(default)]
    pub stalls: ShownStalls,
    /// Where its content comes from while it runs, in the order in which it is asked for: mirrors, and then the
    /// repository. Machines that come from the same share what is counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<ShownSource>,
    /// Second requests of this host, for what a first one had not brought.
    #[serde(default)]
    pub hedges: Hedges,
}

/// How much of a boot set a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSetShare {
    /// Bytes of the chunks that boots read.
    pub bytes: u64,
    /// Bytes of these that are here.
    pub local_bytes: u64,
}

/// The stalls of a machine: a read of it waits for three seconds or more, or it stands still because its disk cannot
/// answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShownStalls {
    /// How many there were.
    pub count: u64,
    /// Seconds of all of them.
    pub seconds: f64,
    /// Seconds by cause: `transfer`, `unavailable`, `denied`, `integrity`, `no_space`, `failed`, `disk_full`,
    /// `disk_failed`.
    pub causes: BTreeMap<String, f64>,
    /// The one of now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<ShownStall>,
}

/// A stall that goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownStall {
    /// Why, as in [`ShownStalls::causes`].
    pub cause: String,
    /// Why, for people.
    pub reason: String,
    /// For how long.
    pub seconds: f64,
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
