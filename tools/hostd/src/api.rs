//! What the command line and the host service say to each other.
//!
//! A client connects to the service's unix socket, which is its user's and root's alone, and sends one
//! line of JSON: a [`Call`]. The service answers with lines of JSON, each an [`Answer`]: any number of
//! stages, then one result or one failure, and closes. A client that leaves early does not end what it
//! asked for, but for a mount, which the client itself makes in the middle. To [`Request::Events`] it answers with lines of
//! what happened in place of stages; who follows them is told until it leaves.

mod answer;
mod content;
mod disks;
mod events;
mod mounts;
mod request;
mod shown;

use serde::{Deserialize, Serialize};

pub use answer::{
    Answer, Brought, Failure, FailureKind, HowEnded, MachineEnd, Outcome, Stage, StageReport,
};
pub use content::{
    BootForecast, CachePrune, CacheShown, CachedTemplate, Forecast, NewTemplate, ReadyForecast,
    WarmForecast,
};
pub use disks::{DataDisk, Reimage, ReimageNote, Snapshot, SnapshotAction};
pub use events::{Caller, Event, EventKind, EventsWish, PreviousService, Told};
pub use mounts::{
    DiskWish, MountPlace, MountShown, MountWish, ShownFace, ShownMountState, ToMount,
};
pub use request::{
    Autostart, Begin, CommitWish, Credentials, Deploy, DrillFault, ForecastWish, IfStuck,
    LoginWish, MAX_DRILL_SECONDS, MAX_MIRRORS, MachineWish, Mirror, Precache, Repository, Request,
    StayWish, Until, Wait, WarmWish,
};
pub use shown::{
    BootSetShare, Console, Damaged, Fill, Hedges, Instance, InstanceState, LoginTime, ShownDisk,
    ShownMachine, ShownPlace, ShownSource, ShownSourceState, ShownStall, ShownStalls, Ssh,
    Survives, WarmStart,
};

/// Version of everything in this module. Client and service are the same program, but a service may have
/// been started by an older one.
pub const API_VERSION: u32 = 9;

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
