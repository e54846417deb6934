//! Every limit of what is sent over the wire, with its reason. Those of the server's patience are in
//! `shale-registry`.

use shale_model::limits::{MAX_LAYER_ROOT_BYTES, MAX_PACK_BYTES, MAX_TEMPLATE_BYTES};
use shale_model::{ID_LEN, MAX_MISSING_IDS, MAX_TRACE_CHUNKS};

/// Most ids in one request: the seam's limit, about 640 MiB of content at the usual chunk size.
pub const MAX_IDS: usize = MAX_MISSING_IDS;

/// Largest body of ids, in bytes.
pub const MAX_IDS_BODY_BYTES: usize = MAX_IDS * ID_LEN;

/// Largest body of a trace, in bytes.
pub const MAX_TRACE_BODY_BYTES: usize = MAX_TRACE_CHUNKS * ID_LEN;

/// Largest uploaded pack, in bytes: that of the format.
pub const MAX_PACK_BODY_BYTES: u64 = MAX_PACK_BYTES;

/// Largest uploaded layer root, in bytes: that of the format.
pub const MAX_LAYER_BODY_BYTES: usize = MAX_LAYER_ROOT_BYTES;

/// Largest uploaded template or tag, in bytes: that of the format.
pub const MAX_TEMPLATE_BODY_BYTES: usize = MAX_TEMPLATE_BYTES;

/// Ranges that one request may ask of a pack. Several make a multipart answer that caches do not
/// keep (I10), so a request for more is answered with the whole pack, as RFC 9110, 14.2 allows.
pub const MAX_RANGES: usize = 1;

/// References of a page that names no limit.
pub const DEFAULT_REF_PAGE: usize = 100;

/// Most references of one page.
pub const MAX_REF_PAGE: usize = 1000;

/// A page of references ends early with the one that takes it over this many bytes, so that with the
/// largest tag behind it an answer stays below [`MAX_REF_PAGE_BYTES`].
pub const REF_PAGE_BYTES: usize = 1 << 20;

/// Largest page of references, in bytes of JSON.
pub const MAX_REF_PAGE_BYTES: usize = 2 * REF_PAGE_BYTES + MAX_TEMPLATE_BYTES;

/// Largest problem body that a client reads, in bytes. Ours are below 1 KiB; a proxy's error page is
/// cut.
pub const MAX_PROBLEM_BYTES: usize = 16 * 1024;
