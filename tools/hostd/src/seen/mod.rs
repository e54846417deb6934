//! What can be seen of machines while they run, decided from what is looked at every second: whether they are stalled,
//! and when their content will be here. That is pure; `host/looks.rs` looks.

mod arrival;
mod stalls;
mod standstill;

use std::sync::Arc;

use crate::events::Events;
use crate::metrics::Noted;

pub(crate) use arrival::Arrival;
pub(crate) use stalls::{Change, Stall, StallCause, Stalls};
pub(crate) use standstill::{Guest, NO_ANSWER, Sight, Standstill, Wanted};

/// Who is told what happens.
#[derive(Clone)]
pub(crate) struct Witness {
    pub(crate) events: Arc<Events>,
    pub(crate) noted: Arc<Noted>,
}
