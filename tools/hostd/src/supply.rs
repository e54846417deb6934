//! The stack between a reader of chunks and the places that have them, put together here and nowhere else:
//!
//! ```text
//! ChunkReader           verifies, coalesces, keeps, waits
//!   Supply              order, breakers, second requests
//!     DrilledFetch      a fault on purpose, in the host service
//!     a mirror          RemoteRegistry, asked once; Renewed around it for its token, in the host service
//!     ...
//!     the registry      what the caller wraps it in: Renewed for its token, Patient to tell of waits
//!       RemoteRegistry  asked once where there are mirrors, else for half a minute
//! ```

use std::sync::Arc;

use shale_model::Fetch;
use shale_view::{NamedFetch, Observer, Supply};

/// What chunks are had from: `mirrors`, and then `registry`, with the names that people know them by. Each is put behind
/// what `link` makes of it.
pub fn supply(
    mirrors: Vec<NamedFetch>,
    registry: NamedFetch,
    observer: Arc<dyn Observer>,
    link: impl Fn(Arc<dyn Fetch>) -> Arc<dyn Fetch>,
) -> Supply {
    let linked = |named: NamedFetch| NamedFetch {
        fetch: link(named.fetch),
        ..named
    };
    let mirrors = mirrors.into_iter().map(linked).collect();
    Supply::new(mirrors, linked(registry), fastrand::f64, observer)
}
