//! The stack between a reader of chunks and the places that have them, put together here and nowhere else:
//!
//! ```text
//! ChunkReader           verifies, coalesces, keeps, waits
//!   Supply              order, breakers, second requests
//!     DrilledFetch      a fault on purpose, in the host service
//!     a mirror          RemoteRegistry, asked once
//!     ...
//!     the registry      what the caller wraps it in: Renewed for its token, Patient to tell of waits
//!       RemoteRegistry  asked once where there are mirrors, else for half a minute
//! ```

use std::sync::Arc;

use shale_model::Fetch;
use shale_view::{NamedFetch, Observer, Supply};

use crate::place::Place;

/// What chunks of `place` are had from: its mirrors, and then `registry`, which is the place's own seam, as it is or
/// wrapped, with the name that people know the place by. Each is put behind what `link` makes of it.
pub fn supply(
    place: &Place,
    (name, registry): (String, Arc<dyn Fetch>),
    observer: Arc<dyn Observer>,
    link: impl Fn(Arc<dyn Fetch>) -> Arc<dyn Fetch>,
) -> Supply {
    let linked = |name, fetch| NamedFetch {
        name,
        fetch: link(fetch),
    };
    let mirrors = place.mirrors().into_iter();
    let mirrors = mirrors.map(|mirror| linked(mirror.name, mirror.fetch));
    let registry = linked(name, registry);
    Supply::new(mirrors.collect(), registry, fastrand::f64, observer)
}
