//! The seams between the parts: small traits that engines are handed and shells implement.
//!
//! Each has an in-memory twin and one conformance suite that runs on every implementation:
//!
//! | seam | between | real | twin |
//! |---|---|---|---|
//! | [`Sink`] | a push and where it goes | `shale-repo`, `shale-client` | `shale-repo` over memory |
//! | [`Catalog`], [`Fetch`] | a mount and where it comes from | `shale-repo`, `shale-client` | the same |
//! | [`BootSets`] | a deployment and what earlier boots read | `shale-repo`, `shale-client` | `shale-repo` over memory |
//! | [`ChunkIndex`] | the repository and its chunk index | `shale-index` (RocksDB) | `MemoryIndex` |
//! | [`BlockDevice`] | a face (NBD, FUSE) and the disk it shows | `shale-view` | a byte vector in tests |

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::boot_set::BootSet;
use crate::id::{ChunkId, LayerId, PackId, TemplateId};
use crate::pack::{Codec, PackContents};
use crate::reference::RefName;
use crate::template::TemplateIndex;

/// A future that a seam returns; boxed so that the seam can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What went wrong behind a seam, coarse enough for the caller to decide what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The thing does not exist.
    NotFound,
    /// The caller may not do this.
    Denied,
    /// Somebody else changed or holds it, or it depends on something that is missing.
    Conflict,
    /// No answer now; the same call may succeed later.
    Unavailable,
    /// Bytes do not match their id or checksum.
    Integrity,
    /// The caller's input breaks a rule or a limit.
    Invalid,
    /// No room on the storage behind it.
    NoSpace,
    /// Anything else of the machine: an I/O error, a bug.
    Failed,
}

/// An error from behind a seam: what kind, what was done to what, and the cause.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{action}")]
pub struct SeamError {
    /// What the caller can do about it.
    pub trouble: Trouble,
    /// What failed, on what: `read pack sha256:… at 4096`.
    pub action: String,
    /// The cause below, if there is one.
    #[source]
    pub cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl SeamError {
    /// An error without a deeper cause.
    pub fn new(trouble: Trouble, action: impl Into<String>) -> Self {
        Self {
            trouble,
            action: action.into(),
            cause: None,
        }
    }

    /// An error on top of `cause`.
    pub fn caused(
        trouble: Trouble,
        action: impl Into<String>,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self {
            trouble,
            action: action.into(),
            cause: Some(Arc::new(cause)),
        }
    }
}

/// Results from behind a seam.
pub type SeamResult<T> = Result<T, SeamError>;

/// A source that was asked and has not given anything for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// For how long.
    pub time: Duration,
    /// What the last attempt came to, where it came to something.
    pub failure: Option<String>,
}

/// What is known of a source while its answers are waited for.
pub trait Hearing: Send + Sync {
    /// Since when nothing came of it, if somebody waits for something.
    fn silence(&self) -> Option<Silence>;
}

/// Where a push goes: the local repository, or a registry.
///
/// A sink is one push: ids that it answered as present are kept for that push until it is dropped
/// (I11). Calls block.
pub trait Sink: Send + Sync {
    /// For each id, whether the sink lacks it. At most [`MAX_MISSING_IDS`] ids a call.
    fn missing(&self, ids: &[ChunkId]) -> SeamResult<Vec<bool>>;

    /// Begins one pack; several may be open at once, in different threads.
    fn new_pack(&self) -> SeamResult<Box<dyn PackWriter + '_>>;

    /// Stores a layer root. Every finished pack is durable before the layer is visible, and every
    /// chunk that the layer names is checked to be present.
    fn put_layer(&self, root: &[u8]) -> SeamResult<LayerId>;

    /// Stores a template's canonical JSON; its layers must be present.
    fn put_template(&self, json: &[u8]) -> SeamResult<TemplateId>;

    /// Points `name` at `new` if it now points at `expected` (`None`: does not exist) or at `new` already;
    /// [`Trouble::Conflict`] otherwise.
    fn set_ref(
        &self,
        name: &RefName,
        expected: Option<&TemplateIndex>,
        new: &TemplateIndex,
    ) -> SeamResult<()>;
}

/// Most ids in one call of [`Sink::missing`] and [`Fetch::locate`]: 320 KB on the wire.
pub const MAX_MISSING_IDS: usize = 10_000;

/// One pack on its way into a [`Sink`]. Dropping it unfinished leaves nothing behind.
pub trait PackWriter: Send {
    /// Appends bytes of the pack file.
    fn write(&mut self, bytes: &[u8]) -> SeamResult<()>;

    /// Ends the pack: the sink checks it as a whole against `id` and makes it durable, at the latest
    /// in the next [`Sink::put_layer`]. `contents` is what the footer of these bytes says.
    fn finish(self: Box<Self>, id: PackId, contents: PackContents) -> SeamResult<()>;
}

/// The names and manifests of a repository. Calls block.
pub trait Catalog: Send + Sync {
    /// What `name` points at; `None` if it does not exist.
    fn get_ref(&self, name: &RefName) -> SeamResult<Option<TemplateIndex>>;

    /// All references below `project` (all for an empty one), in order of name.
    fn list_refs(&self, project: &str) -> SeamResult<Vec<(RefName, TemplateIndex)>>;

    /// A template's canonical JSON, checked against its id.
    fn template(&self, id: TemplateId) -> SeamResult<Vec<u8>>;

    /// A layer's root, checked against its id.
    fn layer(&self, id: LayerId) -> SeamResult<Vec<u8>>;
}

/// Where stored chunks are read from. What it returns is *not verified*: the caller hashes.
pub trait Fetch: Send + Sync {
    /// Where each chunk lies; `None` for those that are not there. A hint (I9): it may be outdated by
    /// the time it is used. At most [`MAX_MISSING_IDS`] ids a call.
    fn locate<'a>(&'a self, ids: &'a [ChunkId])
    -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>>;

    /// `len` bytes of a pack from `offset`, at most [`crate::limits::MAX_PACK_BYTES`].
    fn read(&self, pack: PackId, offset: u64, len: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>>;
}

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// The frame in the pack.
    pub frame: FrameLocation,
    /// First byte of the chunk in the frame's plain bytes.
    pub offset: u32,
    /// Plain length of the chunk.
    pub len: u32,
}

/// Where a frame lies in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameLocation {
    /// First byte in the pack.
    pub offset: u64,
    /// Stored bytes.
    pub stored: u32,
    /// Plain bytes.
    pub plain: u32,
    /// How the plain bytes became the stored ones.
    pub codec: Codec,
}

/// The chunk index of a repository: id to [`Location`]. It holds only what pack footers hold, so it
/// can be cleared and rebuilt. Calls block; implementations are safe to share between threads.
pub trait ChunkIndex: Send + Sync {
    /// The location of each id, in the order asked.
    fn get(&self, ids: &[ChunkId]) -> SeamResult<Vec<Option<Location>>>;

    /// Adds all chunks of a pack, atomically and durably. A chunk that is there already keeps one of
    /// its locations. Adding the same pack again changes nothing.
    fn add_pack(&self, pack: PackId, contents: &PackContents) -> SeamResult<()>;

    /// Removes the locations that lie in `pack`.
    fn remove_pack(&self, pack: PackId) -> SeamResult<()>;

    /// The packs that were added and not removed, in no particular order.
    fn packs(&self) -> SeamResult<Vec<PackId>>;

    /// Removes everything.
    fn clear(&self) -> SeamResult<()>;
}

/// What boots of templates read: hosts tell it, and get it back as boot sets.
pub trait BootSets: Send + Sync {
    /// The boot set of a template, or else that of the template that shares most layers with it; `None` if no
    /// such template has one.
    fn boot_set(&self, template: TemplateId) -> BoxFuture<'_, SeamResult<Option<BootSet>>>;

    /// Adds what a boot of `template` read, in order of first use: at most [`crate::MAX_TRACE_CHUNKS`] chunks. Those
    /// that are not the template's are left out.
    fn add_trace<'a>(
        &'a self,
        template: TemplateId,
        chunks: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<()>>;
}

/// A disk that a face shows to a guest.
///
/// Offsets and lengths are bytes and lie inside the disk: the face checks that before it calls. A
/// future that is dropped may or may not have had its effect, like a power cut. Errors are what the
/// guest sees; a slow source is none (I8).
pub trait BlockDevice: Send + Sync {
    /// Bytes of the disk, a multiple of 512; constant.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset`.
    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, DeviceResult<()>>;

    /// Writes `data` at `offset`. Not durable before [`BlockDevice::flush`].
    fn write<'a>(&'a self, offset: u64, data: &'a [u8]) -> BoxFuture<'a, DeviceResult<()>>;

    /// Makes `len` bytes from `offset` read as zeros, giving room back where it can: trim and write
    /// zeroes both.
    fn zero(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<()>>;

    /// Makes every write and zero that was answered before this call durable.
    fn flush(&self) -> BoxFuture<'_, DeviceResult<()>>;

    /// Where there is data and where zeros, from `offset` for at most `len` bytes: adjacent runs that
    /// begin at `offset` and cover at least one byte; an implementation may stop early.
    fn status(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<Vec<BlockRun>>>;
}

/// One run of a [`BlockDevice::status`] answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRun {
    /// Bytes, at least one.
    pub len: u64,
    /// Whether all of them are known to be zeros.
    pub zero: bool,
}

/// Why a disk cannot do what it was asked, as a guest can be told.
#[derive(Debug, Clone)]
pub enum DeviceError {
    /// The disk is offered read-only.
    ReadOnly,
    /// The storage behind it is full.
    NoSpace(String),
    /// Its content has not come in the time that whoever asks gave it, and is still on its way: to be asked for again.
    Late,
    /// What the disk is made of failed; the error of that is the source.
    Below(Arc<dyn std::error::Error + Send + Sync>),
    /// Anything else, with its reason.
    Io(String),
}

impl DeviceError {
    /// The error of what a disk is made of.
    pub fn below(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Below(Arc::new(cause))
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOnly => f.write_str("the disk is read-only"),
            Self::NoSpace(reason) => write!(f, "no space left: {reason}"),
            Self::Late => f.write_str("the content has not come yet"),
            Self::Below(_) => f.write_str("what the disk is made of failed"),
            Self::Io(reason) => f.write_str(reason),
        }
    }
}

// By hand, because the derived one gives the `Arc` as the source, in which nobody finds the error.
impl std::error::Error for DeviceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Below(cause) => Some(&**cause),
            Self::ReadOnly | Self::NoSpace(_) | Self::Late | Self::Io(_) => None,
        }
    }
}

/// An error with its causes, for those who only get a text.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        // A wrapper that adds nothing would say everything twice.
        if !text.ends_with(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}

/// Results of a [`BlockDevice`].
pub type DeviceResult<T> = Result<T, DeviceError>;
