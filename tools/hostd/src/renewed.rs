//! A registry, or a mirror, that is opened again when it refuses: its token may have been replaced in its file.

use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};

use shale_model::{
    BootSet, BootSets, BoxFuture, Catalog, ChunkId, Fetch, Hearing, LayerId, Location, PackId,
    RefName, SeamError, SeamResult, Silence, TemplateId, TemplateIndex, Trouble,
};
use shale_view::NamedFetch;

use crate::api::Repository;
use crate::place::Place;
use crate::source::OpenPlace;

/// Which of the registries of a place.
#[derive(Debug, Clone, Copy)]
enum Part {
    Registry,
    Mirror(usize),
}

/// A registry with a token.
pub(crate) struct Renewed {
    part: Part,
    repository: Repository,
    open: Arc<OpenPlace>,
    place: RwLock<Place>,
}

impl Renewed {
    /// `place`, which `open` opened at `repository`.
    pub(crate) fn new(repository: Repository, open: Arc<OpenPlace>, place: Place) -> Self {
        Self {
            part: Part::Registry,
            repository,
            open,
            place: RwLock::new(place),
        }
    }

    /// Chunks of the mirrors of `place`, which `open` opened at `repository`; those with a token renewed.
    pub(crate) fn mirrors(
        repository: &Repository,
        open: &Arc<OpenPlace>,
        place: &Place,
    ) -> Vec<NamedFetch> {
        let mirrors = place.mirrors().into_iter().zip(&repository.mirrors);
        let renewed = mirrors.enumerate().map(|(number, (named, mirror))| {
            if mirror.credentials.token_file.is_none() {
                return named;
            }
            let renewed = Arc::new(Self {
                part: Part::Mirror(number),
                ..Self::new(repository.clone(), open.clone(), place.clone())
            });
            NamedFetch {
                name: named.name,
                fetch: renewed.clone(),
                hearing: Some(renewed),
            }
        });
        renewed.collect()
    }

    fn fetch_of(&self, place: &Place) -> Arc<dyn Fetch> {
        match self.part {
            Part::Registry => place.fetch(),
            // It has the same mirrors whenever it is opened.
            Part::Mirror(number) => place
                .mirror(number)
                .map_or_else(|| place.fetch(), |named| named.fetch),
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
        match question(self.fetch_of(&self.place())).await {
            Err(error) => question(self.fetch_of(&self.after(error)?)).await,
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

impl Hearing for Renewed {
    fn silence(&self) -> Option<Silence> {
        let place = self.place();
        let hearing = match self.part {
            Part::Registry => place.hearing(),
            Part::Mirror(number) => place.mirror(number).and_then(|named| named.hearing),
        };
        hearing?.silence()
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
