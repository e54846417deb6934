//! What all handlers share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use shale_repo::Repository;

use crate::account::RequestIds;
use crate::metrics::Metrics;
use crate::pushes::Pushes;
use crate::random::NoRandomness;
use crate::settings::Settings;
use crate::work::Work;

/// The registry behind its routes.
pub(crate) struct Shared {
    pub(crate) repository: Arc<Repository>,
    pub(crate) pushes: Arc<Pushes>,
    pub(crate) work: Work,
    pub(crate) metrics: Metrics,
    pub(crate) request_ids: RequestIds,
    pub(crate) settings: Settings,
    /// Set when the server stops: no longer ready for new work.
    pub(crate) stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        repository: Arc<Repository>,
        settings: Settings,
    ) -> Result<Self, NoRandomness> {
        let (clock, limits) = (Arc::clone(&settings.clock), settings.limits.clone());
        Ok(Self {
            repository,
            work: Work::new(&limits),
            pushes: Arc::new(Pushes::new(clock, limits.work)),
            metrics: Metrics::new(),
            request_ids: RequestIds::new()?,
            settings,
            stopping: AtomicBool::new(false),
        })
    }
}
