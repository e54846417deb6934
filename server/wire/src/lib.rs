//! What travels between a host or a pusher and the registry over HTTP: routes, headers, bodies, error
//! codes and limits. Both sides use this crate, so that they cannot disagree.
//!
//! | body | form |
//! |---|---|
//! | ids asked for, or of a trace | [`encode_ids`]: 32 bytes each |
//! | which of them are missing | [`encode_missing`]: one bit each |
//! | where chunks lie | [`encode_locations`]: a table of packs and a table of chunks |
//! | packs, layer roots, templates, tags | the bytes that are stored |
//! | an error | [`Problem`]: RFC 9457 with a stable [`Code`] |
//! | the rest | JSON of the types here |
//!
//! ```
//! use shale_model::PackId;
//! use shale_wire::route;
//!
//! let pack = PackId::from_bytes([0xab; 32]);
//! assert!(route::pack(pack).starts_with("/api/v1/packs/sha256:abab"));
//! ```

pub mod limits;
pub mod route;

mod answer;
mod fingerprint;
mod host_name;
mod ids;
mod location;
mod problem;
mod push_id;
mod refs;

pub use answer::{BootSetInfo, PushOpened, VersionInfo};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use host_name::names_this_machine;
pub use ids::{decode_ids, decode_missing, decode_trace, encode_ids, encode_missing};
pub use location::{decode_locations, encode_locations};
pub use problem::{Code, PROBLEM_MEDIA_TYPE, Problem};
pub use push_id::{PUSH_ID_BYTES, PushId, PushIdError};
pub use refs::{RefEntry, RefPage, RefQuery, ref_etag};

/// Media type of every binary body.
pub const BINARY_MEDIA_TYPE: &str = "application/octet-stream";

/// Media type of metrics: OpenMetrics, which Prometheus reads.
pub const METRICS_MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Header with the request's id, in every answer, to be quoted in reports and found in logs.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// `Cache-Control` of what is named by its content and is everybody's: any cache may keep it for a year, the
/// longest that caches honour, and need not ask again (I10).
pub const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// The same for what was read with a token. A cache that many share would give it to those who have none; that
/// of one reader may keep it (RFC 9111, 3.5 and 5.2.2.7).
pub const IMMUTABLE_PRIVATE: &str = "private, max-age=31536000, immutable";
