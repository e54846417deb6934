//! The pack file: frames, then a footer that says where each chunk lies.
//!
//! ```text
//! header   32 bytes
//!    0  8  magic "SHALEPCK"
//!    8  2  version, 1
//!   10  2  zero
//!   12  4  zero
//!   16  8  feature flags a reader must know, 0
//!   24  8  zero
//! frames   one after the other, from byte 32
//! footer   from the offset that the trailer gives
//!          24 bytes a frame: offset u64, stored length u32, plain length u32, codec u8, zero[7]
//!          44 bytes a chunk: id[32], frame number u32, offset in the frame u32, length u32
//! trailer  64 bytes
//!    0  8  footer offset
//!    8  4  frames
//!   12  4  chunks
//!   16 32  BLAKE3-256 of the footer
//!   48  8  zero
//!   56  8  magic "SHALEPCE"
//! ```
//! All integers are little-endian. Frames lie without gaps, in order, each holding at least one
//! chunk; the chunks of a frame lie in it without gaps, in order, and chunks come in order of frame.
//! So a pack of given frames has one form.

use crate::bytes::{FormatError, Problem, Reader};
use crate::id::{ChunkId, ID_LEN};
use crate::limits::{MAX_FRAME_BYTES, MAX_PACK_BYTES, MAX_PACK_CHUNKS, MAX_PACK_FRAMES};
use crate::seam::FrameLocation;

/// Bytes before the first frame.
pub const PACK_HEADER_BYTES: usize = 32;
/// Bytes at the end of a pack, of fixed form.
pub const PACK_TRAILER_BYTES: usize = 64;

const HEADER_MAGIC: &[u8; 8] = b"SHALEPCK";
const TRAILER_MAGIC: &[u8; 8] = b"SHALEPCE";
const VERSION: u16 = 1;
const FRAME_RECORD_BYTES: usize = 24;
const CHUNK_RECORD_BYTES: usize = ID_LEN + 12;
const WHAT: &str = "pack";

/// How a frame's plain bytes became its stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// They are the same.
    Plain,
    /// One zstd frame (RFC 8878) that states its content size, without dictionary.
    Zstd,
}

impl Codec {
    /// The codec's number in a pack.
    pub fn tag(self) -> u8 {
        match self {
            Codec::Plain => 0,
            Codec::Zstd => 1,
        }
    }

    /// The codec with this number.
    pub fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            0 => Some(Codec::Plain),
            1 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// One chunk in a pack's footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedChunk {
    /// The chunk.
    pub id: ChunkId,
    /// Number of its frame in the pack, from 0.
    pub frame: u32,
    /// First byte in the frame's plain bytes.
    pub offset: u32,
    /// Plain length.
    pub len: u32,
}

/// What a footer says: every frame and every chunk of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackContents {
    frames: Vec<FrameLocation>,
    chunks: Vec<PackedChunk>,
}

impl PackContents {
    /// The frames in order.
    pub fn frames(&self) -> &[FrameLocation] {
        &self.frames
    }

    /// The chunks in order of frame and offset.
    pub fn chunks(&self) -> &[PackedChunk] {
        &self.chunks
    }

    /// Bytes from the start of the pack to the end of its last frame.
    pub fn frames_end(&self) -> u64 {
        self.frames
            .last()
            .map_or(PACK_HEADER_BYTES as u64, |f| f.offset + u64::from(f.stored))
    }

    /// Bytes of the whole pack.
    pub fn pack_bytes(&self) -> u64 {
        self.frames_end()
            + (self.frames.len() * FRAME_RECORD_BYTES) as u64
            + (self.chunks.len() * CHUNK_RECORD_BYTES) as u64
            + PACK_TRAILER_BYTES as u64
    }

    /// Appends one frame of these chunks (id and plain length, in order) after the last.
    pub fn push_frame(&mut self, codec: Codec, stored: u32, chunks: &[(ChunkId, u32)]) {
        let frame = self.frames.len() as u32;
        let offset = self.frames_end();
        let mut plain = 0;
        for &(id, len) in chunks {
            self.chunks.push(PackedChunk {
                id,
                frame,
                offset: plain,
                len,
            });
            plain += len;
        }
        self.frames.push(FrameLocation {
            offset,
            stored,
            plain,
            codec,
        });
    }

    /// Footer and trailer: what follows the last frame.
    pub fn encode_tail(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity((self.pack_bytes() - self.frames_end()) as usize);
        for frame in &self.frames {
            out.extend_from_slice(&frame.offset.to_le_bytes());
            out.extend_from_slice(&frame.stored.to_le_bytes());
            out.extend_from_slice(&frame.plain.to_le_bytes());
            out.push(frame.codec.tag());
            out.extend_from_slice(&[0; 7]);
        }
        for chunk in &self.chunks {
            out.extend_from_slice(chunk.id.as_bytes());
            out.extend_from_slice(&chunk.frame.to_le_bytes());
            out.extend_from_slice(&chunk.offset.to_le_bytes());
            out.extend_from_slice(&chunk.len.to_le_bytes());
        }
        let checksum = *blake3::hash(&out).as_bytes();
        out.extend_from_slice(&self.frames_end().to_le_bytes());
        out.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        out.extend_from_slice(&checksum);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(TRAILER_MAGIC);
        out
    }

    /// The contents that `footer` describes, which `trailer` announced for a pack of that length.
    pub fn decode(trailer: &PackTrailer, footer: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new("pack footer", footer);
        if footer.len() as u64 != trailer.footer_bytes() {
            return Err(reader.error(Problem::Truncated));
        }
        if blake3::hash(footer).as_bytes() != &trailer.checksum {
            return Err(reader.error(Problem::Checksum));
        }
        let frames = read_frames(&mut reader, trailer)?;
        let chunks = read_chunks(&mut reader, trailer, &frames)?;
        reader.finish()?;
        Ok(Self { frames, chunks })
    }
}

fn read_frames(
    reader: &mut Reader<'_>,
    trailer: &PackTrailer,
) -> Result<Vec<FrameLocation>, FormatError> {
    let mut frames = Vec::with_capacity(trailer.frames as usize);
    let mut end = PACK_HEADER_BYTES as u64;
    for _ in 0..trailer.frames {
        let (offset, stored, plain) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let codec = Codec::from_tag(reader.u8()?)
            .ok_or_else(|| reader.error(Problem::Rule("unknown codec")))?;
        reader.zeros::<7>()?;
        reader.rule(offset == end, "frames are not adjacent")?;
        reader.limit("plain frame length", plain.into(), MAX_FRAME_BYTES as u64)?;
        reader.limit("stored frame length", stored.into(), plain.into())?;
        reader.rule(stored > 0, "a frame is empty")?;
        let same = codec != Codec::Plain || stored == plain;
        reader.rule(same, "a plain frame's lengths differ")?;
        end += u64::from(stored);
        frames.push(FrameLocation {
            offset,
            stored,
            plain,
            codec,
        });
    }
    reader.rule(
        end == trailer.footer_offset,
        "frames do not end at the footer",
    )?;
    Ok(frames)
}

fn read_chunks(
    reader: &mut Reader<'_>,
    trailer: &PackTrailer,
    frames: &[FrameLocation],
) -> Result<Vec<PackedChunk>, FormatError> {
    let mut chunks = Vec::with_capacity(trailer.chunks as usize);
    let mut filled = 0;
    let mut current = 0u32;
    for _ in 0..trailer.chunks {
        let id = ChunkId::from_bytes(reader.array()?);
        let (frame, offset, len) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if frame != current {
            let full = frames.get(current as usize).map(|f| f.plain) == Some(filled);
            reader.rule(
                frame == current + 1 && full,
                "a frame is not full of chunks",
            )?;
            (current, filled) = (frame, 0);
        }
        let plain = frames
            .get(frame as usize)
            .map(|f| f.plain)
            .ok_or_else(|| reader.error(Problem::Rule("a chunk's frame does not exist")))?;
        reader.rule(offset == filled, "chunks of a frame are not adjacent")?;
        reader.rule(
            len > 0 && len <= plain - filled,
            "a chunk exceeds its frame",
        )?;
        filled += len;
        chunks.push(PackedChunk {
            id,
            frame,
            offset,
            len,
        });
    }
    let last = frames.len().checked_sub(1);
    let full = match last {
        None => chunks.is_empty(),
        Some(last) => current as usize == last && filled == frames[last].plain,
    };
    reader.rule(full, "the last frame is not full of chunks")?;
    Ok(chunks)
}

/// The first bytes of every pack.
pub fn pack_header() -> [u8; PACK_HEADER_BYTES] {
    let mut header = [0; PACK_HEADER_BYTES];
    header[..8].copy_from_slice(HEADER_MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// Checks the first [`PACK_HEADER_BYTES`] of a pack.
pub fn check_pack_header(bytes: &[u8]) -> Result<(), FormatError> {
    let mut reader = Reader::new(WHAT, bytes);
    reader.start(HEADER_MAGIC, VERSION)?;
    reader.zeros::<6>()?;
    reader.no_features()?;
    reader.zeros::<8>()
}

/// The last bytes of a pack, checked against its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackTrailer {
    /// First byte of the footer in the pack.
    pub footer_offset: u64,
    frames: u32,
    chunks: u32,
    checksum: [u8; ID_LEN],
}

impl PackTrailer {
    /// Reads the last [`PACK_TRAILER_BYTES`] of a pack of `pack_bytes`.
    pub fn decode(trailer: &[u8], pack_bytes: u64) -> Result<Self, FormatError> {
        let mut reader = Reader::new("pack trailer", trailer);
        reader.limit("pack length", pack_bytes, MAX_PACK_BYTES)?;
        let (footer_offset, frames, chunks) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let checksum = reader.array()?;
        reader.zeros::<8>()?;
        if reader.take(8)? != TRAILER_MAGIC {
            return Err(reader.error(Problem::Magic));
        }
        reader.finish()?;
        reader.limit("frames", frames.into(), MAX_PACK_FRAMES as u64)?;
        reader.limit("chunks", chunks.into(), MAX_PACK_CHUNKS as u64)?;
        let this = Self {
            footer_offset,
            frames,
            chunks,
            checksum,
        };
        let end = footer_offset
            .checked_add(this.footer_bytes() + PACK_TRAILER_BYTES as u64)
            .ok_or_else(|| reader.error(Problem::Truncated))?;
        reader.rule(end == pack_bytes, "the footer does not end at the trailer")?;
        Ok(this)
    }

    /// Bytes of the footer.
    pub fn footer_bytes(&self) -> u64 {
        self.frames as u64 * FRAME_RECORD_BYTES as u64
            + self.chunks as u64 * CHUNK_RECORD_BYTES as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, PackContents) {
        let mut contents = PackContents::default();
        let ids = [b"one", b"two", b"six"].map(|text| (ChunkId::of(text), 3));
        contents.push_frame(Codec::Plain, 6, &ids[..2]);
        contents.push_frame(Codec::Plain, 3, &ids[2..]);
        let mut pack = pack_header().to_vec();
        pack.extend_from_slice(b"onetwosix");
        pack.extend_from_slice(&contents.encode_tail());
        (pack, contents)
    }

    fn decode(pack: &[u8]) -> Result<PackContents, FormatError> {
        check_pack_header(&pack[..PACK_HEADER_BYTES.min(pack.len())])?;
        let at = pack.len().saturating_sub(PACK_TRAILER_BYTES);
        let trailer = PackTrailer::decode(&pack[at..], pack.len() as u64)?;
        PackContents::decode(&trailer, &pack[trailer.footer_offset as usize..at])
    }

    #[test]
    fn what_is_written_is_read() {
        let (pack, contents) = sample();
        assert_eq!(decode(&pack), Ok(contents.clone()));
        assert_eq!(contents.pack_bytes(), pack.len() as u64);
    }

    #[test]
    fn the_bytes_of_version_1_stay() {
        let (pack, _) = sample();
        assert_eq!(
            ChunkId::of(&pack).hex(),
            "4694ac584fdbfca4ceffb11eb778a5d617579eaa4d195ee94f8ee85a6e4d220e"
        );
    }

    #[test]
    fn every_cut_and_every_flip_outside_the_frames_is_an_error() {
        let (pack, contents) = sample();
        for len in 0..pack.len() {
            assert!(decode(&pack[..len]).is_err(), "cut to {len}");
        }
        let frames = PACK_HEADER_BYTES..contents.frames_end() as usize;
        for at in (0..pack.len()).filter(|at| !frames.contains(at)) {
            let mut flipped = pack.clone();
            flipped[at] ^= 1;
            assert!(decode(&flipped).is_err(), "flip at {at}");
        }
    }
}
