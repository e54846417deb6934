//! Files become extents: bytes are read straight into a batch, cut there and hashed there.
//!
//! The buffer of a batch, while a file is read:
//!
//! ```text
//! | chunks of this batch | data not yet cut | zeros, hole or not | part of a block | free |
//!                        ^ head             ^ scan - zeros       ^ scan            ^ filled
//! ```
//! Once the zeros are long enough to be a hole, the data before them is cut to its end and the zeros are
//! dropped from the buffer: then `head == scan`, and only their number grows.

use shale_model::limits::{BLOCK_BYTES, MAX_CHUNK_BYTES};
use shale_model::{ChunkId, Chunker, Extent};

use crate::chunker::{MIN_HOLE_BYTES, first_cut};
use crate::seen::Seen;

/// Plain bytes of one batch: enough that asking the sink for a batch costs little, few enough that several
/// fit into the memory of a push.
pub(crate) const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// A batch ends when less room than this is left, so that reads stay large.
const MIN_ROOM_BYTES: usize = 128 * 1024;

/// Most bytes that are carried over into the next batch: uncut data, zeros that are no hole yet, a block.
const MAX_CARRY_BYTES: usize = MAX_CHUNK_BYTES + MIN_HOLE_BYTES + 2 * BLOCK_BYTES;
const _: () = assert!(MAX_CARRY_BYTES + MIN_ROOM_BYTES < BATCH_BYTES);

const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// A chunk in the buffer of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) id: ChunkId,
    pub(crate) start: usize,
    pub(crate) len: u32,
}

/// What was cut so far that nobody has to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Repeated {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
}

/// Cuts one file after the other.
pub(crate) struct Cutter {
    chunker: Chunker,
    seen: Seen,
    buffer: Vec<u8>,
    /// Chunks of the buffer that this push meets for the first time.
    cuts: Vec<Cut>,
    repeated: Repeated,
    extents: Vec<Extent>,
    place: Place,
}

/// Positions in the buffer, see the module.
#[derive(Debug, Default)]
struct Place {
    head: usize,
    scan: usize,
    filled: usize,
    /// Zeros before `scan`.
    zeros: u64,
}

impl Cutter {
    /// A cutter into `buffer`, of [`BATCH_BYTES`].
    pub(crate) fn new(chunker: Chunker, buffer: Vec<u8>) -> Self {
        Self {
            chunker,
            seen: Seen::default(),
            buffer,
            cuts: Vec::new(),
            repeated: Repeated::default(),
            extents: Vec::new(),
            place: Place::default(),
        }
    }

    /// Whether the batch must be taken before more is read.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() - self.place.filled < MIN_ROOM_BYTES
    }

    /// Takes the batch and goes on in `next`, a buffer of the same length.
    pub(crate) fn take_batch(
        &mut self,
        next: impl FnOnce() -> Vec<u8>,
    ) -> Option<(Vec<u8>, Vec<Cut>)> {
        let carried = self.place.head..self.place.filled;
        let taken = if self.cuts.is_empty() {
            self.buffer.copy_within(carried, 0);
            None
        } else {
            let mut buffer = next();
            buffer[..carried.len()].copy_from_slice(&self.buffer[carried]);
            let full = std::mem::replace(&mut self.buffer, buffer);
            Some((full, std::mem::take(&mut self.cuts)))
        };
        self.place.filled -= self.place.head;
        self.place.scan -= self.place.head;
        self.place.head = 0;
        taken
    }

    /// Where the next bytes of the file go, followed by [`Cutter::filled`].
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.place.filled..]
    }

    /// `len` bytes were written to the start of [`Cutter::room`].
    pub(crate) fn filled(&mut self, len: usize) {
        self.place.filled += len;
        while self.place.filled - self.place.scan >= BLOCK_BYTES {
            self.scan_block(BLOCK_BYTES);
        }
    }

    /// The next `len` bytes of the file are zeros. Takes as many as it has room for; returns how many.
    pub(crate) fn zeros(&mut self, len: u64) -> u64 {
        let in_hole = self.place.zeros >= MIN_HOLE_BYTES as u64;
        if in_hole && self.place.filled == self.place.scan && len >= BLOCK_BYTES as u64 {
            let blocks = len - len % BLOCK_BYTES as u64;
            self.place.zeros += blocks;
            return blocks;
        }
        // Up to a hole, and up to the end of a block that was begun, they are bytes like any other.
        let begun = self.place.filled - self.place.scan;
        let written = len.min((MIN_ROOM_BYTES - begun) as u64) as usize;
        self.room()[..written].fill(0);
        self.filled(written);
        written as u64
    }

    /// Ends the file: its extents, and what of it was repeated.
    pub(crate) fn end_file(&mut self) -> (Vec<Extent>, Repeated) {
        let rest = self.place.filled - self.place.scan;
        if rest > 0 {
            self.scan_block(rest);
        }
        if self.in_hole() {
            let len = self.place.zeros;
            self.extents.push(Extent::Hole { len });
        } else {
            self.cut_until(self.place.scan);
        }
        self.place.zeros = 0;
        let repeated = std::mem::take(&mut self.repeated);
        (std::mem::take(&mut self.extents), repeated)
    }

    fn in_hole(&self) -> bool {
        self.place.zeros >= MIN_HOLE_BYTES as u64
    }

    /// Looks at the next block, which has `len` bytes.
    fn scan_block(&mut self, len: usize) {
        let was_in_hole = self.in_hole();
        let block = &self.buffer[self.place.scan..][..len];
        let is_zero = *block == ZEROS[..len];
        if is_zero {
            self.place.scan += len;
            self.place.zeros += len as u64;
            if self.in_hole() {
                if !was_in_hole {
                    self.cut_until(self.place.scan - self.place.zeros as usize);
                }
                self.place.head = self.place.scan;
                self.drop_hole();
            }
            return;
        }
        if was_in_hole {
            let len = self.place.zeros;
            self.extents.push(Extent::Hole { len });
        }
        self.place.zeros = 0;
        self.place.scan += len;
        while self.place.scan - self.place.head >= MAX_CHUNK_BYTES {
            self.cut(self.place.scan);
        }
    }

    /// Gives the room of a hole back, where nothing follows it in the buffer.
    fn drop_hole(&mut self) {
        if self.place.filled == self.place.scan {
            let end = self
                .cuts
                .last()
                .map_or(0, |cut| cut.start + cut.len as usize);
            self.place = Place {
                head: end,
                scan: end,
                filled: end,
                zeros: self.place.zeros,
            };
        }
    }

    /// Cuts all data before `end`, where a run of data ends.
    fn cut_until(&mut self, end: usize) {
        while self.place.head < end {
            self.cut(end);
        }
    }

    /// Cuts one chunk from the data before `end`.
    fn cut(&mut self, end: usize) {
        let start = self.place.head;
        let len = first_cut(self.chunker, &self.buffer[start..end]);
        let id = ChunkId::of(&self.buffer[start..start + len]);
        self.place.head = start + len;
        let len = len as u32;
        self.extents.push(Extent::Chunk { id, len });
        if self.seen.add(&id) {
            self.cuts.push(Cut { id, start, len });
        } else {
            self.repeated.chunks += 1;
            self.repeated.bytes += u64::from(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::Run;

    /// The rules of the chunker module, on a whole file at once.
    fn model(chunker: Chunker, bytes: &[u8]) -> Vec<Extent> {
        let mut extents = Vec::new();
        let mut data_from = 0;
        let mut at = 0;
        let cut_all = |from: usize, to: usize, extents: &mut Vec<Extent>| {
            let mut from = from;
            while from < to {
                let len = first_cut(chunker, &bytes[from..to]);
                let id = ChunkId::of(&bytes[from..from + len]);
                let len = len as u32;
                extents.push(Extent::Chunk { id, len });
                from += len as usize;
            }
        };
        while at < bytes.len() {
            let zeros = bytes[at..].iter().take_while(|b| **b == 0).count();
            let whole = at + zeros == bytes.len();
            let run = if whole {
                zeros
            } else {
                zeros - zeros % BLOCK_BYTES
            };
            if run >= MIN_HOLE_BYTES {
                cut_all(data_from, at, &mut extents);
                extents.push(Extent::Hole { len: run as u64 });
                data_from = at + run;
                at += run;
            } else {
                at += BLOCK_BYTES;
            }
        }
        cut_all(data_from, bytes.len(), &mut extents);
        extents
    }

    fn noise(seed: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    /// Lengths around everything that matters.
    fn length() -> impl Strategy<Value = usize> {
        let around = prop_oneof![
            Just(1),
            Just(BLOCK_BYTES),
            Just(MIN_HOLE_BYTES),
            Just(2 * MIN_HOLE_BYTES),
            Just(MAX_CHUNK_BYTES),
        ];
        prop_oneof![
            (around, 0..3usize).prop_map(|(len, more)| len + more - 1),
            0..300_000usize
        ]
    }

    /// Cuts a file that is read in pieces; the batches must hold every new chunk.
    fn cut(cutter: &mut Cutter, pieces: &[(Run, Vec<u8>)], held: &mut Vec<ChunkId>) -> Vec<Extent> {
        let mut check = |cutter: &mut Cutter| {
            let len = cutter.buffer.len();
            if let Some((bytes, cuts)) = cutter.take_batch(|| vec![0xee; len]) {
                for cut in cuts {
                    let range = cut.start..cut.start + cut.len as usize;
                    assert_eq!(ChunkId::of(&bytes[range]), cut.id);
                    held.push(cut.id);
                }
            }
        };
        for (run, bytes) in pieces {
            match run {
                Run::Zeros(zeros) => {
                    let mut left = *zeros;
                    while left > 0 {
                        if cutter.is_full() {
                            check(cutter);
                        }
                        left -= cutter.zeros(left);
                    }
                }
                _ => {
                    for piece in bytes.chunks(100_000) {
                        if cutter.is_full() {
                            check(cutter);
                        }
                        cutter.room()[..piece.len()].copy_from_slice(piece);
                        cutter.filled(piece.len());
                    }
                }
            }
        }
        let (extents, _) = cutter.end_file();
        check(cutter);
        extents
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn streams_are_cut_like_whole_files(
            segments in proptest::collection::vec((any::<bool>(), any::<bool>(), length()), 0..6),
            snapped: bool,
        ) {
            let chunker = if snapped { Chunker::FastCdcSnapped } else { Chunker::FastCdc };
            let mut bytes = Vec::new();
            let mut pieces = Vec::new();
            for (number, (zero, told, len)) in segments.into_iter().enumerate() {
                let segment = if zero { vec![0; len] } else { noise(number as u32, len) };
                bytes.extend_from_slice(&segment);
                match (zero && told, len) {
                    (_, 0) => {}
                    (true, len) => pieces.push((Run::Zeros(len as u64), Vec::new())),
                    (false, len) => pieces.push((Run::Data(len), segment)),
                }
            }
            // A small buffer, so that batches end in the middle of everything.
            let mut cutter = Cutter::new(chunker, vec![0; MAX_CARRY_BYTES + MIN_ROOM_BYTES]);
            let mut held = Vec::new();
            let expected = model(chunker, &bytes);
            // The second time nothing is new.
            for _ in 0..2 {
                prop_assert_eq!(&cut(&mut cutter, &pieces, &mut held), &expected);
            }
            let mut ids: Vec<_> = expected.iter().filter_map(|extent| match extent {
                Extent::Chunk { id, .. } => Some(*id),
                Extent::Hole { .. } => None,
            }).collect();
            ids.sort();
            ids.dedup();
            held.sort();
            prop_assert_eq!(held, ids);
        }
    }

    #[test]
    fn a_huge_hole_costs_nothing() {
        let mut cutter = Cutter::new(Chunker::FastCdc, vec![0; BATCH_BYTES]);
        let len = 9 << 40;
        let pieces = [
            (Run::Zeros(len), vec![]),
            (Run::Data(1), vec![1]),
            (Run::Zeros(len - 1), vec![]),
        ];
        let extents = cut(&mut cutter, &pieces, &mut Vec::new());
        let block = [&[1][..], &[0; BLOCK_BYTES - 1]].concat();
        let id = ChunkId::of(&block);
        let chunk = Extent::Chunk { id, len: 4096 };
        let rest = Extent::Hole { len: len - 4096 };
        assert_eq!(extents, [Extent::Hole { len }, chunk, rest]);
    }
}
