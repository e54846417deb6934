//! Filling the cache while nobody waits.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use shale_files::MemoryFiles;
use shale_model::*;
use shale_view::*;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::source::{Fixture, read_all};

/// Fills from `view` with a filler of its own.
async fn fill(view: &View, rate: FillRate) -> FillState {
    let state = watch::Sender::new(FillState::Off);
    Filler::new(FillSettings::at(rate)).fill(view, &state).await;
    state.borrow().clone()
}

#[tokio::test]
async fn everything_comes_in_few_requests_and_reads_wait_for_nothing() {
    let fixture = Fixture::new();
    let view = fixture.view();
    assert_eq!(fill(&view, FillRate::Unlimited).await, FillState::Whole);
    assert_eq!(
        fixture.source.reads.load(SeqCst),
        1,
        "10 frames, neighbours"
    );
    assert!(read_all(&Disk::read_only(view.clone())).await == fixture.disk);
    assert_eq!(fixture.source.reads.load(SeqCst), 1);
    assert_eq!(fixture.counters.fetched_bytes(), 0);
    assert_eq!(fixture.counters.waited(), Duration::ZERO);
    let brought = fixture.counters.filled_bytes();
    assert!(brought > 0);
    // Again there is nothing to do.
    assert_eq!(fill(&view, FillRate::Unlimited).await, FillState::Whole);
    assert_eq!(fixture.counters.filled_bytes(), brought);
}

#[tokio::test]
async fn a_fill_that_is_off_brings_nothing() {
    let fixture = Fixture::new();
    assert_eq!(fill(&fixture.view(), FillRate::Off).await, FillState::Off);
    assert_eq!(fixture.source.locates.load(SeqCst), 0);
}

#[tokio::test]
async fn reads_come_first_and_share_the_flights_of_a_fill() {
    let gate = Arc::new(Semaphore::new(0));
    let fixture = Fixture::with(|source| source.gate = Some(gate.clone()));
    let view = fixture.view();
    let reads = || fixture.source.reads.load(SeqCst);
    let reading = {
        let view = view.clone();
        // The first file lies behind the synthesised bytes.
        tokio::spawn(async move { view.read(5 * 4096, &mut [0; 4096]).await })
    };
    while reads() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let filling = {
        let view = view.clone();
        tokio::spawn(async move { fill(&view, FillRate::Unlimited).await })
    };
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(reads(), 1, "only the read's own: it is waited for");
    gate.add_permits(1);
    reading.await.unwrap().unwrap();
    while reads() == 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The fill is on its way with all the rest; a reader of that fetches nothing itself.
    let whole = {
        let view = view.clone();
        tokio::spawn(async move { read_all(&Disk::read_only(view)).await })
    };
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(reads(), 2);
    gate.add_permits(1);
    assert!(whole.await.unwrap() == fixture.disk);
    assert_eq!(filling.await.unwrap(), FillState::Whole);
    assert_eq!(reads(), 2, "nothing twice");
    let brought = fixture.counters.fetched_bytes() + fixture.counters.filled_bytes();
    assert_eq!(brought, fixture.source.stored_bytes(), "nothing twice");
}

#[tokio::test]
async fn a_fill_keeps_to_its_rate() {
    let rate = FillRate::PerSecond(NonZeroU64::new(250_000).unwrap());
    let filler = Filler::new(FillSettings::at(rate));
    let state = watch::Sender::new(FillState::Off);
    let begun = Instant::now();
    let first = Fixture::new();
    filler.fill(&first.view(), &state).await;
    // The first batch begins at once, and the next when its time is over.
    let takes = Duration::from_secs_f64(first.counters.filled_bytes() as f64 / 250e3);
    assert!(takes > Duration::from_millis(50), "{takes:?}");
    filler.fill(&Fixture::new().view(), &state).await;
    assert!(begun.elapsed() >= takes, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_fill_takes_up_another_rate() {
    let slow = FillRate::PerSecond(NonZeroU64::new(1).unwrap());
    let filler = Filler::new(FillSettings::at(slow));
    let state = watch::Sender::new(FillState::Off);
    filler.fill(&Fixture::new().view(), &state).await;
    assert_eq!(*state.borrow(), FillState::Whole, "the first batch begins");

    let fixture = Fixture::new();
    let view = fixture.view();
    let changed = filler.changed();
    let off = async { filler.set_rate(FillRate::Off) };
    // The second would wait for hours.
    tokio::join!(filler.fill(&view, &state), off);
    assert_eq!(*state.borrow(), FillState::Off);
    assert_eq!(fixture.source.reads.load(SeqCst), 0);
    changed.await;

    filler.set_rate(slow);
    filler.fill(&Fixture::new().view(), &state).await;
    let all = async { filler.set_rate(FillRate::Unlimited) };
    tokio::join!(filler.fill(&view, &state), all);
    assert_eq!(*state.borrow(), FillState::Whole);
}

#[tokio::test]
async fn a_fill_never_makes_room() {
    let fixture = Fixture::new();
    let view = fixture.view();
    let junk: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n; 1 << 20]).collect();
    for chunk in &junk {
        view.reader().cache().store(ChunkId::of(chunk), chunk);
    }
    assert_eq!(fill(&view, FillRate::Unlimited).await, FillState::CacheFull);
    assert_eq!(fixture.source.reads.load(SeqCst), 0);
    for chunk in &junk {
        assert!(view.reader().cache().contains(&ChunkId::of(chunk)));
    }
}

#[tokio::test]
async fn what_is_asked_for_comes_whole_and_pinned_chunks_stay() {
    let fixture = Fixture::new();
    let view = fixture.view();
    let cache = view.reader().cache();
    let junk: Vec<Vec<u8>> = (0..7u8).map(|n| vec![n; 1 << 20]).collect();
    for chunk in &junk {
        cache.store(ChunkId::of(chunk), chunk);
    }
    let ids: Vec<ChunkId> = junk.iter().map(|chunk| ChunkId::of(chunk)).collect();
    cache.pin(ids.iter().copied());
    let filler = Filler::new(FillSettings::at(FillRate::Off));
    let refused = filler.bring_whole(&view).await;
    assert!(
        matches!(refused, Err(BringError::Full { .. })),
        "{refused:?}"
    );
    assert_eq!(fixture.source.reads.load(SeqCst), 0);
    // A segment of this cache holds one of them.
    cache.unpin(ids[1..].iter().copied());
    filler.bring_whole(&view).await.unwrap();
    assert!(cache.contains(&ids[0]));
    let chunks = view.plan().chunk_count();
    assert!((0..chunks).all(|n| cache.contains(&view.plan().chunk(n).unwrap().0)));
    // What is wanted stays, and the rest is room.
    let wanted: Vec<ChunkId> = (0..chunks)
        .map(|n| view.plan().chunk(n).unwrap().0)
        .collect();
    let freed = cache.prune(|id| wanted.contains(id));
    assert!(freed >= 1 << 20, "{freed}");
    assert!(cache.contains(&ids[0]) && !cache.contains(&ids[3]));
    assert!(wanted.iter().all(|id| cache.contains(id)));
    let usage = cache.usage();
    assert!(usage.pinned_bytes > 0 && usage.pinned_bytes <= usage.bytes);
    cache.unpin([ids[0]]);
    cache.prune(|_| false);
    assert_eq!(cache.usage().bytes, 0);
    // A source that fails is told of.
    fixture.source.faults.short.store(u32::MAX, SeqCst);
    let failed = filler.bring_whole(&view).await;
    assert!(matches!(failed, Err(BringError::Read(_))), "{failed:?}");
}

#[tokio::test]
async fn wrong_short_and_absent_answers_are_asked_for_again() {
    for fault in ["wrong", "short", "absent"] {
        let fixture = Fixture::new();
        let faults = &fixture.source.faults;
        let counter = match fault {
            "wrong" => &faults.wrong,
            "short" => &faults.short,
            _ => &faults.absent,
        };
        counter.store(2, SeqCst);
        let view = fixture.view();
        let filled = fill(&view, FillRate::Unlimited).await;
        assert_eq!(filled, FillState::Whole, "{fault}");
        let reads = fixture.source.reads.load(SeqCst);
        assert!(read_all(&Disk::read_only(view)).await == fixture.disk);
        assert_eq!(fixture.source.reads.load(SeqCst), reads, "{fault}");
    }
}

#[tokio::test]
async fn a_source_that_denies_is_asked_again_later_and_says_why() {
    let fixture = Fixture::new();
    fixture.source.faults.denied.store(1, SeqCst);
    let view = fixture.view();
    let filler = Filler::new(FillSettings {
        after_failure: Duration::from_millis(100),
        ..FillSettings::at(FillRate::Unlimited)
    });
    let state = watch::Sender::new(FillState::Off);
    let mut seen = state.subscribe();
    let why = async {
        let waits = |state: &FillState| matches!(state, FillState::Waiting(_));
        let state = seen.wait_for(waits).await.unwrap();
        format!("{:?}", *state)
    };
    let ((), why) = tokio::join!(filler.fill(&view, &state), why);
    assert!(why.contains("token was removed"), "{why}");
    assert_eq!(*state.borrow(), FillState::Whole);
}

#[tokio::test]
async fn a_fill_that_ended_early_goes_on_where_it_was() {
    let files = Arc::new(MemoryFiles::new());
    let fixture = Fixture::with(|source| source.delay = Duration::from_millis(20));
    {
        let view = fixture.view_over(files.clone());
        let filling = fill(&view, FillRate::Unlimited);
        assert!(timeout(Duration::from_millis(5), filling).await.is_err());
        // What was on its way lands, as somebody may wait for it.
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(fixture.source.reads.load(SeqCst), 1);
    }
    let view = fixture.view_over(files);
    assert_eq!(fill(&view, FillRate::Unlimited).await, FillState::Whole);
    assert_eq!(fixture.source.reads.load(SeqCst), 1);
    assert!(read_all(&Disk::read_only(view)).await == fixture.disk);
}

#[tokio::test]
async fn chunks_that_no_source_has_do_not_keep_the_others() {
    let fixture = Fixture::with(|source| source.lose(&crate::source::chunk(7)));
    let view = fixture.view();
    assert_eq!(fill(&view, FillRate::Unlimited).await, FillState::Whole);
    let there = |n| {
        let id = ChunkId::of(&crate::source::chunk(n));
        view.reader().cache().contains(&id)
    };
    assert!((0..40).all(|n| there(n) == (n != 7)));
}

/// What a boot reads: every third chunk, from the last on.
fn booted() -> Vec<usize> {
    (0..40).rev().step_by(3).collect()
}

/// A fixture with a boot set of [`booted`].
fn with_boot_set() -> (Fixture, BootSet) {
    let mut set = None;
    let fixture = Fixture::with(|source| {
        let chunks: Vec<Vec<u8>> = booted().into_iter().map(crate::source::chunk).collect();
        set = Some(source.add_boot_set(&chunks));
    });
    (fixture, set.unwrap())
}

#[tokio::test]
async fn a_boot_set_comes_in_one_go_and_nothing_else_does() {
    let (fixture, set) = with_boot_set();
    let view = fixture.view();
    let filler = Filler::new(FillSettings::at(FillRate::Off));
    filler.bring_boot_set(view.reader(), &set).await.unwrap();
    let cache = view.reader().cache();
    for n in 0..40 {
        let there = cache.contains(&ChunkId::of(&crate::source::chunk(n)));
        assert_eq!(there, booted().contains(&n), "{n}");
    }
    let reads = |source: &crate::source::MemorySource| source.boot_reads.load(SeqCst);
    assert_eq!(reads(&fixture.source), 2, "its footer, and its frames");
    assert_eq!(fixture.source.reads.load(SeqCst), 0);
    // What it has not comes from where it lies, and all is right.
    assert!(read_all(&Disk::read_only(view.clone())).await == fixture.disk);
    assert_eq!(reads(&fixture.source), 2);
    filler.bring_boot_set(view.reader(), &set).await.unwrap();
    assert_eq!(reads(&fixture.source), 3, "its footer again");
}

#[tokio::test]
async fn a_boot_set_that_is_bad_or_goes_away_harms_nobody() {
    // A byte of each part: frames, footer, trailer.
    for at in [0.1, 0.5, 0.9, 0.999] {
        let (mut fixture, set) = with_boot_set();
        let source = Arc::get_mut(&mut fixture.source).unwrap();
        let at = (source.boot_pack.len() as f64 * at) as usize;
        source.boot_pack[at] ^= 1;
        let view = fixture.view();
        let filler = Filler::new(FillSettings::at(FillRate::Off));
        let brought = filler.bring_boot_set(view.reader(), &set).await;
        assert_eq!(
            brought.is_ok(),
            at < set.footer_offset as usize,
            "{brought:?}"
        );
        assert!(read_all(&Disk::read_only(view)).await == fixture.disk);
    }
    // The registry says impossible things of it, or has another by now.
    let (fixture, set) = with_boot_set();
    let view = fixture.view();
    let filler = Filler::new(FillSettings::at(FillRate::Off));
    for (footer_offset, pack_bytes) in [(0, u64::MAX), (9, 3), (set.footer_offset, u64::MAX)] {
        let set = BootSet {
            footer_offset,
            pack_bytes,
            ..set
        };
        let brought = filler.bring_boot_set(view.reader(), &set).await;
        assert!(brought.is_err(), "{footer_offset} {pack_bytes}");
    }
    assert!(read_all(&Disk::read_only(view)).await == fixture.disk);
}

#[tokio::test]
async fn a_trace_has_what_was_read_in_order_and_once() {
    let fixture = Fixture::new();
    let trace = Arc::new(Trace::default());
    let plan = open_plan(&fixture.plan_path(), fixture.plan_id).unwrap();
    let reader = fixture.reader(Arc::new(MemoryFiles::new()));
    let view = Arc::new(View::new(plan, reader).traced(Some(trace.clone())));
    let (id, _) = view.plan().chunk(30).unwrap();
    let disk = Disk::read_only(view.clone());
    let half = disk.size() / 2;
    let mut bytes = vec![0; half as usize];
    disk.read(half, &mut bytes).await.unwrap();
    disk.read(half, &mut bytes).await.unwrap();
    disk.read(0, &mut bytes).await.unwrap();
    let traced = trace.end();
    assert_eq!(traced.len(), 40, "every chunk");
    assert!(traced.iter().position(|traced| *traced == id).unwrap() < 20);
    let back = traced
        .iter()
        .position(|id| *id == ChunkId::of(&crate::source::chunk(0)));
    assert!(back.unwrap() > 10);
    let firsts = trace.first_reads();
    assert_eq!((firsts.here + firsts.waited, firsts.waited > 0), (40, true));
    // After its end nothing is noted.
    read_all(&disk).await;
    assert_eq!((trace.end(), trace.first_reads()), (vec![], firsts));
}
