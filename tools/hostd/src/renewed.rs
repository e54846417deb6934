//! A registry that is opened again when it refuses: its token may have been replaced in its file.

use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};

use shale_model::{
    BootSet, BootSets, BoxFuture, Catalog, ChunkId, Fetch, LayerId, Location, PackId, RefName,
    SeamError, SeamResult, TemplateId, TemplateIndex, Trouble,
};

use crate::api::Repository;
use crate::place::Place;
use crate::source::OpenPlace;

/// A registry with a token.
pub(crate) struct Renewed {
    repository: Repository,
    open: Arc<OpenPlace>,
    place: RwLock<Place>,
}

impl Renewed {
    /// `place`, which `open` opened at `repository`.
    pub(crate) fn new(repository: Repository, open: Arc<OpenPlace>, place: Place) -> Self {
        Self {
            repository,
            open,
            place: RwLock::new(place),
        }
    }

    fn place(&self) -> Place {
        let place = self.place.read().unwrap_or_else(PoisonError::into_inner);
        place.clone()
    }

    /// The registry with the token that its file holds now; the error back if that is not what is wrong.
    fn after(&self, error: SeamError) -> SeamResult<Place> {
        if error.trouble != Trouble::Denied {
            return Err(error);
        }
        // Without a token that can be read, the registry's refusal says more.
        let Ok(renewed) = (self.open)(&self.repository) else {
            return Err(error);
        };
        let mut place = self.place.write().unwrap_or_else(PoisonError::into_inner);
        *place = renewed.clone();
        Ok(renewed)
    }

    fn ask<T>(&self, question: impl Fn(&dyn Catalog) -> SeamResult<T>) -> SeamResult<T> {
        match question(&*self.place().catalog()) {
            Err(error) => question(&*self.after(error)?.catalog()),
            answer => answer,
        }
    }

    async fn boot_sets<T, F: Future<Output = SeamResult<T>>>(
        &self,
        question: impl Fn(Arc<dyn BootSets>) -> F,
    ) -> SeamResult<T> {
        let ask = |place: Place| place.boot_sets().map(&question);
        let none = || SeamError::new(Trouble::NotFound, "ask for boot sets of a directory");
        match ask(self.place()).ok_or_else(none)?.await {
            Err(error) => ask(self.after(error)?).ok_or_else(none)?.await,
            answer => answer,
        }
    }

    async fn fetch<T, F: Future<Output = SeamResult<T>>>(
        &self,
        question: impl Fn(Arc<dyn Fetch>) -> F,
    ) -> SeamResult<T> {
        match question(self.place().fetch()).await {
            Err(error) => question(self.after(error)?.fetch()).await,
            answer => answer,
        }
    }
}

impl Catalog for Renewed {
    fn get_ref(&self, name: &RefName) -> SeamResult<Option<TemplateIndex>> {
        self.ask(|catalog| catalog.get_ref(name))
    }

    fn list_refs(&self, project: &str) -> SeamResult<Vec<(RefName, TemplateIndex)>> {
        self.ask(|catalog| catalog.list_refs(project))
    }

    fn template(&self, id: TemplateId) -> SeamResult<Vec<u8>> {
        self.ask(|catalog| catalog.template(id))
    }

    fn layer(&self, id: LayerId) -> SeamResult<Vec<u8>> {
        self.ask(|catalog| catalog.layer(id))
    }
}

impl Fetch for Renewed {
    fn locate<'a>(
        &'a self,
        ids: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
        Box::pin(self.fetch(move |fetch| async move { fetch.locate(ids).await }))
    }

    fn read(&self, pack: PackId, offset: u64, len: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
        Box::pin(self.fetch(move |fetch| async move { fetch.read(pack, offset, len).await }))
    }
}

impl BootSets for Renewed {
    fn boot_set(&self, template: TemplateId) -> BoxFuture<'_, SeamResult<Option<BootSet>>> {
        Box::pin(self.boot_sets(move |boots| async move { boots.boot_set(template).await }))
    }

    fn add_trace<'a>(
        &'a self,
        template: TemplateId,
        chunks: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<()>> {
        Box::pin(
            self.boot_sets(move |boots| async move { boots.add_trace(template, chunks).await }),
        )
    }
}
