//! The stack between a reader of chunks and the places that have them, put together here and nowhere else:
//!
//! ```text
//! ChunkReader           verifies, coalesces, keeps, waits
//!   Supply              order, breakers, second requests
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
/// wrapped. `name` is what people know the place by.
pub fn supply(
    place: &Place,
    name: String,
    registry: Arc<dyn Fetch>,
    observer: Arc<dyn Observer>,
) -> Supply {
    let registry = NamedFetch {
        name,
        fetch: registry,
    };
    Supply::new(place.mirrors(), registry, fastrand::f64, observer)
}
