//! The plan: an image as data, in one file that is mapped into memory and read in place.
//!
//! ```text
//! header   128 bytes
//!    0  8  magic "SHALEPLN"
//!    8  2  version, 1
//!   10  6  zero
//!   16  8  feature flags a reader must know, 0
//!   24  8  bytes of the disk, a multiple of 4096
//!   32  8  runs
//!   40  8  chunks
//!   48  8  bytes of content: the sum of all chunk lengths
//!   56  8  synthesised bytes
//!   64 32  template
//!   96 32  zero
//! runs     24 bytes each, by block, not overlapping; what no run covers is zeros
//!    0  4  first block of 4096 bytes
//!    4  4  source: 0 content, 1 synthesised
//!    8  8  where in the source its first byte is
//!   16  8  bytes; zeros follow to the end of the last block
//! chunks   40 bytes each, by offset; a chunk that two files hold stands twice
//!    0 32  id
//!   32  8  where in the content its first byte is
//! zeros    to a multiple of 4096
//! synthesised bytes
//! ```
//! All integers are little-endian. *Content* is the concatenation of the chunks: a file is one or a few
//! runs over a part of it, so that finding the chunks of any block takes two binary searches.
//! Opening a plan reads its header only; every look-up checks what it reads, so that damaged bytes give
//! an error and never a panic.

use std::borrow::Cow;

use crate::bytes::{FormatError, Problem, Reader};
use crate::id::{ChunkId, ID_LEN, PlanId, TemplateId};
use crate::limits::{BLOCK_BYTES, MAX_FILE_BYTES, MAX_PAGE_BYTES};

const MAGIC: &[u8; 8] = b"SHALEPLN";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 128;
const RUN_BYTES: usize = 24;
const CHUNK_BYTES: usize = ID_LEN + 8;
const WHAT: &str = "plan";
const BLOCK: u64 = BLOCK_BYTES as u64;

/// A run of blocks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First block.
    pub block: u32,
    /// Bytes, at least one; the rest of the last block is zeros.
    pub bytes: u64,
    /// Where the bytes come from.
    pub source: RunSource,
}

/// Where the bytes of a [`Run`] come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunSource {
    /// The content, from this byte on.
    Content(u64),
    /// The synthesised bytes, from this byte on.
    Synthesised(u64),
}

impl Run {
    /// The block after its last.
    pub fn end_block(&self) -> u64 {
        u64::from(self.block) + self.bytes.div_ceil(BLOCK)
    }
}

/// What a plan is made of, before it is a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanParts {
    /// The template whose image it is.
    pub template: TemplateId,
    /// Bytes of the disk, a multiple of 4096.
    pub disk_bytes: u64,
    /// Runs in order of block.
    pub runs: Vec<Run>,
    /// Chunks in content order with their lengths.
    pub chunks: Vec<(ChunkId, u32)>,
    /// The bytes that the layout made.
    pub synthesised: Vec<u8>,
}

impl PlanParts {
    /// The plan file, and its id.
    pub fn encode(&self) -> (PlanId, Vec<u8>) {
        let (id, mut file) = self.head();
        file.extend_from_slice(&self.synthesised);
        (id, file)
    }

    /// What comes before [`Self::synthesised`] in the plan file, and the id of the whole file. Who writes the file can
    /// write both, and spare the copy that [`Self::encode`] makes: the synthesised bytes are most of a plan.
    pub fn head(&self) -> (PlanId, Vec<u8>) {
        let tables = HEADER_BYTES + self.runs.len() * RUN_BYTES + self.chunks.len() * CHUNK_BYTES;
        let start = tables.next_multiple_of(BLOCK_BYTES);
        let mut out = Vec::with_capacity(start);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.resize(24, 0);
        let content: u64 = self.chunks.iter().map(|(_, len)| u64::from(*len)).sum();
        for value in [
            self.disk_bytes,
            self.runs.len() as u64,
            self.chunks.len() as u64,
            content,
            self.synthesised.len() as u64,
        ] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(self.template.as_bytes());
        out.resize(HEADER_BYTES, 0);
        for run in &self.runs {
            let (source, at) = match run.source {
                RunSource::Content(at) => (0u32, at),
                RunSource::Synthesised(at) => (1, at),
            };
            out.extend_from_slice(&run.block.to_le_bytes());
            out.extend_from_slice(&source.to_le_bytes());
            out.extend_from_slice(&at.to_le_bytes());
            out.extend_from_slice(&run.bytes.to_le_bytes());
        }
        let mut at = 0u64;
        for (id, len) in &self.chunks {
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&at.to_le_bytes());
            at += u64::from(*len);
        }
        out.resize(start, 0);
        (PlanId::of_parts([&out, &self.synthesised]), out)
    }
}

/// A plan over the bytes of its file, which may be a memory map.
#[derive(Debug, Clone)]
pub struct Plan<B> {
    bytes: B,
    template: TemplateId,
    disk_bytes: u64,
    runs: usize,
    chunks: usize,
    content: u64,
    synthesised: usize,
}

/// A part of a disk, as [`Plan::pieces`] cuts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// This many zeros.
    Zero(u64),
    /// These bytes.
    Bytes(&'a [u8]),
    /// A part of a chunk.
    Chunk(ChunkSlice),
}

/// A part of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSlice {
    /// Position of the chunk in the plan.
    pub index: usize,
    /// The chunk.
    pub id: ChunkId,
    /// Plain length of the whole chunk.
    pub chunk_len: u32,
    /// First byte of the part.
    pub offset: u32,
    /// Bytes of the part.
    pub len: u32,
}

impl Piece<'_> {
    /// Bytes of the disk that it covers.
    pub fn len(&self) -> u64 {
        match self {
            Piece::Zero(len) => *len,
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Chunk(slice) => u64::from(slice.len),
        }
    }

    /// Never: a piece covers at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl<B: AsRef<[u8]>> Plan<B> {
    /// Reads the header and checks that the file has the length that it says.
    pub fn open(bytes: B) -> Result<Self, FormatError> {
        let file = bytes.as_ref();
        let mut reader = Reader::new(WHAT, file);
        reader.start(MAGIC, VERSION)?;
        reader.zeros::<6>()?;
        reader.no_features()?;
        let disk_bytes = reader.u64()?;
        reader.limit("disk bytes", disk_bytes, MAX_FILE_BYTES)?;
        reader.rule(
            disk_bytes % BLOCK == 0,
            "the disk does not end with a block",
        )?;
        let mut counts = [0usize; 2];
        for count in &mut counts {
            let value = reader.u64()?;
            reader.limit("table length", value, file.len() as u64)?;
            *count = value as usize;
        }
        let content = reader.u64()?;
        let synthesised = reader.u64()?;
        reader.limit("synthesised bytes", synthesised, file.len() as u64)?;
        let template = TemplateId::from_bytes(reader.array()?);
        reader.zeros::<32>()?;
        let this = Self {
            template,
            disk_bytes,
            runs: counts[0],
            chunks: counts[1],
            content,
            synthesised: synthesised as usize,
            bytes,
        };
        // Both counts are at most the file's length, so that no product overflows.
        let end = this.synthesised_start() as u64 + synthesised;
        if end != this.bytes.as_ref().len() as u64 {
            return Err(fault(0, Problem::Truncated));
        }
        Ok(this)
    }

    /// The template whose image it is.
    pub fn template(&self) -> TemplateId {
        self.template
    }

    /// Bytes of the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// How many chunks the plan names, with repetitions.
    pub fn chunk_count(&self) -> usize {
        self.chunks
    }

    /// How many runs the plan has.
    pub fn run_count(&self) -> usize {
        self.runs
    }

    /// Bytes of all chunks, with repetitions.
    pub fn content_bytes(&self) -> u64 {
        self.content
    }

    /// Id and plain length of the chunk at position `index`.
    pub fn chunk(&self, index: usize) -> Result<(ChunkId, u32), FormatError> {
        let (id, start) = self.chunk_record(index)?;
        let end = match index + 1 {
            next if next < self.chunks => self.chunk_record(next)?.1,
            _ => self.content,
        };
        // Pages of layers are chunks too, so that theirs is the largest length.
        let len = end
            .checked_sub(start)
            .filter(|len| *len <= MAX_PAGE_BYTES as u64);
        match len {
            Some(len) if len > 0 => Ok((id, len as u32)),
            _ => Err(self.chunk_fault(index, "a chunk has an impossible length")),
        }
    }

    /// The run at position `index`.
    pub fn run(&self, index: usize) -> Result<Run, FormatError> {
        let at = HEADER_BYTES + index * RUN_BYTES;
        let mut reader = self.record(at, RUN_BYTES)?;
        let (block, source) = (reader.u32()?, reader.u32()?);
        let (at, bytes) = (reader.u64()?, reader.u64()?);
        let (source, limit) = match source {
            0 => (RunSource::Content(at), self.content),
            1 => (RunSource::Synthesised(at), self.synthesised as u64),
            _ => {
                return Err(fault(
                    HEADER_BYTES,
                    Problem::Rule("a run has no such source"),
                ));
            }
        };
        let inside = at.checked_add(bytes).is_some_and(|end| end <= limit);
        let run = Run {
            block,
            bytes,
            source,
        };
        let on_disk =
            bytes > 0 && bytes <= self.disk_bytes && run.end_block() <= self.disk_bytes / BLOCK;
        if inside && on_disk {
            Ok(run)
        } else {
            Err(fault(
                HEADER_BYTES,
                Problem::Rule("a run leaves its source or the disk"),
            ))
        }
    }

    /// Cuts `len` bytes of the disk from `offset` into pieces, in order, and gives them to `visit`
    /// until all are done or it fails. The range must lie on the disk.
    pub fn pieces<'a, E: From<FormatError>>(
        &'a self,
        offset: u64,
        len: u64,
        mut visit: impl FnMut(Piece<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= self.disk_bytes);
        let end = end.ok_or_else(|| fault(0, Problem::Rule("a read leaves the disk")))?;
        let mut at = offset;
        let mut index = self.first_run_ending_after(at)?;
        while at < end {
            let run = match index {
                index if index < self.runs => Some(self.run(index)?),
                _ => None,
            };
            let start = run
                .map_or(end, |run| u64::from(run.block) * BLOCK)
                .clamp(at, end);
            if start > at {
                visit(Piece::Zero(start - at))?;
                at = start;
            }
            let Some(run) = run.filter(|_| at < end) else {
                break;
            };
            let inside = at - u64::from(run.block) * BLOCK;
            let take = (end - at).min(run.bytes.saturating_sub(inside));
            match run.source {
                RunSource::Synthesised(from) => {
                    if take > 0 {
                        visit(Piece::Bytes(self.synthesised(from + inside, take)?))?;
                    }
                }
                RunSource::Content(from) => self.content(from + inside, take, &mut visit)?,
            }
            at += take;
            let tail = (run.end_block() * BLOCK).min(end).saturating_sub(at);
            if tail > 0 {
                visit(Piece::Zero(tail))?;
                at += tail;
            }
            index += 1;
        }
        Ok(())
    }

    /// `len` bytes of the disk from `offset` that hold nothing of a chunk: what the layout made, and zeros.
    /// Borrowed where they lie in one run, as metadata mostly does.
    ///
    /// # Errors
    /// The range leaves the disk, or a chunk lies in it.
    pub fn synthesised_range(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>, FormatError> {
        let mut found: Cow<'_, [u8]> = Cow::Borrowed(&[]);
        self.pieces(offset, len as u64, |piece| {
            match piece {
                Piece::Bytes(bytes) if found.is_empty() => found = Cow::Borrowed(bytes),
                Piece::Bytes(bytes) => found.to_mut().extend_from_slice(bytes),
                Piece::Zero(zeros) => {
                    let all = found.len() + zeros as usize;
                    found.to_mut().resize(all, 0);
                }
                Piece::Chunk(_) => {
                    let rule = Problem::Rule("a chunk lies where metadata should");
                    return Err(fault(HEADER_BYTES, rule));
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Cuts `len` bytes of the content from `from` at chunk borders.
    fn content<'a, E: From<FormatError>>(
        &'a self,
        mut from: u64,
        len: u64,
        visit: &mut impl FnMut(Piece<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = from + len;
        let mut index = self.chunk_at(from)?;
        while from < end {
            let (id, chunk_len) = self.chunk(index)?;
            let start = self.chunk_record(index)?.1;
            let offset = from
                .checked_sub(start)
                .filter(|offset| *offset < u64::from(chunk_len))
                .ok_or_else(|| self.chunk_fault(index, "chunks are out of order"))?;
            let take = (u64::from(chunk_len) - offset).min(end - from);
            visit(Piece::Chunk(ChunkSlice {
                index,
                id,
                chunk_len,
                offset: offset as u32,
                len: take as u32,
            }))?;
            from += take;
            index += 1;
        }
        Ok(())
    }

    /// Position of the chunk that holds byte `from` of the content.
    fn chunk_at(&self, from: u64) -> Result<usize, FormatError> {
        let after = partition_point(self.chunks, |index| Ok(self.chunk_record(index)?.1 <= from))?;
        Ok(after.saturating_sub(1))
    }

    fn first_run_ending_after(&self, at: u64) -> Result<usize, FormatError> {
        partition_point(self.runs, |index| {
            Ok(self.run(index)?.end_block() * BLOCK <= at)
        })
    }

    fn synthesised(&self, from: u64, len: u64) -> Result<&[u8], FormatError> {
        let start = self.synthesised_start() + from as usize;
        let bytes = self.bytes.as_ref().get(start..start + len as usize);
        bytes.ok_or_else(|| fault(start, Problem::Truncated))
    }

    fn synthesised_start(&self) -> usize {
        let tables = HEADER_BYTES + self.runs * RUN_BYTES + self.chunks * CHUNK_BYTES;
        tables.next_multiple_of(BLOCK_BYTES)
    }

    fn chunk_record(&self, index: usize) -> Result<(ChunkId, u64), FormatError> {
        if index >= self.chunks {
            return Err(self.chunk_fault(index, "the content has no such chunk"));
        }
        let at = HEADER_BYTES + self.runs * RUN_BYTES + index * CHUNK_BYTES;
        let mut reader = self.record(at, CHUNK_BYTES)?;
        Ok((ChunkId::from_bytes(reader.array()?), reader.u64()?))
    }

    fn chunk_fault(&self, index: usize, rule: &'static str) -> FormatError {
        let at = HEADER_BYTES + self.runs * RUN_BYTES;
        fault(
            at.saturating_add(index.saturating_mul(CHUNK_BYTES)),
            Problem::Rule(rule),
        )
    }

    fn record(&self, at: usize, len: usize) -> Result<Reader<'_>, FormatError> {
        let record = self.bytes.as_ref().get(at..at + len);
        let record = record.ok_or_else(|| fault(at, Problem::Truncated))?;
        Ok(Reader::new(WHAT, record))
    }
}

fn fault(at: usize, problem: Problem) -> FormatError {
    FormatError {
        what: WHAT,
        at,
        problem,
    }
}

/// The first index of 0..`len` at which `before` is false, for a predicate that is true up to there.
fn partition_point(
    len: usize,
    before: impl Fn(usize) -> Result<bool, FormatError>,
) -> Result<usize, FormatError> {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Runs of random length and gaps over chunks of random lengths, and the disk as plain bytes.
    fn plans() -> impl Strategy<Value = (PlanParts, Vec<u8>)> {
        let chunks = vec(vec(any::<u8>(), 1..9000), 1..12);
        let runs = vec((0u32..4, any::<bool>(), 1u64..20_000, any::<u64>()), 0..12);
        (chunks, runs, vec(any::<u8>(), 1..20_000), 1u64..5).prop_map(
            |(chunks, shapes, synthesised, tail)| {
                let content = chunks.concat();
                let mut runs = Vec::new();
                let mut disk = Vec::new();
                for (gap, from_content, bytes, at) in shapes {
                    disk.resize(disk.len() + gap as usize * BLOCK_BYTES, 0);
                    let source = if from_content { &content } else { &synthesised };
                    let at = at % source.len() as u64;
                    let bytes = bytes.min(source.len() as u64 - at);
                    runs.push(Run {
                        block: (disk.len() / BLOCK_BYTES) as u32,
                        bytes,
                        source: match from_content {
                            true => RunSource::Content(at),
                            false => RunSource::Synthesised(at),
                        },
                    });
                    disk.extend_from_slice(&source[at as usize..(at + bytes) as usize]);
                    disk.resize(disk.len().next_multiple_of(BLOCK_BYTES), 0);
                }
                disk.resize(disk.len() + tail as usize * BLOCK_BYTES, 0);
                let parts = PlanParts {
                    template: TemplateId::of(b"t"),
                    disk_bytes: disk.len() as u64,
                    runs,
                    chunks: chunks
                        .iter()
                        .map(|c| (ChunkId::of(c), c.len() as u32))
                        .collect(),
                    synthesised,
                };
                (parts, disk)
            },
        )
    }

    fn read(plan: &Plan<Vec<u8>>, content: &[u8], offset: u64, len: u64) -> Vec<u8> {
        let mut out = Vec::new();
        plan.pieces::<FormatError>(offset, len, |piece| {
            assert!(!matches!(piece.len(), 0));
            match piece {
                Piece::Zero(len) => out.resize(out.len() + len as usize, 0),
                Piece::Bytes(bytes) => out.extend_from_slice(bytes),
                Piece::Chunk(slice) => {
                    let (_, start) = plan.chunk_record(slice.index)?;
                    let from = start as usize + slice.offset as usize;
                    out.extend_from_slice(&content[from..from + slice.len as usize]);
                }
            }
            Ok(())
        })
        .unwrap();
        out
    }

    proptest! {
        #[test]
        fn any_range_reads_as_on_the_disk(
            (parts, disk) in plans(),
            ranges in vec((any::<u64>(), 0u64..30_000), 8),
        ) {
            // The content bytes are found again through the model's own concatenation.
            let (_, file) = parts.encode();
            let plan = Plan::open(file).unwrap();
            let mut content = vec![0; plan.content_bytes() as usize];
            for run in &parts.runs {
                if let RunSource::Content(at) = run.source {
                    let from = run.block as usize * BLOCK_BYTES;
                    let bytes = &disk[from..from + run.bytes as usize];
                    content[at as usize..][..bytes.len()].copy_from_slice(bytes);
                }
            }
            for (offset, len) in ranges {
                let offset = offset % disk.len() as u64;
                let len = len.min(disk.len() as u64 - offset);
                let expected = &disk[offset as usize..(offset + len) as usize];
                prop_assert_eq!(&read(&plan, &content, offset, len), expected);
            }
        }

        #[test]
        fn damaged_bytes_never_panic((parts, disk) in plans(), flips in vec((any::<usize>(), any::<u8>()), 1..6)) {
            let (_, mut file) = parts.encode();
            for (at, value) in flips {
                let at = at % (file.len() - parts.synthesised.len());
                file[at] = value;
            }
            if let Ok(plan) = Plan::open(file) {
                let len = plan.disk_bytes().min(disk.len() as u64);
                let mut covered = 0;
                let done = plan.pieces::<FormatError>(0, len, |piece| {
                    covered += piece.len();
                    Ok(())
                });
                prop_assert!(done.is_err() || covered == len);
            }
        }
    }

    #[test]
    fn a_range_without_chunks_is_borrowed_where_it_lies_together() {
        let block = BLOCK_BYTES as u64;
        let run = |block, bytes, source| Run {
            block,
            bytes,
            source,
        };
        let parts = PlanParts {
            template: TemplateId::of(b"t"),
            disk_bytes: 5 * block,
            runs: vec![
                run(1, 5000, RunSource::Synthesised(0)),
                run(3, 10, RunSource::Synthesised(5000)),
                run(4, 3, RunSource::Content(0)),
            ],
            chunks: vec![(ChunkId::of(b"abc"), 3)],
            synthesised: (0..5010).map(|at| (at % 251) as u8 | 1).collect(),
        };
        let plan = Plan::open(parts.encode().1).unwrap();
        let made = &parts.synthesised;
        let range = |offset, len| plan.synthesised_range(offset, len).unwrap();
        assert!(matches!(range(block + 7, 4000), Cow::Borrowed(b) if *b == made[7..4007]));
        assert_eq!(range(0, 4096), vec![0; 4096]);
        let mixed = [&made[4000..5000], &vec![0; 3192][..], &made[5000..5004]].concat();
        assert_eq!(range(block + 4000, mixed.len()), mixed);
        assert!(range(0, 0).is_empty());
        assert!(plan.synthesised_range(4 * block - 1, 2).is_err());
        assert!(plan.synthesised_range(5 * block - 1, 2).is_err());
        assert!(plan.synthesised_range(u64::MAX, 2).is_err());
    }

    #[test]
    fn a_cut_file_does_not_open() {
        let parts = PlanParts {
            template: TemplateId::of(b"t"),
            disk_bytes: 8192,
            runs: vec![],
            chunks: vec![],
            synthesised: vec![1; 100],
        };
        let (id, file) = parts.encode();
        assert_eq!(id, PlanId::of(&file));
        for len in 0..file.len() {
            assert!(Plan::open(&file[..len]).is_err(), "{len}");
        }
    }
}
