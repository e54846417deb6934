//! An open repository as the suite wants it.

use std::sync::Arc;

use shale_model::{
    BootSet, BootSets, BoxFuture, Catalog, ChunkId, Fetch, LayerId, Location, PackId, RefName,
    SeamResult, TemplateId, TemplateIndex,
};

use super::Store;
use crate::Repository;

impl Store {
    /// The seams of a repository. What must live as long as it does, the caller keeps.
    pub fn of(repository: &Arc<Repository>) -> Self {
        Self {
            sink: Box::new(repository.push()),
            catalog: Box::new(Shared(Arc::clone(repository))),
            fetch: Box::new(Shared(Arc::clone(repository))),
            boots: Box::new(Shared(Arc::clone(repository))),
        }
    }
}

/// An open repository, for the seams that want it whole.
struct Shared(Arc<Repository>);

impl BootSets for Shared {
    fn boot_set(&self, template: TemplateId) -> BoxFuture<'_, SeamResult<Option<BootSet>>> {
        self.0.boot_set(template)
    }
    fn add_trace<'a>(
        &'a self,
        template: TemplateId,
        chunks: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<()>> {
        self.0.add_trace(template, chunks)
    }
}

impl Catalog for Shared {
    fn get_ref(&self, name: &RefName) -> SeamResult<Option<TemplateIndex>> {
        self.0.get_ref(name)
    }
    fn list_refs(&self, project: &str) -> SeamResult<Vec<(RefName, TemplateIndex)>> {
        self.0.list_refs(project)
    }
    fn template(&self, id: TemplateId) -> SeamResult<Vec<u8>> {
        self.0.template(id)
    }
    fn layer(&self, id: LayerId) -> SeamResult<Vec<u8>> {
        self.0.layer(id)
    }
}

impl Fetch for Shared {
    fn locate<'a>(
        &'a self,
        ids: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
        self.0.locate(ids)
    }
    fn read(&self, pack: PackId, offset: u64, len: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
        self.0.read(pack, offset, len)
    }
}
