//! The repository as a whole: on both kinds of storage, when the machine fails, when bytes are bad.

mod crash;
mod damage;
mod sharing;

use std::sync::Arc;

use shale_files::LockFiles;
use shale_model::{BootSet, BootSets, BoxFuture, Catalog, ChunkId, Fetch, LayerId, Location};
use shale_model::{MemoryIndex, PackId, RefName, SeamResult, TemplateId, TemplateIndex};
use shale_repo::conformance::Store;
use shale_repo::{Access, Repository};

/// A new repository with an empty index.
fn new_repository(files: Arc<dyn LockFiles>) -> Arc<Repository> {
    Repository::init(&*files).expect("a new repository");
    open(files, Arc::default())
}

fn open(files: Arc<dyn LockFiles>, index: Arc<MemoryIndex>) -> Arc<Repository> {
    let opened = Repository::open(files, index, Access::Shared);
    Arc::new(opened.expect("an open repository"))
}

/// The repository as the conformance suite wants it, with what must live as long.
fn store_of(repository: &Arc<Repository>) -> Store {
    Store {
        sink: Box::new(repository.push()),
        catalog: Box::new(Shared(Arc::clone(repository))),
        fetch: Box::new(Shared(Arc::clone(repository))),
        boots: Box::new(Shared(Arc::clone(repository))),
    }
}

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
