//! The lazy read engine: a plan, a chunk cache and a source of chunks become a disk.
//!
//! ```text
//! ImpatientDisk (BlockDevice) gives requests up, for hypervisors that pause their guest then
//! Disk (BlockDevice)          what NBD and FUSE show
//!   Overlay                   the guest's writes, on this host
//!   View                      the plan cut into pieces
//!     ChunkReader             cache hit | one flight per missing frame -> verify -> cache
//!       Cache                 chunks on this host's disk, with a hard byte cap
//!       Supply                mirrors and the registry: order, breakers, second requests
//!         Fetch (seam)        the local repository or a registry
//! Filler                      brings boot sets, and the rest of a plan while nobody waits
//! Trace                       notes what a boot reads
//! ```
//! Every byte of a layer was hashed by this process before it leaves (I2): when it was fetched, or
//! at its first use after a start. A source that does not answer makes a read wait, never fail (I8).

mod cache;
mod disk;
mod fill;
mod impatient;
mod observe;
mod ongoing;
mod overlay;
mod plan_file;
mod reader;
mod sample;
mod sources;
mod trace;
mod view;
mod waits;

pub use cache::{Cache, CacheDeeds, CacheError, CacheSettings, CacheUsage, MIN_CAP_BYTES};
pub use disk::Disk;
pub use fill::{BringError, FillRate, FillSettings, FillState, Filler};
pub use impatient::{Failed, ImpatientDisk};
pub use observe::{Checked, Counters, Hedge, Observer, Purpose, Source};
pub use overlay::{BootId, Overlay, OverlayError, UNIT_BYTES};
pub use plan_file::{PlanFile, PlanFileError, open as open_plan};
pub use reader::{BootSetError, ChunkReader, ReadError, RetrySettings};
pub use sample::{Sample, sample, sample_boot_set};
pub use sources::{NamedFetch, SourceReport, SourceState, Supply};
pub use trace::{FirstReads, Trace};
pub use view::View;
pub use waits::{WaitCause, Waiting, Waits};
