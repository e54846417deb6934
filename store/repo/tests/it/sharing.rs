//! The seams, and several users at once.

use std::sync::Arc;

use shale_files::{DirFiles, LockFiles, MemoryFiles};
use shale_model::{MemoryIndex, Trouble};
use shale_repo::conformance::{Sample, Store, check_store};
use shale_repo::{Access, OpenError, Repository};

use crate::{new_repository, open};

#[test]
fn in_memory_it_does_what_a_store_must() {
    check_store(|| Store::of(&new_repository(Arc::new(MemoryFiles::new()))));
}

#[test]
fn in_a_directory_it_does_what_a_store_must() {
    let dir = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    check_store(|| {
        number.set(number.get() + 1);
        let files = DirFiles::create(&dir.path().join(number.get().to_string()));
        Store::of(&new_repository(Arc::new(files.unwrap())))
    });
}

#[test]
fn two_processes_push_the_same_thing_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let files = || -> Arc<dyn LockFiles> { Arc::new(DirFiles::open(dir.path()).unwrap()) };
    let index = Arc::new(MemoryIndex::new());
    Repository::init(&*files()).unwrap();
    let results = std::thread::scope(|scope| {
        let pushes: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let repository = open(files(), Arc::clone(&index));
                    Sample::new("demo/same", 1).push(&repository.push())
                })
            })
            .collect();
        let done = pushes.into_iter().map(|push| push.join().unwrap());
        done.collect::<Vec<_>>()
    });
    // Both brought everything, and set the name to the same thing.
    for result in results {
        result.unwrap();
    }
    let repository = open(files(), index);
    Sample::new("demo/same", 1).check(&*repository, &*repository);
}

#[test]
fn exclusive_use_excludes_and_says_whom_it_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let files = || -> Arc<dyn LockFiles> { Arc::new(DirFiles::open(dir.path()).unwrap()) };
    Repository::init(&*files()).unwrap();
    let try_open = |access| Repository::open(files(), Arc::new(MemoryIndex::new()), access);
    let reader = try_open(Access::Shared).unwrap();
    let refused = try_open(Access::Exclusive).err().unwrap();
    assert!(matches!(refused, OpenError::InUse(_)));
    let reason = std::error::Error::source(&refused).unwrap().to_string();
    assert!(
        reason.contains(&format!("process {}", std::process::id())),
        "{reason}"
    );
    let rebuild = reader.rebuild_index().err().unwrap();
    assert_eq!(rebuild.trouble, Trouble::Conflict);
    drop(reader);
    let owner = try_open(Access::Exclusive).unwrap();
    assert!(matches!(try_open(Access::Shared), Err(OpenError::InUse(_))));
    owner.rebuild_index().unwrap();
}
