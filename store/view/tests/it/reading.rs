//! Reads through plan, cache and flights.

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
    assert!(error.to_string().contains("3 times"), "{error}");
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
        error.to_string().contains(&ChunkId::of(&chunk(9)).hex()),
        "{error}"
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
