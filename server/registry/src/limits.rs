//! Every limit of the server's patience and room, with its reason. Those of what is sent are in
//! `shale-wire`.

use std::time::Duration;

use shale_wire::limits::{MAX_LAYER_BODY_BYTES, MAX_PACK_BODY_BYTES};

/// Connections open at once. A host keeps some tens; each costs at most the buffers below.
pub const MAX_CONNECTIONS: usize = 1024;

/// Largest head of a request, in bytes: request line and headers. Ours are below 1 KiB; proxies add.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Most headers of a request.
pub const MAX_HEADERS: usize = 64;

/// Time for a TLS handshake, for the head of a request, and without any request on a connection that is
/// kept open.
pub const HEADER_TIME: Duration = Duration::from_secs(30);

/// Time without a byte of a request's body.
pub const BODY_IDLE_TIME: Duration = Duration::from_secs(30);

/// Time for the whole body of a request that is not a pack: 16 MiB at 280 KB/s.
pub const BODY_TIME: Duration = Duration::from_secs(60);

/// Time for the whole body of a pack: 1 GiB at 300 KB/s.
pub const PACK_TIME: Duration = Duration::from_secs(3600);

/// Time in which a client takes no byte of an answer.
pub const WRITE_STALL_TIME: Duration = Duration::from_secs(60);

/// Packs received at once. Each holds a thread, as it is hashed while it comes; more only wait for network and
/// disk.
pub const MAX_UPLOADS: usize = 16;

/// Packs verified at once, after all of each has come. The largest has a footer of 200 MiB, and what it says takes
/// as much memory again; with two, a small pack need not wait for a large one.
pub const MAX_VERIFYING: usize = 2;

/// Bytes of layer roots held at once: four of the largest. A pusher sends one at its end, and waits.
pub const MAX_LAYER_BODIES_BYTES: usize = 4 * MAX_LAYER_BODY_BYTES;

/// Bytes held at once of other bodies: ids that are asked for, templates and references. A hundred of the
/// largest questions for ids; the usual ones are a tenth of that.
pub const MAX_SMALL_BODIES_BYTES: usize = 32 * 1024 * 1024;

/// Ids looked up at once, with what is found: some 150 bytes for each. Many questions of the usual size run side by side,
/// and six of the largest.
pub const MAX_LOOK_UP_IDS: usize = 64 * 1024;

/// Traces of boots taken at once: each may pack a boot set again, which takes a processor for a second or two. The others wait
/// without a place for work, so that hosts that boot together hold up no reader.
pub const MAX_BOOT_SETS: usize = 1;

/// Listings made at once: for a page, all references of the project are read into memory.
pub const MAX_LISTINGS: usize = 2;

/// Other blocking work of the repository at once: what a disk's queue can use.
pub const MAX_WORK: usize = 64;

/// Time for which a request waits for its turn at any of the above before it is told to come back; only a pack
/// that has come waits for its verification as long as it takes, because it would have to come again.
pub const WORK_WAIT: Duration = Duration::from_secs(20);

/// Pushes open at once.
pub const MAX_PUSHES: usize = 256;

/// Time without a request after which a push ends. A pusher asks at least once for each 10,000
/// chunks, which take seconds.
pub const PUSH_IDLE_TIME: Duration = Duration::from_secs(600);

/// Bytes of a pack read and sent at once: the memory of one reader. Most frames are that long.
pub const READ_BYTES: usize = 256 * 1024;

/// Pieces of an uploaded pack between network and disk. A piece is at most [`MAX_BUFFER_BYTES`].
pub const UPLOAD_PIECES: usize = 8;

/// Bytes that a connection buffers in each direction.
pub const MAX_BUFFER_BYTES: usize = 128 * 1024;

/// Limits that a test or an operator may change.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Of connections and what comes in on them.
    pub connection: ConnectionLimits,
    /// Of what is done for them.
    pub work: WorkLimits,
    /// Of what is held in memory for them.
    pub memory: MemoryLimits,
}

/// Limits of connections.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// [`MAX_CONNECTIONS`].
    pub connections: usize,
    /// [`HEADER_TIME`].
    pub header_time: Duration,
    /// [`BODY_IDLE_TIME`].
    pub body_idle_time: Duration,
    /// [`BODY_TIME`].
    pub body_time: Duration,
    /// [`PACK_TIME`].
    pub pack_time: Duration,
    /// [`MAX_PACK_BODY_BYTES`].
    pub pack_bytes: u64,
    /// [`WRITE_STALL_TIME`].
    pub write_stall_time: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: MAX_CONNECTIONS,
            header_time: HEADER_TIME,
            body_idle_time: BODY_IDLE_TIME,
            body_time: BODY_TIME,
            pack_time: PACK_TIME,
            pack_bytes: MAX_PACK_BODY_BYTES,
            write_stall_time: WRITE_STALL_TIME,
        }
    }
}

/// Limits of work.
#[derive(Debug, Clone)]
pub struct WorkLimits {
    /// [`MAX_UPLOADS`].
    pub uploads: usize,
    /// [`MAX_WORK`].
    pub work: usize,
    /// [`MAX_BOOT_SETS`].
    pub boot_sets: usize,
    /// [`WORK_WAIT`].
    pub wait: Duration,
    /// [`MAX_PUSHES`].
    pub pushes: usize,
    /// [`PUSH_IDLE_TIME`].
    pub push_idle_time: Duration,
}

impl Default for WorkLimits {
    fn default() -> Self {
        Self {
            uploads: MAX_UPLOADS,
            work: MAX_WORK,
            boot_sets: MAX_BOOT_SETS,
            wait: WORK_WAIT,
            pushes: MAX_PUSHES,
            push_idle_time: PUSH_IDLE_TIME,
        }
    }
}

/// Limits of memory.
#[derive(Debug, Clone)]
pub struct MemoryLimits {
    /// [`MAX_VERIFYING`].
    pub verifying: usize,
    /// [`MAX_LAYER_BODIES_BYTES`].
    pub layer_bodies_bytes: usize,
    /// [`MAX_SMALL_BODIES_BYTES`].
    pub small_bodies_bytes: usize,
    /// [`MAX_LOOK_UP_IDS`].
    pub look_up_ids: usize,
    /// [`MAX_LISTINGS`].
    pub listings: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            verifying: MAX_VERIFYING,
            layer_bodies_bytes: MAX_LAYER_BODIES_BYTES,
            small_bodies_bytes: MAX_SMALL_BODIES_BYTES,
            look_up_ids: MAX_LOOK_UP_IDS,
            listings: MAX_LISTINGS,
        }
    }
}
