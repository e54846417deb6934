//! Several sources of the same chunks: mirrors that lack, lie, or are gone.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use shale_files::MemoryFiles;
use shale_model::*;
use shale_repo::conformance::{Store, check_store};
use shale_repo::{Access, Repository};
use shale_view::*;
use tokio::time::Instant;

use crate::source::{Fixture, MemorySource, chunk, read_all};

fn chunks() -> Vec<Vec<u8>> {
    (0..40).map(chunk).collect()
}

/// One that has all that the fixture's source has, in the same pack.
fn mirror() -> Arc<MemorySource> {
    Arc::new(MemorySource::new(&chunks()))
}

/// One that has all of it, packed otherwise.
fn packed_otherwise() -> Arc<MemorySource> {
    let pack = PackId::from_bytes([3; 32]);
    Arc::new(MemorySource::packed(&chunks(), 2, pack))
}

fn reads(source: &MemorySource) -> u32 {
    source.reads.load(SeqCst)
}

async fn all_of(view: &Arc<View>) -> Vec<u8> {
    read_all(&Disk::read_only(view.clone())).await
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_the_registry_last() {
    let fixture = Fixture::new();
    let (first, second) = (mirror(), mirror());
    let view = fixture.mirrored(&[&first, &second]);
    assert!(all_of(&view).await == fixture.disk);
    assert_eq!((reads(&first), reads(&second)), (10, 0));
    assert_eq!(reads(&fixture.source), 0);
    assert_eq!(fixture.source.locates.load(SeqCst), 0);
    let report = view.reader().supply().report();
    let names: Vec<_> = report.iter().map(|source| &*source.name).collect();
    assert_eq!(names, ["first", "second", "registry"]);
    assert_eq!(report[0].bytes, fixture.source.stored_bytes());
    // And one question where they lie.
    assert_eq!((report[0].requests, report[1].requests), (11, 0));
}

#[tokio::test]
async fn what_a_mirror_lacks_comes_from_the_next_and_it_is_not_asked_for_a_pack_twice() {
    let fixture = Fixture::new();
    // Half of the chunks, in another pack.
    let half = MemorySource::packed(&chunks()[..20], 4, PackId::from_bytes([3; 32]));
    let half = Arc::new(half);
    let view = fixture.mirrored(&[&half]);
    assert!(all_of(&view).await == fixture.disk);
    assert_eq!(reads(&half), 5 + 1, "its own, and one that it lacks");
    assert_eq!(reads(&fixture.source), 5);
    assert_eq!(fixture.counters.retries(), 0, "to lack is no failure");
}

#[tokio::test]
async fn a_mirror_that_is_gone_is_left_alone_and_nobody_waits() {
    let fixture = Fixture::new();
    let gone = mirror();
    gone.faults.away.store(true, SeqCst);
    let view = fixture.mirrored(&[&gone]);
    assert!(all_of(&view).await == fixture.disk);
    assert_eq!(fixture.counters.retries(), 0);
    assert_eq!(gone.locates.load(SeqCst), 1);
    let [mirror, _] = &view.reader().supply().report()[..] else {
        panic!("two sources");
    };
    assert!(
        matches!(mirror.state, SourceState::LeftAlone(_)),
        "{mirror:?}"
    );
    let asked = reads(&gone);
    let wanted = [(ChunkId::of(&chunk(3)), chunk(3).len() as u32)];
    let reader = fixture.reader_of(view.reader().supply().clone(), Arc::new(MemoryFiles::new()));
    reader.chunks(&wanted).await.unwrap();
    assert_eq!(reads(&gone), asked, "it is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_returns_is_asked_again() {
    let fixture = Fixture::new();
    let (away, files) = (mirror(), || Arc::new(MemoryFiles::new()));
    away.faults.away.store(true, SeqCst);
    let view = fixture.mirrored(&[&away]);
    assert!(all_of(&view).await == fixture.disk);
    away.faults.away.store(false, SeqCst);
    tokio::time::sleep(Duration::from_secs(31)).await;
    let asked = (reads(&away), reads(&fixture.source));
    let reader = fixture.reader_of(view.reader().supply().clone(), files());
    let wanted: Vec<_> = chunks()
        .iter()
        .map(|chunk| (ChunkId::of(chunk), chunk.len() as u32))
        .collect();
    assert_eq!(reader.chunks(&wanted).await.unwrap(), chunks());
    assert_eq!(reads(&away), asked.0 + 10);
    assert_eq!(reads(&fixture.source), asked.1);
}

#[tokio::test]
async fn what_a_mirror_sends_wrong_comes_from_another_source() {
    for wrong in [true, false] {
        let fixture = Fixture::new();
        let liar = mirror();
        let fault = match wrong {
            true => &liar.faults.wrong,
            false => &liar.faults.short,
        };
        fault.store(u32::MAX, SeqCst);
        let view = fixture.mirrored(&[&liar]);
        assert!(all_of(&view).await == fixture.disk);
        assert_eq!(reads(&fixture.source), 10);
        assert_eq!(fixture.counters.retries(), 0, "nobody waited");
        // After three lies it is believed no more for a while.
        assert!(view.reader().supply().report()[0].failures >= 3);
    }
}

#[tokio::test]
async fn wrong_bytes_are_an_error_only_when_every_source_sends_them() {
    let fixture = Fixture::new();
    let liar = mirror();
    liar.faults.wrong.store(u32::MAX, SeqCst);
    fixture.source.faults.wrong.store(u32::MAX, SeqCst);
    let view = fixture.mirrored(&[&liar]);
    let mut bytes = vec![0xaa; fixture.disk.len()];
    let error = view.read(0, &mut bytes).await.unwrap_err();
    assert!(with_causes(&error).contains("6 times"), "{error:?}");

    let fixture = Fixture::new();
    let liar = mirror();
    liar.faults.wrong.store(u32::MAX, SeqCst);
    fixture.source.faults.away.store(true, SeqCst);
    let view = fixture.mirrored(&[&liar]);
    let reading = tokio::spawn(async move { all_of(&view).await });
    while fixture.counters.retries() < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!reading.is_finished(), "the registry may have it right");
    fixture.source.faults.away.store(false, SeqCst);
    assert!(reading.await.unwrap() == fixture.disk);
}

#[tokio::test]
async fn a_mirror_with_packs_of_its_own_may_go_at_any_time() {
    let fixture = Fixture::new();
    let own = packed_otherwise();
    let view = fixture.mirrored(&[&own]);
    let half = fixture.disk.len() / 2;
    let mut bytes = vec![0; half];
    view.read(0, &mut bytes).await.unwrap();
    assert!(bytes == fixture.disk[..half]);
    assert_eq!(reads(&fixture.source), 0);
    own.faults.away.store(true, SeqCst);
    assert!(all_of(&view).await == fixture.disk);
    // Where the rest lies was asked of the registry once, for all of it.
    assert!(fixture.source.locates.load(SeqCst) <= 2);
}

#[tokio::test]
async fn a_mirror_that_is_wrong_about_where_chunks_lie_is_asked_no_more_for_them() {
    let fixture = Fixture::new();
    // It says of every chunk that it lies in the registry's pack, where it does not.
    let mut liar = MemorySource::packed(&chunks(), 3, PackId::from_bytes([7; 32]));
    liar.id = PackId::from_bytes([8; 32]);
    let liar = Arc::new(liar);
    let view = fixture.mirrored(&[&liar]);
    assert!(all_of(&view).await == fixture.disk);
}

#[tokio::test]
async fn what_a_mirror_says_wrongly_of_one_chunk_costs_the_others_nothing() {
    let fixture = Fixture::new();
    let chunks = chunks();
    // Of one chunk it says that it lies where another one does.
    let mut liar = MemorySource::new(&chunks);
    liar.lie(&chunks[30], &chunks[1]);
    let view = fixture.mirrored(&[&Arc::new(liar)]);
    let wanted: Vec<_> = chunks
        .iter()
        .map(|chunk| (ChunkId::of(chunk), chunk.len() as u32))
        .collect();
    let reader = view.reader();
    // All locations are asked for at once, so the lie is known when the frame of the others comes.
    assert_eq!(reader.chunks(&wanted).await.unwrap(), chunks);
}

#[tokio::test(start_paused = true)]
async fn one_chunk_that_nobody_has_now_holds_up_nobody_else() {
    let fixture = Fixture::new();
    fixture.source.faults.away.store(true, SeqCst);
    let chunks = chunks();
    // The mirror lacks one chunk, and the registry, which has it, is away.
    let mut most = MemorySource::new(&chunks);
    most.lose(&chunks[0]);
    let view = fixture.mirrored(&[&Arc::new(most)]);
    let reader = view.reader();
    let of = |n: usize| ChunkId::of(&chunks[n]);
    let (first, lacking) = (reader.clone(), of(0));
    let waits = tokio::spawn(async move { first.chunk(lacking, Vec::new).await });
    while fixture.counters.retries() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    for n in [1, 20, 39] {
        assert!(reader.chunk(of(n), Vec::new).await.unwrap() == chunks[n]);
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(!waits.is_finished());
    fixture.source.faults.away.store(false, SeqCst);
    assert!(waits.await.unwrap().unwrap() == chunks[0]);
}

/// A source that answers where chunks lie, and never sends one.
struct Hangs(Arc<MemorySource>);

impl Fetch for Hangs {
    fn locate<'a>(
        &'a self,
        ids: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
        self.0.locate(ids)
    }

    fn read(&self, _: PackId, _: u64, _: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_fill_goes_on_beside_a_mirror_that_hangs() {
    let fixture = Fixture::new();
    let view = fixture.supplied(vec![NamedFetch {
        name: "hangs".into(),
        fetch: Arc::new(Hangs(mirror())),
        hearing: None,
    }]);
    let filler = Filler::new(FillSettings::at(FillRate::Unlimited));
    let state = tokio::sync::watch::Sender::new(FillState::Off);
    let begun = Instant::now();
    filler.fill(&view, &state).await;
    assert_eq!(*state.borrow(), FillState::Whole);
    // In virtual time: a few requests of it are waited for.
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn a_fill_brings_what_only_some_sources_have() {
    let fixture = Fixture::new();
    let half = MemorySource::packed(&chunks()[..20], 4, PackId::from_bytes([3; 32]));
    let half = Arc::new(half);
    let view = fixture.mirrored(&[&half]);
    let filler = Filler::new(FillSettings::at(FillRate::Unlimited));
    let state = tokio::sync::watch::Sender::new(FillState::Off);
    filler.fill(&view, &state).await;
    assert_eq!(*state.borrow(), FillState::Whole);
    let (from_half, from_all) = (reads(&half), reads(&fixture.source));
    assert!(all_of(&view).await == fixture.disk);
    assert_eq!(
        (reads(&half), reads(&fixture.source)),
        (from_half, from_all)
    );
}

/// A source that is never there.
struct Nobody;

impl Fetch for Nobody {
    fn locate<'a>(&'a self, _: &'a [ChunkId]) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
        Box::pin(async { Err(SeamError::new(Trouble::Unavailable, "nobody is there")) })
    }

    fn read(&self, _: PackId, _: u64, _: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
        Box::pin(async { Err(SeamError::new(Trouble::Unavailable, "nobody is there")) })
    }
}

#[test]
fn sources_together_do_what_a_repository_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let new_repository = || {
        let files = Arc::new(MemoryFiles::new());
        Repository::init(&*files).unwrap();
        let index = Arc::new(MemoryIndex::new());
        Arc::new(Repository::open(files, index, Access::Shared).unwrap())
    };
    let source = |fetch: Arc<dyn Fetch>| NamedFetch {
        name: "source".into(),
        fetch,
        hearing: None,
    };
    for kind in ["alone", "beside one that has nothing", "beside itself"] {
        check_store(|| {
            let repository = new_repository();
            let mirrors = match kind {
                "alone" => vec![],
                "beside itself" => vec![source(repository.clone())],
                _ => vec![source(new_repository())],
            };
            let registry = source(repository.clone());
            let supply = Supply::new(mirrors, registry, || 0.5, Arc::new(Counters::default()));
            store(&repository, supply)
        });
    }
    // One that is gone cannot say that it has nothing, but is in the way of nothing that there is.
    let repository = new_repository();
    let supply = Supply::new(
        vec![source(Arc::new(Nobody))],
        source(repository.clone()),
        || 0.5,
        Arc::new(Counters::default()),
    );
    let store = store(&repository, supply);
    let sample = shale_repo::conformance::Sample::new("demo/one", 1);
    sample.push(&*store.sink).unwrap();
    sample.check(&*store.catalog, &*store.fetch);
}

/// A repository whose chunks come from `supply`.
fn store(repository: &Arc<Repository>, supply: Supply) -> Store {
    Store {
        fetch: Box::new(supply),
        ..Store::of(repository)
    }
}
