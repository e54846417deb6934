//! Every limit of the server, with its reason.

/// Longest data of one read, write or cache request, and the maximum block size that clients are told:
/// 32 MiB, what the protocol document recommends and QEMU and libnbd keep to.
pub const MAX_PAYLOAD_BYTES: u32 = 32 * 1024 * 1024;

/// Smallest length and alignment of a request: none, so that a client never reads to modify to write.
pub const MIN_BLOCK_BYTES: u32 = 1;

/// The length and alignment that is served best: a block of the view's overlay.
pub const PREFERRED_BLOCK_BYTES: u32 = 4096;

/// Most requests of one connection between admission and their last reply byte: the queue depth of the
/// Linux client, twice that of nbdcopy.
pub const MAX_REQUESTS_IN_FLIGHT: usize = 128;

/// Most bytes of request buffers of one connection: two of the largest requests, so that one can be
/// received while another is sent.
pub const MAX_BYTES_IN_FLIGHT: usize = 2 * crate::pool::MAX_BUFFER_BYTES;

/// Replies that wait for the socket before further requests are begun: enough for few large system
/// calls, little enough to stay in the processor's cache.
pub const MAX_UNSENT_BYTES: usize = 256 * 1024;

/// Buffers that a connection keeps for its next requests. Small, as an idle guest keeps them too.
pub const MAX_POOLED_BYTES: usize = 4 * 1024 * 1024;

/// What is read from the socket at once, apart from the rest of a large write's data.
pub const INPUT_BYTES: usize = 64 * 1024;

/// Longest string of the protocol, by its document.
pub const MAX_STRING_BYTES: usize = 4096;

/// Longest data of one option: an export name and some queries.
pub const MAX_OPTION_BYTES: u32 = 16 * 1024;

/// Most options in one handshake: enough to ask three times about each of 1,000 exports.
pub const MAX_OPTIONS: usize = 4096;

/// Most runs in one block status reply, 32 KiB of them. Clients ask again from where a reply ends.
pub const MAX_STATUS_RUNS: usize = 4096;

/// Longest text of an error reply; the cause is at the front.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// What one step of a cache request or of writing real zeros holds in memory.
pub const STEP_BYTES: usize = 256 * 1024;

/// Largest disk that clients can address: libnbd and QEMU count in signed 64-bit integers.
pub const MAX_DISK_BYTES: u64 = i64::MAX as u64;
