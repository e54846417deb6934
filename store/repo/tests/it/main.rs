//! The repository as a whole: on both kinds of storage, when the machine fails, when bytes are bad.

mod crash;
mod damage;
mod sharing;

use std::sync::Arc;

use shale_files::LockFiles;
use shale_model::MemoryIndex;
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
