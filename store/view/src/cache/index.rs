//! What the cache decides, as values: where a chunk goes and which segment leaves. No I/O.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use shale_model::ChunkId;

/// Number of a segment; later segments have higher ones.
pub(super) type SegmentNo = u64;

/// Bytes that one record of a segment's list of chunks takes.
pub(super) const RECORD_BYTES: u64 = 40;

/// Where a chunk lies in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) segment: SegmentNo,
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// A chunk in the index.
#[derive(Debug, Clone, Copy)]
struct Cached {
    slot: Slot,
    /// Whether this process has hashed it.
    verified: bool,
}

/// A segment as the index knows it.
#[derive(Debug, Clone, Copy, Default)]
struct Segment {
    /// Bytes reserved in its data file.
    data: u64,
    /// Chunks that were reserved in it.
    records: u64,
    /// Chunks in it that are pinned: a segment that has some does not leave.
    pinned: u64,
    /// Rounds that it stays longer, because it was read.
    uses: u8,
    /// Reads count once so many bytes were placed in the cache.
    young_until: u64,
}

/// A segment is young until this part of the cap was filled after it.
const YOUNG_PART: u64 = 4;

/// Rounds that a segment can earn. Two reads far apart are worth more than one; many more say nothing more.
const MAX_USES: u8 = 3;

impl Segment {
    fn bytes(&self) -> u64 {
        self.data + self.records * RECORD_BYTES
    }
}

/// What to do to store a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement {
    /// Segments to remove first.
    pub(super) evict: Vec<SegmentNo>,
    /// Where the chunk goes.
    pub(super) slot: Slot,
    /// Number of its record in the segment's list.
    pub(super) record: u64,
    /// Whether its segment is new.
    pub(super) new_segment: bool,
}

/// The index of the cache: chunks and segments, never more than `cap` bytes in all.
#[derive(Debug)]
pub(super) struct Index {
    cap: u64,
    segment_bytes: u64,
    chunks: HashMap<ChunkId, Cached>,
    /// How often each chunk is pinned that is, whether it is there or not.
    pins: HashMap<ChunkId, u32>,
    segments: BTreeMap<SegmentNo, Segment>,
    /// The order in which segments leave; those that earned a further round stand at its end again.
    line: VecDeque<SegmentNo>,
    /// The segments that are being filled: one with chunks that are new here, and one with chunks that were here before,
    /// so that what is wanted again and again does not lie among what is wanted once.
    open: [Option<SegmentNo>; 2],
    /// What left not long ago.
    gone: Gone,
    bytes: u64,
    /// Bytes that were ever placed.
    placed: u64,
    next: SegmentNo,
}

/// The chunks that left last, no more of them than are there.
#[derive(Debug, Default)]
struct Gone {
    line: VecDeque<ChunkId>,
    set: HashSet<ChunkId>,
}

impl Gone {
    fn add(&mut self, id: ChunkId, most: usize) {
        if self.set.insert(id) {
            self.line.push_back(id);
        }
        while self.line.len() > most {
            self.line.pop_front().inspect(|id| {
                self.set.remove(id);
            });
        }
    }
}

impl Index {
    /// An empty index. At least four segments fit under the cap, so that eviction takes parts.
    pub(super) fn new(cap: u64, segment_bytes: u64) -> Self {
        Self {
            cap,
            segment_bytes: largest_segment(cap, segment_bytes),
            chunks: HashMap::new(),
            pins: HashMap::new(),
            segments: BTreeMap::new(),
            line: VecDeque::new(),
            open: [None; 2],
            gone: Gone::default(),
            bytes: 0,
            placed: 0,
            next: 0,
        }
    }

    /// Sets another cap; the segments to remove so that what is there fits under it, as far as it is not pinned.
    pub(super) fn resize(&mut self, cap: u64, segment_bytes: u64) -> Vec<SegmentNo> {
        self.cap = cap;
        self.segment_bytes = largest_segment(cap, segment_bytes);
        self.shrink()
    }

    /// Takes up a segment found on disk, the oldest first: its chunks are to be verified at first use.
    pub(super) fn adopt(&mut self, segment: SegmentNo, chunks: &[(ChunkId, u32, u32)], data: u64) {
        let state = Segment {
            data,
            records: chunks.len() as u64,
            ..Segment::default()
        };
        self.bytes += state.bytes();
        self.segments.insert(segment, state);
        self.line.push_back(segment);
        for &(id, offset, len) in chunks {
            let slot = Slot {
                segment,
                offset,
                len,
            };
            let verified = false;
            self.insert(id, Cached { slot, verified });
        }
        self.next = self.next.max(segment + 1);
    }

    /// Where `id` lies and whether it was verified.
    ///
    /// It counts as a use of its segment, unless that is young: who reads a disk once from its beginning to its end
    /// reads each chunk in several pieces and with its neighbours, all soon after it came. Were that a use, a scan
    /// would drive out what is read again and again (the correlated references of the LRU-K and 2Q papers).
    pub(super) fn get(&mut self, id: &ChunkId) -> Option<(Slot, bool)> {
        let cached = self.chunks.get(id)?;
        let segment = self.segments.get_mut(&cached.slot.segment);
        if let Some(segment) = segment.filter(|segment| segment.young_until <= self.placed) {
            segment.uses = (segment.uses + 1).min(MAX_USES);
        }
        Some((cached.slot, cached.verified))
    }

    /// Whether `id` is there. It does not count as a use.
    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        self.chunks.contains_key(id)
    }

    /// Notes that the chunk at `slot` was hashed.
    pub(super) fn verified(&mut self, id: &ChunkId, slot: Slot) {
        if let Some(cached) = self.chunks.get_mut(id).filter(|c| c.slot == slot) {
            cached.verified = true;
        }
    }

    /// Forgets a chunk whose bytes turned out wrong; its room is given back with its segment.
    pub(super) fn forget(&mut self, id: &ChunkId, slot: Slot) {
        if self
            .chunks
            .get(id)
            .is_some_and(|cached| cached.slot == slot)
        {
            self.chunks.remove(id);
            self.count_pin(id, slot, |pinned| pinned.saturating_sub(1));
        }
    }

    fn insert(&mut self, id: ChunkId, cached: Cached) {
        if let Some(old) = self.chunks.insert(id, cached) {
            self.count_pin(&id, old.slot, |pinned| pinned.saturating_sub(1));
        }
        self.count_pin(&id, cached.slot, |pinned| pinned + 1);
    }

    /// Counts a chunk in or out of its segment, if it is pinned.
    fn count_pin(&mut self, id: &ChunkId, slot: Slot, count: impl Fn(u64) -> u64) {
        if let (true, Some(segment)) = (
            self.pins.contains_key(id),
            self.segments.get_mut(&slot.segment),
        ) {
            segment.pinned = count(segment.pinned);
        }
    }

    /// Pins chunks, whether they are there or come later: they do not leave. Each time counts.
    pub(super) fn pin(&mut self, ids: impl IntoIterator<Item = ChunkId>) {
        for id in ids {
            let count = self.pins.entry(id).or_insert(0);
            *count += 1;
            if *count == 1
                && let Some(slot) = self.chunks.get(&id).map(|cached| cached.slot)
            {
                self.count_pin(&id, slot, |pinned| pinned + 1);
            }
        }
    }

    /// Takes one pin of each of these chunks back.
    pub(super) fn unpin(&mut self, ids: impl IntoIterator<Item = ChunkId>) {
        for id in ids {
            match self.pins.get_mut(&id) {
                None => {}
                Some(count) if *count > 1 => *count -= 1,
                Some(_) => {
                    if let Some(slot) = self.chunks.get(&id).map(|cached| cached.slot) {
                        self.count_pin(&id, slot, |pinned| pinned.saturating_sub(1));
                    }
                    self.pins.remove(&id);
                }
            }
        }
    }

    /// Removes the segments in which nothing is pinned and no chunk is to be kept; their numbers.
    pub(super) fn prune(&mut self, keep: impl Fn(&ChunkId) -> bool) -> Vec<SegmentNo> {
        let kept: HashSet<SegmentNo> = self
            .chunks
            .iter()
            .filter(|(id, _)| keep(id))
            .map(|(_, cached)| cached.slot.segment)
            .collect();
        let unwanted = self.segments.iter();
        let unwanted = unwanted.filter(|(no, segment)| segment.pinned == 0 && !kept.contains(no));
        let unwanted: Vec<SegmentNo> = unwanted.map(|(no, _)| *no).collect();
        for no in &unwanted {
            self.segments.remove(no).inspect(|segment| {
                self.bytes -= segment.bytes();
            });
        }
        let gone: HashSet<SegmentNo> = unwanted.iter().copied().collect();
        self.line.retain(|no| !gone.contains(no));
        self.chunks
            .retain(|_, cached| !gone.contains(&cached.slot.segment));
        unwanted
    }

    /// Bytes of the segments that do not leave because something in them is pinned.
    pub(super) fn pinned_bytes(&self) -> u64 {
        let pinned = self.segments.values().filter(|segment| segment.pinned > 0);
        pinned.map(Segment::bytes).sum()
    }

    /// Most bytes of all segments together.
    pub(super) fn cap(&self) -> u64 {
        self.cap
    }

    /// Reserves room for a chunk of `len` bytes; `None` if it is there already, larger than a segment, or all that
    /// could leave for it is pinned. The chunk is found only after [`Index::filled`].
    pub(super) fn place(&mut self, id: &ChunkId, len: u32) -> Option<Placement> {
        let needs = u64::from(len) + RECORD_BYTES;
        if needs > self.segment_bytes || self.chunks.contains_key(id) {
            return None;
        }
        let kind = usize::from(self.gone.set.contains(id));
        let open = self.open[kind].filter(|no| {
            let segment = self.segments.get(no);
            segment.is_some_and(|segment| segment.bytes() + needs <= self.segment_bytes)
        });
        // Where the rest is pinned, the segment that is being filled may have to leave too.
        let open = open.filter(|_| self.can_make_room(needs, open));
        if !self.can_make_room(needs, open) {
            return None;
        }
        let evict = self.make_room(needs, open);
        let no = open.unwrap_or(self.next);
        self.next = self.next.max(no + 1);
        if open.is_none() {
            self.line.push_back(no);
            self.open[kind] = Some(no);
        }
        self.placed += needs;
        let segment = self.segments.entry(no).or_insert_with(|| Segment {
            // What came back may come back again.
            uses: kind as u8,
            ..Segment::default()
        });
        segment.young_until = self.placed + self.cap / YOUNG_PART;
        let (offset, record) = (segment.data as u32, segment.records);
        segment.data += u64::from(len);
        segment.records += 1;
        self.bytes += needs;
        let slot = Slot {
            segment: no,
            offset,
            len,
        };
        Some(Placement {
            evict,
            slot,
            record,
            new_segment: open.is_none(),
        })
    }

    /// Notes that the bytes of a placed chunk are written; they were verified before.
    pub(super) fn filled(&mut self, id: ChunkId, slot: Slot) {
        if self.segments.contains_key(&slot.segment) {
            let verified = true;
            self.insert(id, Cached { slot, verified });
        }
    }

    /// Whether `needs` more bytes fit under the cap when all segments leave that may.
    fn can_make_room(&self, needs: u64, keep: Option<SegmentNo>) -> bool {
        if self.bytes + needs <= self.cap {
            return true;
        }
        let stay = self.segments.iter();
        let stay = stay.filter(|(no, segment)| segment.pinned > 0 || Some(**no) == keep);
        let stay: u64 = stay.map(|(_, segment)| segment.bytes()).sum();
        stay + needs <= self.cap
    }

    /// Chooses segments to leave until `needs` more bytes fit under the cap: the one at the head of the line, unless it
    /// was read. Then it goes to the end, for one of its uses.
    fn make_room(&mut self, needs: u64, keep: Option<SegmentNo>) -> Vec<SegmentNo> {
        let mut evicted = Vec::new();
        // After so many rounds none has a use left.
        let mut looks = self.line.len() * (usize::from(MAX_USES) + 1);
        while self.bytes + needs > self.cap && looks > 0 {
            looks -= 1;
            let Some(no) = self.line.pop_front() else {
                break;
            };
            match self.segments.get_mut(&no) {
                Some(segment) if segment.pinned > 0 || Some(no) == keep => self.line.push_back(no),
                Some(segment) if segment.uses > 0 => {
                    segment.uses -= 1;
                    self.line.push_back(no);
                }
                _ => {
                    self.remove(no);
                    evicted.push(no);
                }
            }
        }
        evicted
    }

    /// Forgets a segment and all its chunks.
    pub(super) fn remove(&mut self, no: SegmentNo) {
        if let Some(segment) = self.segments.remove(&no) {
            self.bytes -= segment.bytes();
            self.line.retain(|other| *other != no);
            let most = self.chunks.len();
            let gone = self
                .chunks
                .extract_if(|_, cached| cached.slot.segment == no);
            for (id, _) in gone {
                self.gone.add(id, most);
            }
        }
    }

    /// Segments to remove so that what was adopted fits under the cap.
    pub(super) fn shrink(&mut self) -> Vec<SegmentNo> {
        self.make_room(0, None)
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes below the cap.
    pub(super) fn room(&self) -> u64 {
        self.cap.saturating_sub(self.bytes)
    }

    /// How many chunks are there.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }
}

/// So that four fit under the cap.
fn largest_segment(cap: u64, segment_bytes: u64) -> u64 {
    segment_bytes.min(cap / 4)
}

#[cfg(test)]
mod tests;
