//! Reads through plan, cache and flights.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use proptest::prelude::*;
use shale_files::MemoryFiles;
use shale_model::*;
use shale_view::*;

use crate::source::{Fixture, chunk, read_all};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn any_range_reads_as_on_the_disk_and_chunks_are_fetched_once() {
    let fixture = Fixture::new();
    let runtime = runtime();
    let view = runtime.block_on(async { fixture.view() });
    let len = fixture.disk.len();
    proptest!(|(offset in 0..len, want in 0usize..60_000)| {
        let want = want.min(len - offset);
        let mut bytes = vec![0xaa; want];
        runtime.block_on(view.read(offset as u64, &mut bytes)).unwrap();
        prop_assert!(bytes == fixture.disk[offset..offset + want]);
    });
    runtime.block_on(async {
        assert!(read_all(&Disk::read_only(view.clone())).await == fixture.disk);
    });
    assert_eq!(
        fixture.source.reads.load(SeqCst),
        10,
        "10 frames, each fetched once"
    );
    assert_eq!(
        fixture.source.locates.load(SeqCst),
        1,
        "all chunks were near the first"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_share_one_flight() {
    let fixture = Fixture::with(|source| source.delay = Duration::from_millis(20));
    let disk = Arc::new(Disk::read_only(fixture.view()));
    let readers: Vec<_> = (0..32)
        .map(|_| {
            let disk = disk.clone();
            tokio::spawn(async move { read_all(&*disk).await })
        })
        .collect();
    for reader in readers {
        assert!(reader.await.unwrap() == fixture.disk);
    }
    assert_eq!(fixture.source.reads.load(SeqCst), 10);
    assert!(fixture.counters.waited() >= Duration::from_millis(20));
}

#[test]
fn a_read_while_the_runtime_of_fetches_ends_is_an_error() {
    let fixture = Fixture::new();
    let ended = runtime();
    let disk = Disk::read_only(ended.block_on(async { fixture.view() }));
    drop(ended);
    let read = runtime().block_on(disk.read(0, &mut vec![0; fixture.disk.len()]));
    let error = with_causes(&read.unwrap_err());
    assert!(error.contains("ended without an answer"), "{error}");
}

#[tokio::test]
async fn a_source_that_is_gone_is_waited_for() {
    let fixture = Fixture::new();
    fixture.source.faults.absent.store(25, SeqCst);
    assert!(read_all(&Disk::read_only(fixture.view())).await == fixture.disk);
    assert_eq!(fixture.counters.retries(), 25);
}

#[tokio::test]
async fn wrong_and_short_bytes_are_fetched_again() {
    let fixture = Fixture::new();
    fixture.source.faults.wrong.store(2, SeqCst);
    assert!(read_all(&Disk::read_only(fixture.view())).await == fixture.disk);
    let fixture = Fixture::new();
    fixture.source.faults.short.store(2, SeqCst);
    assert!(read_all(&Disk::read_only(fixture.view())).await == fixture.disk);
}

#[tokio::test]
async fn bytes_that_stay_wrong_are_an_error_and_never_reach_the_guest() {
    let fixture = Fixture::new();
    fixture.source.faults.wrong.store(u32::MAX, SeqCst);
    let disk = Disk::read_only(fixture.view());
    let mut bytes = vec![0xaa; fixture.disk.len()];
    let error = disk.read(0, &mut bytes).await.unwrap_err();
    assert!(with_causes(&error).contains("3 times"), "{error:?}");
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    assert!(
        matches!(cause, Some(ReadError::Corrupt { .. })),
        "{error:?}"
    );
    assert!(disk.status(0, 4096).await.is_ok());
}

#[tokio::test]
async fn a_chunk_that_no_source_has_is_named() {
    let fixture = Fixture::with(|source| source.lose(&chunk(9)));
    let error = fixture
        .view()
        .read(0, &mut vec![0; fixture.disk.len()])
        .await
        .unwrap_err();
    assert!(
        with_causes(&error).contains(&ChunkId::of(&chunk(9)).hex()),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_second_start_reads_nothing_from_the_source() {
    let fixture = Fixture::new();
    let files = Arc::new(MemoryFiles::new());
    let first = Disk::read_only(fixture.view_over(files.clone()));
    assert!(read_all(&first).await == fixture.disk);
    drop(first);
    // Flights end with their task, which the runtime drops a moment after the answer.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let before = fixture.source.reads.load(SeqCst);
    assert!(read_all(&Disk::read_only(fixture.view_over(files))).await == fixture.disk);
    assert_eq!(fixture.source.reads.load(SeqCst), before);
}

#[tokio::test]
async fn chunks_are_read_in_order_for_composing() {
    let fixture = Fixture::new();
    let reader = fixture.reader(Arc::new(MemoryFiles::new()));
    let wanted: Vec<_> = [3, 39, 0, 3]
        .map(|n| (ChunkId::of(&chunk(n)), chunk(n).len() as u32))
        .into();
    let chunks = reader.chunks(&wanted).await.unwrap();
    assert_eq!(chunks, [3, 39, 0, 3].map(chunk));
}

#[tokio::test]
async fn a_broken_source_ends_a_read_and_a_slow_one_does_not() {
    let fixture = Fixture::new();
    fixture.source.faults.failing.store(2, SeqCst);
    assert!(read_all(&Disk::read_only(fixture.view())).await == fixture.disk);
    assert_eq!(fixture.counters.retries(), 2);
    let fixture = Fixture::new();
    fixture.source.faults.failing.store(u32::MAX, SeqCst);
    let mut bytes = vec![0; 4096 * 8];
    let error = fixture.view().read(0, &mut bytes).await.unwrap_err();
    assert!(
        with_causes(&error).contains("the disk is broken"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_token_that_is_gone_is_waited_for_by_guests_and_told_to_commands() {
    let fixture = Fixture::new();
    fixture.source.faults.denied.store(u32::MAX, SeqCst);
    let view = fixture.view();
    let mut reading = {
        let view = view.clone();
        let len = fixture.disk.len();
        tokio::spawn(async move {
            let mut bytes = vec![0; len];
            view.read(0, &mut bytes).await.map(|()| bytes)
        })
    };
    while fixture.counters.retries() < 10 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiting = view.waits().now().unwrap();
    assert_eq!(waiting.cause, WaitCause::Denied);
    let reason = waiting.reason.unwrap_or_default();
    assert!(reason.contains("the token was removed"), "{reason}");
    // Whoever has another source is told nothing of that.
    let elsewhere = fixture.view_over(Arc::new(MemoryFiles::new()));
    assert_eq!(elsewhere.waits().now(), None);

    // At once, though a guest waits for the same chunks.
    let plan = open_plan(&fixture.plan_path(), fixture.plan_id).unwrap();
    let command = View::for_command(plan, fixture.reader(Arc::new(MemoryFiles::new())));
    let mut bytes = vec![0; fixture.disk.len()];
    let error = command.read(0, &mut bytes).await.unwrap_err();
    assert!(
        with_causes(&error).contains("the token was removed"),
        "{error:?}"
    );
    let wanted = [(ChunkId::of(&chunk(3)), chunk(3).len() as u32)];
    let composing = view.reader().chunks(&wanted).await;
    let Err(ReadError::Refused { source, .. }) = composing else {
        panic!("{composing:?}");
    };
    assert_eq!(source.trouble, Trouble::Denied);

    assert!(!reading.is_finished());
    fixture.source.faults.denied.store(0, SeqCst);
    assert!((&mut reading).await.unwrap().unwrap() == fixture.disk);
    assert_eq!(view.waits().now(), None);
    assert!(view.waits().sums()[&WaitCause::Denied] > Duration::ZERO);
    assert_eq!(elsewhere.waits().total(), Duration::ZERO);
}

#[tokio::test]
async fn few_chunks_of_many_are_on_their_way_at_once() {
    let fixture = Fixture::with(|source| source.delay = Duration::from_millis(1));
    let reader = fixture.reader(Arc::new(MemoryFiles::new()));
    let one = (ChunkId::of(&chunk(3)), chunk(3).len() as u32);
    // As many as a root of 16 MiB can list pages: all of one chunk, which its source has at first.
    let wanted = vec![one; 350_000];
    let mut taken = 0;
    let take = |bytes| {
        assert!(bytes == chunk(3));
        taken += 1;
        match taken < 1000 {
            true => Ok(()),
            false => Err(ReadError::Missing(one.0)),
        }
    };
    let ended = reader.each_chunk(&wanted, take).await;
    assert!(matches!(ended, Err(ReadError::Missing(_))));
    assert_eq!(taken, 1000);
    assert_eq!(fixture.source.reads.load(SeqCst), 1);
}

#[tokio::test]
async fn chunks_are_fetched_side_by_side_but_not_all_at_once() {
    let fixture = Fixture::with(|source| source.delay = Duration::from_secs(3600));
    let reader = fixture.reader(Arc::new(MemoryFiles::new()));
    let wanted: Vec<_> = (0..1000)
        .map(|n| (ChunkId::of(&chunk(n % 40)), chunk(n % 40).len() as u32))
        .collect();
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let reading = tokio::time::timeout(Duration::from_millis(50), reader.chunks(&wanted));
    assert!(reading.await.is_err());
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
        - before;
    // 64 chunks, which lie in 10 frames.
    assert_eq!(tasks, 64 + 10);
}

#[test]
fn a_damaged_plan_does_not_open() {
    let fixture = Fixture::new();
    let mut bytes = std::fs::read(fixture.plan_path()).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(fixture.plan_path(), &bytes).unwrap();
    let error = open_plan(&fixture.plan_path(), fixture.plan_id).unwrap_err();
    assert!(matches!(error, PlanFileError::Damaged { .. }), "{error}");
    std::fs::remove_file(fixture.plan_path()).unwrap();
    let error = open_plan(&fixture.plan_path(), fixture.plan_id).unwrap_err();
    assert!(matches!(error, PlanFileError::Open { .. }), "{error}");
}
