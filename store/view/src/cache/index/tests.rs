//! The decisions of the cache against models.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn the_cap_holds_slots_do_not_overlap_and_pinned_chunks_stay(
        cap in 2_000u64..20_000,
        steps in vec((0u8..60, 1u32..700, 0u8..10), 1..300),
    ) {
        let mut index = Index::new(cap, 2_000);
        let mut stored: HashMap<ChunkId, Slot> = HashMap::new();
        let mut pins: HashMap<ChunkId, u32> = HashMap::new();
        for (n, len, step) in steps {
            let id = ChunkId::of(&[n]);
            let is_pinned = |id: &ChunkId| pins.get(id).is_some_and(|count| *count > 0);
            match step {
                0..=3 => {
                    prop_assert_eq!(index.get(&id).map(|(slot, _)| slot), stored.get(&id).copied());
                    continue;
                }
                4 => {
                    index.pin([id]);
                    *pins.entry(id).or_default() += 1;
                    continue;
                }
                5 => {
                    index.unpin([id]);
                    pins.entry(id).and_modify(|count| *count = count.saturating_sub(1));
                    continue;
                }
                6 if n % 8 == 0 => {
                    let before = index.bytes();
                    let gone = index.prune(|id| id.as_bytes()[0] < 128);
                    prop_assert!(index.bytes() <= before);
                    let left = |(id, slot): (&ChunkId, &Slot)| {
                        !gone.contains(&slot.segment)
                            || !is_pinned(id) && id.as_bytes()[0] >= 128
                    };
                    let all_left = stored.iter().all(left);
                    prop_assert!(all_left);
                    stored.retain(|_, slot| !gone.contains(&slot.segment));
                    prop_assert_eq!(index.chunks(), stored.len());
                    continue;
                }
                _ => {}
            }
            let Some(placed) = index.place(&id, len) else {
                let too_large = u64::from(len) + RECORD_BYTES > index.segment_bytes;
                let full = index.pinned_bytes() + u64::from(len) + RECORD_BYTES > cap;
                prop_assert!(stored.contains_key(&id) || too_large || full);
                continue;
            };
            let stays = |(id, slot): (&ChunkId, &Slot)| {
                !placed.evict.contains(&slot.segment) || !is_pinned(id)
            };
            let all_stay = stored.iter().all(stays);
            prop_assert!(all_stay);
            stored.retain(|_, slot| !placed.evict.contains(&slot.segment));
            let new = placed.slot;
            for old in stored.values().filter(|old| old.segment == new.segment) {
                let apart = old.offset + old.len <= new.offset || new.offset + new.len <= old.offset;
                prop_assert!(apart);
            }
            index.filled(id, new);
            stored.insert(id, new);
            prop_assert!(index.bytes() <= cap, "{} > {cap}", index.bytes());
            prop_assert_eq!(index.chunks(), stored.len());
        }
    }
}

#[test]
fn a_segment_that_is_read_outlives_one_that_is_not() {
    let mut index = Index::new(8_000, 2_000);
    let ids: Vec<ChunkId> = (0u8..40).map(|n| ChunkId::of(&[n])).collect();
    let store = |index: &mut Index, id: &ChunkId| {
        let placed = index.place(id, 900).unwrap();
        index.filled(*id, placed.slot);
    };
    for id in &ids[..8] {
        store(&mut index, id);
    }
    for id in &ids[8..] {
        assert!(
            index.get(&ids[0]).is_some(),
            "what is read all the time stays"
        );
        store(&mut index, id);
    }
    assert!(index.get(&ids[3]).is_none());
}

/// What chunks a cache holds, as one that forgets the chunk whose last read is longest ago.
#[derive(Debug, Default)]
struct LeastRecent {
    cap: u64,
    line: Vec<ChunkId>,
}

impl LeastRecent {
    /// Whether `id` was there.
    fn read(&mut self, id: ChunkId) -> bool {
        let at = self.line.iter().position(|other| *other == id);
        if let Some(at) = at {
            self.line.remove(at);
        }
        self.line.push(id);
        if self.line.len() as u64 * CHUNK > self.cap {
            self.line.remove(0);
        }
        at.is_some()
    }
}

/// Bytes of a chunk with its record, and of a segment of ten.
const CHUNK: u64 = 1_000;
const SEGMENT: u64 = 10 * CHUNK;

/// Whether a chunk was there; after that it is.
fn read(index: &mut Index, id: ChunkId) -> bool {
    if index.get(&id).is_some() {
        return true;
    }
    let placed = index.place(&id, (CHUNK - RECORD_BYTES) as u32);
    index.filled(id, placed.expect("nothing is pinned").slot);
    false
}

/// Hits in a hundred reads of a working set of `hot` chunks, read round and round with `scanned` new chunks between
/// two of its reads, each in four pieces: of this cache, and of one that forgets what was not read for longest.
fn hits_beside_a_scan(chunks: u64, hot: u32, scanned: u32) -> (u32, u32) {
    let mut index = Index::new(chunks * CHUNK, SEGMENT);
    let mut model = LeastRecent {
        cap: chunks * CHUNK,
        ..LeastRecent::default()
    };
    let (mut ours, mut models, mut reads, mut next) = (0, 0, 0, 0);
    let warm = 3 * hot;
    while reads < warm + 2_000 {
        let id = ChunkId::of(&(reads % hot).to_le_bytes());
        let (hit, hit_of_model) = (read(&mut index, id), model.read(id));
        if reads >= warm {
            ours += u32::from(hit);
            models += u32::from(hit_of_model);
            // The scan begins when the set is there.
            for _ in 0..scanned {
                let id = ChunkId::of(&[b"scan".as_slice(), &u32::to_le_bytes(next)].concat());
                next += 1;
                for _ in 0..4 {
                    read(&mut index, id);
                }
                model.read(id);
            }
        }
        reads += 1;
    }
    (ours / 20, models / 20)
}

#[test]
fn a_scan_does_not_drive_out_what_is_read_again_and_again() {
    // A working set of half the cache beside scans of different speeds.
    for (scanned, least) in [(1, 95), (2, 90), (4, 40)] {
        let (ours, model) = hits_beside_a_scan(400, 200, scanned);
        println!(
            "{scanned} new chunks for each read: {ours} hits in a hundred, {model} by last read"
        );
        assert!(ours >= least && ours >= model, "{scanned}: {ours}, {model}");
    }
}

#[test]
fn without_a_scan_it_is_about_as_good_as_the_order_of_last_reads() {
    // Chunks of unequal popularity: the n-th is read in proportion to 1/n.
    let all = 2_000u32;
    let weight = |n: u32| 1_000_000 / u64::from(n + 1);
    let sum: u64 = (0..all).map(weight).sum();
    for cap in [200u64, 400, 800] {
        let mut index = Index::new(cap * CHUNK, SEGMENT);
        let mut model = LeastRecent {
            cap: cap * CHUNK,
            ..LeastRecent::default()
        };
        let (mut ours, mut models) = (0u32, 0u32);
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let mut drawn = (state >> 20) % sum;
            let mut n = 0;
            while drawn >= weight(n) {
                drawn -= weight(n);
                n += 1;
            }
            let id = ChunkId::of(&n.to_le_bytes());
            ours += u32::from(read(&mut index, id));
            models += u32::from(model.read(id));
        }
        let (ours, models) = (ours / 200, models / 200);
        println!("cap of {cap} chunks: {ours} hits in a hundred, {models} by last read");
        assert!(ours + 10 >= models, "{cap}: {ours}, {models}");
    }
}
