//! Kills, power cuts, full disks and I/O errors at every operation of a push.

use std::sync::Arc;

use shale_files::{Fault, FaultyFiles, FilePath, Files, LockFiles, MemoryFiles};
use shale_model::{Catalog, ChunkIndex, MemoryIndex, Trouble};
use shale_repo::conformance::Sample;
use shale_repo::{Access, Repository};

use crate::open;

/// A repository in memory that holds one acknowledged sample, and can fail.
struct Bench {
    memory: MemoryFiles,
    faulty: FaultyFiles,
    index: Arc<MemoryIndex>,
    old: Sample,
}

impl Bench {
    fn new() -> Self {
        let memory = MemoryFiles::new();
        let faulty = FaultyFiles::new(Arc::new(memory.clone()));
        Repository::init(&faulty).expect("a repository");
        let this = Self {
            memory,
            faulty,
            index: Arc::default(),
            old: Sample::new("demo/old", 1),
        };
        this.old.push(&this.open().push()).expect("a push");
        this
    }

    fn open(&self) -> Arc<Repository> {
        open(Arc::new(self.faulty.clone()), Arc::clone(&self.index))
    }

    /// Operations of a push from opening to acknowledgement.
    fn operations() -> u64 {
        let this = Self::new();
        let before = this.faulty.operations();
        let push = this.open().push();
        Sample::new("demo/new", 2).push(&push).expect("a push");
        this.faulty.operations() - before
    }
}

/// What must hold whenever the repository is opened again on `files`.
fn check_after(files: MemoryFiles, index: Arc<MemoryIndex>, old: &Sample, acknowledged: bool) {
    let opened = Repository::open(Arc::new(files.clone()), index, Access::Shared);
    let repository = Arc::new(opened.expect("it opens after a crash"));
    assert!(
        repository.reconciled().damaged.is_empty(),
        "no half pack is visible"
    );
    let lost = &repository.reconciled().lost;
    assert!(
        lost.is_empty(),
        "the index knew packs that were not durable: {lost:?}"
    );
    old.check(&*repository, &*repository);
    let new = Sample::new("demo/new", 2);
    match repository
        .get_ref(&new.name)
        .expect("no half reference is visible")
    {
        Some(_) => new.check(&*repository, &*repository),
        None => assert!(!acknowledged, "an acknowledged reference is gone"),
    }
    let names = |dir: &str| {
        let listed = files.list(&FilePath::new(dir).expect("a path"));
        listed.expect("a list")
    };
    let sessions = names("tmp");
    assert_eq!(sessions.len(), 1, "only the own session: {sessions:?}");
    let own = names("tmp/0");
    assert_eq!(own.len(), 1, "only its lock: {own:?}");
    if repository.get_ref(&new.name).expect("an answer").is_none() {
        new.push(&repository.push()).expect("the same push again");
        new.check(&*repository, &*repository);
    }
}

#[test]
fn at_every_operation_a_crash_leaves_all_or_nothing() {
    let operations = Bench::operations();
    assert!(operations > 50, "{operations}");
    let (mut acknowledged, mut half_way) = (0, 0);
    for stop in 0..=operations {
        let bench = Bench::new();
        let start = bench.faulty.operations();
        bench.faulty.fail_at(Some((start + stop, Fault::Stopped)));
        let files: Arc<dyn LockFiles> = Arc::new(bench.faulty.clone());
        let index = Arc::clone(&bench.index);
        let opened = Repository::open(files, index, Access::Shared);
        let done = opened.is_ok_and(|repository| {
            let push = Arc::new(repository).push();
            Sample::new("demo/new", 2).push(&push).is_ok()
        });
        acknowledged += u64::from(done);
        let known = bench.index.packs().expect("packs").len();
        half_way += u64::from(known > bench.old.packs.len());
        check_after(
            bench.memory.after_kill(),
            copy_of(&bench.index),
            &bench.old,
            done,
        );
        for seed in 3 * stop..3 * stop + 4 {
            let after = || bench.memory.after_power_cut(seed);
            // The index syncs what it is told; and it may be lost and new.
            check_after(after(), copy_of(&bench.index), &bench.old, done);
            check_after(after(), Arc::default(), &bench.old, done);
        }
    }
    // The stops cover the push from before its first to after its last operation.
    assert_eq!(acknowledged, 1);
    assert!(half_way > 10, "{half_way}");
}

/// The index as it is now: what it was told, it has.
fn copy_of(index: &MemoryIndex) -> Arc<MemoryIndex> {
    let copy = MemoryIndex::new();
    let known = index.packs().expect("packs");
    let samples = [Sample::new("demo/new", 2), Sample::new("demo/old", 1)];
    for pack in samples.iter().flat_map(|sample| &sample.packs) {
        if known.contains(&pack.id) {
            copy.add_pack(pack.id, &pack.contents).expect("a pack");
        }
    }
    Arc::new(copy)
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let operations = Bench::operations();
    let mut full = 0;
    for stop in 0..operations {
        let bench = Bench::new();
        let repository = bench.open();
        bench
            .faulty
            .fail_at(Some((bench.faulty.operations() + stop, Fault::Full)));
        let new = Sample::new("demo/new", 2);
        let result = new.push(&repository.push());
        bench.faulty.fail_at(None);
        let Err(error) = result else {
            continue;
        };
        full += 1;
        assert_eq!(error.trouble, Trouble::NoSpace, "{error}");
        let own = bench.memory.list(&FilePath::new("tmp/0").unwrap()).unwrap();
        assert_eq!(own.len(), 1, "only the session's lock: {own:?}");
        assert_eq!(repository.get_ref(&new.name).unwrap(), None);
        new.push(&repository.push())
            .expect("the same push, with room");
        new.check(&*repository, &*repository);
        bench.old.check(&*repository, &*repository);
    }
    assert!(full > 30, "{full}");
}

#[test]
fn an_io_error_fails_the_push_and_no_later_one() {
    let operations = Bench::operations();
    let mut failed = 0;
    for stop in 0..operations {
        let bench = Bench::new();
        let repository = bench.open();
        bench
            .faulty
            .fail_at(Some((bench.faulty.operations() + stop, Fault::Once)));
        let new = Sample::new("demo/new", 2);
        if new.push(&repository.push()).is_err() {
            failed += 1;
            // The name may be set already: the error was that of its last sync.
            if repository.get_ref(&new.name).unwrap().is_none() {
                new.push(&repository.push()).expect("the same push again");
            }
        }
        new.check(&*repository, &*repository);
        bench.old.check(&*repository, &*repository);
    }
    assert!(failed > 30, "{failed}");
}
