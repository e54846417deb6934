//! Uploads of packs in the background, a few at once.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use http::Method;
use shale_model::{PackId, SeamError, SeamResult, Trouble};
use shale_wire::{PushId, route};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::call::{Call, CallBody};
use crate::remote::RemoteRegistry;

/// Packs uploaded at once, and so the most that wait in files besides those being written. Four fill a
/// link while the registry checks others.
const MAX_UPLOADS: u32 = 4;

/// The uploads of one push. Dropping it ends them.
pub(crate) struct Uploads {
    registry: RemoteRegistry,
    push: PushId,
    places: Arc<Semaphore>,
    tasks: Mutex<JoinSet<()>>,
    /// The first that failed since it was last asked for.
    failed: Arc<Mutex<Option<SeamError>>>,
}

impl Uploads {
    pub(crate) fn new(registry: RemoteRegistry, push: PushId) -> Self {
        Self {
            registry,
            push,
            places: Arc::new(Semaphore::new(MAX_UPLOADS as usize)),
            tasks: Mutex::default(),
            failed: Arc::default(),
        }
    }

    /// Begins to upload the first `len` bytes of `file` as pack `id`, when there is a place. Blocks until
    /// then. What goes wrong is told by the next call of any of these.
    pub(crate) fn begin(&self, file: File, len: u64, id: PackId) -> SeamResult<()> {
        let place = self.registry.wait(Arc::clone(&self.places).acquire_owned());
        let place = place.map_err(closed)?;
        self.check()?;
        let body = CallBody::File {
            file: Arc::new(file),
            len,
        };
        let path = route::push_pack(self.push, id);
        let call = Call::new(Method::PUT, path, format!("upload pack {id}"));
        let call = call.body(body).large();
        let (registry, failed) = (self.registry.clone(), Arc::clone(&self.failed));
        let upload = async move {
            let _place = place;
            if let Err(error) = registry.transport().answer(&call).await {
                lock(&failed).get_or_insert(error);
            }
        };
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(upload, self.registry.runtime());
        Ok(())
    }

    /// Waits until all have ended.
    pub(crate) fn finish(&self) -> SeamResult<()> {
        let all = Arc::clone(&self.places).acquire_many_owned(MAX_UPLOADS);
        drop(self.registry.wait(all).map_err(closed)?);
        self.check()
    }

    /// Tells what went wrong, once.
    pub(crate) fn check(&self) -> SeamResult<()> {
        match lock(&self.failed).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Nobody closes the semaphore while the push lives.
fn closed(error: impl std::error::Error + Send + Sync + 'static) -> SeamError {
    SeamError::caused(Trouble::Failed, "wait for uploads", error)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
