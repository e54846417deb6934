//! The cache on its own.

use std::sync::Arc;

use shale_files::{Fault, FaultyFiles, FilePath, Files, LockFiles, MemoryFiles, OpenMode};
use shale_model::ChunkId;
use shale_view::{Cache, CacheError, CacheSettings, MIN_CAP_BYTES};

const SETTINGS: CacheSettings = CacheSettings {
    cap_bytes: MIN_CAP_BYTES,
};

fn bytes_of(n: u32) -> Vec<u8> {
    let mut bytes = vec![0; 100_000 + n as usize % 1000];
    blake3::Hasher::new()
        .update(&n.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn has(cache: &Cache, n: u32) -> bool {
    let expected = bytes_of(n);
    let mut part = vec![0; 1000];
    let found = cache.read(&ChunkId::of(&expected), 777, &mut part);
    assert!(
        !found || part == expected[777..1777],
        "chunk {n} has wrong bytes"
    );
    found
}

fn on_disk(files: &dyn Files) -> u64 {
    let names = files.list(&FilePath::root()).unwrap();
    let size = |name: &str| {
        let file = files
            .open(&FilePath::new(name).unwrap(), OpenMode::Read)
            .unwrap();
        file.size().unwrap()
    };
    names
        .iter()
        .filter(|e| e.name != "lock")
        .map(|e| size(&e.name))
        .sum()
}

#[test]
fn a_cache_grows_and_shrinks_while_it_is_used() {
    let files = Arc::new(MemoryFiles::new());
    let cache = Cache::open(files.clone(), SETTINGS).unwrap();
    let larger = CacheSettings {
        cap_bytes: 4 * MIN_CAP_BYTES,
    };
    cache.resize(larger).unwrap();
    let put = |n| cache.store(ChunkId::of(&bytes_of(n)), &bytes_of(n));
    (0..200).for_each(put);
    assert!((0..200).all(|n| has(&cache, n)), "all have room");
    cache.pin([ChunkId::of(&bytes_of(0))]);
    let too_small = CacheSettings { cap_bytes: 1 << 20 };
    let refused = cache.resize(too_small);
    assert!(matches!(refused, Err(CacheError::TooSmall(_))));
    assert_eq!(cache.usage().cap_bytes, larger.cap_bytes);

    cache.resize(SETTINGS).unwrap();
    assert!(on_disk(&*files) <= MIN_CAP_BYTES);
    assert!(has(&cache, 0), "what is pinned stays");
    // Its segment is as large as the cache is now.
    cache.unpin([ChunkId::of(&bytes_of(0))]);
    (200..300).for_each(put);
    assert!(on_disk(&*files) <= MIN_CAP_BYTES);
    assert!(has(&cache, 299) && !has(&cache, 0));
}

#[test]
fn the_files_never_exceed_the_cap() {
    let files = Arc::new(MemoryFiles::new());
    let cache = Cache::open(files.clone(), SETTINGS).unwrap();
    for n in 0..400 {
        let bytes = bytes_of(n);
        cache.store(ChunkId::of(&bytes), &bytes);
        assert!(has(&cache, n));
        assert!(on_disk(&*files) <= MIN_CAP_BYTES, "after {n}");
    }
    assert!(!has(&cache, 0), "the oldest have left");
    assert!(cache.chunks() > 40, "{} chunks", cache.chunks());
    drop(cache);
    let cache = Cache::open(files.clone(), SETTINGS).unwrap();
    assert!(has(&cache, 399));
    assert!(cache.bytes() >= on_disk(&*files));
}

#[test]
fn what_was_damaged_while_nobody_looked_is_forgotten() {
    let files = Arc::new(MemoryFiles::new());
    let cache = Cache::open(files.clone(), SETTINGS).unwrap();
    for n in 0..10 {
        let bytes = bytes_of(n);
        cache.store(ChunkId::of(&bytes), &bytes);
    }
    drop(cache);
    let data = FilePath::new("0000000000000000.data").unwrap();
    let file = files.open(&data, OpenMode::Write).unwrap();
    file.write_at(250_000, b"damage").unwrap();
    let cache = Cache::open(files, SETTINGS).unwrap();
    let left: Vec<u32> = (0..10).filter(|n| has(&cache, *n)).collect();
    assert_eq!(left, [0, 1, 3, 4, 5, 6, 7, 8, 9]);
    let bytes = bytes_of(2);
    cache.store(ChunkId::of(&bytes), &bytes);
    assert!(has(&cache, 2), "and fetched again");
}

#[test]
fn after_a_power_cut_it_has_right_chunks_or_none() {
    let mut kept = 0;
    for seed in 0..50 {
        let files = Arc::new(MemoryFiles::new());
        let cache = Cache::open(files.clone(), SETTINGS).unwrap();
        for n in 0..30 {
            let bytes = bytes_of(n);
            cache.store(ChunkId::of(&bytes), &bytes);
        }
        let after = Arc::new(files.after_power_cut(seed));
        let cache = Cache::open(after, SETTINGS).unwrap();
        kept += (0..30).filter(|n| has(&cache, *n)).count();
        let bytes = bytes_of(77);
        cache.store(ChunkId::of(&bytes), &bytes);
        assert!(has(&cache, 77));
    }
    println!("{kept} of 1500 chunks survived");
}

#[test]
fn a_full_disk_only_means_that_less_is_kept() {
    for at in 0..40 {
        let files = Arc::new(FaultyFiles::new(Arc::new(MemoryFiles::new())));
        files.fail_at(Some((at, Fault::Full)));
        let Ok(cache) = Cache::open(files, SETTINGS) else {
            continue;
        };
        for n in 0..5 {
            let bytes = bytes_of(n);
            cache.store(ChunkId::of(&bytes), &bytes);
            has(&cache, n);
        }
    }
}

#[test]
fn two_processes_do_not_share_it() {
    let files: Arc<dyn LockFiles> = Arc::new(MemoryFiles::new());
    let _first = Cache::open(files.clone(), SETTINGS).unwrap();
    assert!(matches!(
        Cache::open(files.clone(), SETTINGS),
        Err(CacheError::Lock(_))
    ));
    let small = CacheSettings { cap_bytes: 1 };
    assert!(matches!(
        Cache::open(files, small),
        Err(CacheError::TooSmall(1))
    ));
}
