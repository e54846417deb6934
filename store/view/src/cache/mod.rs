//! The chunk cache of a host: verified chunks in segment files, with a hard byte cap.
//!
//! ```text
//! NNNNNNNNNNNNNNNN.data   chunks one after the other, plain
//! NNNNNNNNNNNNNNNN.list   40 bytes a chunk: id[32], offset u32, length u32, little-endian
//! ```
//! Nothing is synced: what a crash damages is found by the hash at first use after a start, forgotten
//! and fetched again. Segments leave as a whole, oldest first, those that were read last. A segment
//! that leaves while it is read stays readable until the read ends. One that holds a pinned chunk does not leave.

mod index;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shale_files::{File, FileError, FilePath, IfHeld, Lock, LockError, LockFiles, LockKind};
use shale_files::{OpenMode, read_file};
use shale_model::{ChunkId, ID_LEN};

use index::{Index, Placement, RECORD_BYTES, SegmentNo, Slot};

/// How large a cache is.
#[derive(Debug, Clone, Copy)]
pub struct CacheSettings {
    /// Most bytes of all its files together; at least [`MIN_CAP_BYTES`].
    pub cap_bytes: u64,
}

/// Smallest cap: four segments that hold a largest chunk each.
pub const MIN_CAP_BYTES: u64 = 8 << 20;

/// Bytes of a segment: what leaves at once. Larger ones make fewer files, smaller ones evict finer.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Longest list of chunks that is read at start: more records do not fit into a segment of chunks
/// of one byte each, at [`SEGMENT_BYTES`].
const MAX_LIST_BYTES: usize = SEGMENT_BYTES as usize;

/// How much a cache has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheUsage {
    /// Most bytes of all its files together.
    pub cap_bytes: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Bytes of those that do not leave, because something in them is pinned.
    pub pinned_bytes: u64,
    /// Chunks in them.
    pub chunks: usize,
}

/// What a cache did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheDeeds {
    /// Chunks of an earlier process that were right at their first use.
    pub right_chunks: u64,
    /// Chunks of an earlier process that were damaged, or could not be read.
    pub wrong_chunks: u64,
    /// Bytes of files that left because something else needed the room, or the cap became less.
    pub evicted_bytes: u64,
}

/// Why a cache does not open.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The cap is below [`MIN_CAP_BYTES`].
    #[error("a cache of {0} bytes is too small; the least is {MIN_CAP_BYTES}")]
    TooSmall(u64),
    /// Another process uses the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Its files cannot be read or removed.
    #[error(transparent)]
    Files(#[from] FileError),
}

/// A cache of chunks in a directory that no other process uses.
pub struct Cache {
    files: Arc<dyn LockFiles>,
    state: Mutex<State>,
    _lock: Lock,
}

struct State {
    index: Index,
    open: HashMap<SegmentNo, Segment>,
    deeds: CacheDeeds,
}

/// The open files of a segment.
#[derive(Clone)]
struct Segment {
    data: Arc<dyn File>,
    list: Arc<dyn File>,
}

impl Cache {
    /// Opens the cache in `files`, taking up what an earlier process left there.
    pub fn open(files: Arc<dyn LockFiles>, settings: CacheSettings) -> Result<Self, CacheError> {
        if settings.cap_bytes < MIN_CAP_BYTES {
            return Err(CacheError::TooSmall(settings.cap_bytes));
        }
        let lock = files.lock(&named("lock"), LockKind::Exclusive, IfHeld::Fail)?;
        let mut state = State {
            index: Index::new(settings.cap_bytes, SEGMENT_BYTES),
            open: HashMap::new(),
            deeds: CacheDeeds::default(),
        };
        for no in segments_in(&*files)? {
            if !adopt(&*files, &mut state, no)? {
                remove_segment(&*files, no);
            }
        }
        for no in state.index.shrink() {
            state.open.remove(&no);
            remove_segment(&*files, no);
        }
        Ok(Self {
            files,
            state: Mutex::new(state),
            _lock: lock,
        })
    }

    /// Sets another cap. What is more leaves at once, but for what is pinned.
    ///
    /// # Errors
    /// [`CacheError::TooSmall`]; then the cap is as it was.
    pub fn resize(&self, settings: CacheSettings) -> Result<(), CacheError> {
        if settings.cap_bytes < MIN_CAP_BYTES {
            return Err(CacheError::TooSmall(settings.cap_bytes));
        }
        let mut state = self.state();
        let before = state.index.bytes();
        let gone = state.index.resize(settings.cap_bytes, SEGMENT_BYTES);
        state.deeds.evicted_bytes += before - state.index.bytes();
        for no in gone {
            state.open.remove(&no);
            remove_segment(&*self.files, no);
        }
        Ok(())
    }

    /// Fills `buffer` with the bytes of chunk `id` from `offset`, if the cache has it; the part must
    /// lie inside the chunk. A chunk that fails its hash at first use is forgotten.
    pub fn read(&self, id: &ChunkId, offset: u32, buffer: &mut [u8]) -> bool {
        let (slot, verified, data) = {
            let mut state = self.state();
            let Some((slot, verified)) = state.index.get(id) else {
                return false;
            };
            let Some(segment) = state.open.get(&slot.segment) else {
                return false;
            };
            (slot, verified, segment.data.clone())
        };
        let end = u64::from(offset) + buffer.len() as u64;
        if end > u64::from(slot.len) {
            return false;
        }
        let at = u64::from(slot.offset) + u64::from(offset);
        if verified {
            return data.read_at(at, buffer).is_ok();
        }
        match self.verify(id, slot, &*data) {
            Some(chunk) => {
                buffer.copy_from_slice(&chunk[offset as usize..end as usize]);
                true
            }
            None => false,
        }
    }

    /// Whether the cache has chunk `id`; it may still fail its hash at first use.
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.state().index.contains(id)
    }

    /// Keeps a chunk that was verified. Where that fails (a full disk), the cache does without it.
    pub fn store(&self, id: ChunkId, chunk: &[u8]) {
        let Some((placement, segment)) = self.reserve(&id, chunk.len()) else {
            return;
        };
        let slot = placement.slot;
        let mut record = [0; RECORD_BYTES as usize];
        record[..ID_LEN].copy_from_slice(id.as_bytes());
        record[ID_LEN..ID_LEN + 4].copy_from_slice(&slot.offset.to_le_bytes());
        record[ID_LEN + 4..].copy_from_slice(&slot.len.to_le_bytes());
        let written = segment
            .data
            .write_at(slot.offset.into(), chunk)
            .and_then(|()| {
                segment
                    .list
                    .write_at(placement.record * RECORD_BYTES, &record)
            });
        if written.is_ok() {
            self.state().index.filled(id, slot);
        }
    }

    /// Bytes of all files of the cache.
    pub fn bytes(&self) -> u64 {
        self.state().index.bytes()
    }

    /// Bytes that it can take without giving anything up.
    pub fn room(&self) -> u64 {
        self.state().index.room()
    }

    /// Bytes that it can take when all leaves that is not pinned.
    pub fn room_beside_pins(&self) -> u64 {
        let state = self.state();
        state.index.cap().saturating_sub(state.index.pinned_bytes())
    }

    /// Pins chunks, whether they are there or come later: they do not leave. Each time counts.
    pub fn pin(&self, ids: impl IntoIterator<Item = ChunkId>) {
        self.state().index.pin(ids);
    }

    /// Takes one pin of each of these chunks back.
    pub fn unpin(&self, ids: impl IntoIterator<Item = ChunkId>) {
        self.state().index.unpin(ids);
    }

    /// Removes the segments in which nothing is pinned and no chunk is to be kept; the bytes of their files.
    pub fn prune(&self, keep: impl Fn(&ChunkId) -> bool) -> u64 {
        let (gone, freed) = {
            let mut state = self.state();
            let before = state.index.bytes();
            let gone = state.index.prune(keep);
            for no in &gone {
                state.open.remove(no);
            }
            (gone, before - state.index.bytes())
        };
        // Reads go on meanwhile: a number is never used again.
        for no in gone {
            remove_segment(&*self.files, no);
        }
        freed
    }

    /// How much it has, and of what.
    pub fn usage(&self) -> CacheUsage {
        let state = self.state();
        CacheUsage {
            cap_bytes: state.index.cap(),
            bytes: state.index.bytes(),
            pinned_bytes: state.index.pinned_bytes(),
            chunks: state.index.chunks(),
        }
    }

    /// What it did since it was opened.
    pub fn deeds(&self) -> CacheDeeds {
        self.state().deeds
    }

    /// How many chunks it has.
    pub fn chunks(&self) -> usize {
        self.state().index.chunks()
    }

    /// The whole chunk at `slot`, if its bytes are the right ones.
    fn verify(&self, id: &ChunkId, slot: Slot, data: &dyn File) -> Option<Vec<u8>> {
        let mut chunk = vec![0; slot.len as usize];
        let read = data.read_at(slot.offset.into(), &mut chunk);
        let is_right = read.is_ok() && ChunkId::of(&chunk) == *id;
        let mut state = self.state();
        if is_right {
            state.index.verified(id, slot);
            state.deeds.right_chunks += 1;
            return Some(chunk);
        }
        state.index.forget(id, slot);
        state.deeds.wrong_chunks += 1;
        None
    }

    /// Reserves room, removing segments so that the cap holds before the first byte is written.
    fn reserve(&self, id: &ChunkId, len: usize) -> Option<(Placement, Segment)> {
        let mut state = self.state();
        let before = state.index.bytes();
        let placement = state.index.place(id, u32::try_from(len).ok()?)?;
        let without = state.index.bytes() - (len as u64 + RECORD_BYTES);
        state.deeds.evicted_bytes += before - without;
        for no in &placement.evict {
            state.open.remove(no);
            remove_segment(&*self.files, *no);
        }
        let no = placement.slot.segment;
        if placement.new_segment {
            match create_segment(&*self.files, no) {
                Ok(segment) => state.open.insert(no, segment),
                Err(_) => {
                    state.index.remove(no);
                    remove_segment(&*self.files, no);
                    return None;
                }
            };
        }
        let segment = state.open.get(&no)?.clone();
        Some((placement, segment))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers of the segments that have a file, in order.
fn segments_in(files: &dyn LockFiles) -> Result<Vec<SegmentNo>, FileError> {
    let mut numbers: Vec<SegmentNo> = files
        .list(&FilePath::default())?
        .iter()
        .filter_map(|entry| entry.name.split_once('.'))
        .filter(|(_, kind)| matches!(*kind, "data" | "list"))
        .filter_map(|(number, _)| SegmentNo::from_str_radix(number, 16).ok())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// Takes up a segment; `false` if it is of no use.
fn adopt(files: &dyn LockFiles, state: &mut State, no: SegmentNo) -> Result<bool, CacheError> {
    let [data_path, list_path] = segment_paths(no);
    let opened = |path| match files.open(path, OpenMode::Write) {
        Ok(file) => Ok(Some(Arc::<dyn File>::from(file))),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    };
    let (Some(data), Some(list)) = (opened(&data_path)?, opened(&list_path)?) else {
        return Ok(false);
    };
    let Ok(bytes) = read_file(files, &list_path, MAX_LIST_BYTES) else {
        return Ok(false);
    };
    let data_len = data.size()?;
    let mut end = 0;
    let records = bytes.chunks_exact(RECORD_BYTES as usize);
    let chunks: Vec<_> = records.map(parse_record).collect();
    // A record whose bytes did not come to be written still counts against the cap: its offset is
    // where the next chunk must not go. One that is impossible makes the segment useless.
    for (_, offset, len) in &chunks {
        end = end.max(u64::from(*offset) + u64::from(*len));
    }
    if end > SEGMENT_BYTES || data_len > SEGMENT_BYTES {
        return Ok(false);
    }
    state.index.adopt(no, &chunks, end.max(data_len));
    state.open.insert(no, Segment { data, list });
    Ok(true)
}

fn parse_record(record: &[u8]) -> (ChunkId, u32, u32) {
    let number = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&record[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    let mut id = [0; ID_LEN];
    id.copy_from_slice(&record[..ID_LEN]);
    (ChunkId::from_bytes(id), number(ID_LEN), number(ID_LEN + 4))
}

fn create_segment(files: &dyn LockFiles, no: SegmentNo) -> Result<Segment, FileError> {
    let [data, list] = segment_paths(no);
    Ok(Segment {
        data: files.open(&data, OpenMode::CreateNew)?.into(),
        list: files.open(&list, OpenMode::CreateNew)?.into(),
    })
}

/// Best effort: a file that stays is taken up or removed at the next start.
fn remove_segment(files: &dyn LockFiles, no: SegmentNo) {
    for path in segment_paths(no) {
        let _ = files.remove(&path);
    }
}

fn segment_paths(no: SegmentNo) -> [FilePath; 2] {
    [
        named(&format!("{no:016x}.data")),
        named(&format!("{no:016x}.list")),
    ]
}

/// A path of one fixed, valid component.
fn named(name: &str) -> FilePath {
    FilePath::new(name).unwrap_or_default()
}
