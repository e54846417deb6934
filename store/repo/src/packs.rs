//! Pack files: what their footer says, and whether all of one is sound.

use shale_files::{EntryKind, File, FileError, FilePath, LockFiles};
use shale_model::{
    ChunkId, FormatError, PACK_HEADER_BYTES, PACK_TRAILER_BYTES, PackContents, PackId, PackTrailer,
    PackedChunk, Problem, SeamError, SeamResult, Trouble, check_pack_header, decode_frame,
};

use crate::paths;
use crate::trouble::failed;

/// What is wrong with a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackFault {
    /// Header, footer or a frame breaks the format.
    #[error("it is damaged")]
    Format(#[from] FormatError),
    /// A chunk's bytes do not have the id that the footer gives it.
    #[error("its bytes at {offset} of frame {frame} are not chunk {id}")]
    Chunk {
        /// The chunk that should be there.
        id: ChunkId,
        /// Number of the frame.
        frame: u32,
        /// First byte in the frame's plain bytes.
        offset: u32,
    },
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What the footer of the pack in `file` says, after checking header, trailer and footer. Costs a
/// read of the footer and as much memory.
pub fn read_pack_contents(file: &dyn File) -> Result<PackContents, PackFault> {
    let size = file.size()?;
    let least = (PACK_HEADER_BYTES + PACK_TRAILER_BYTES) as u64;
    let Some(trailer_at) = size
        .checked_sub(PACK_TRAILER_BYTES as u64)
        .filter(|_| size >= least)
    else {
        return Err(PackFault::Format(FormatError {
            what: "pack",
            at: 0,
            problem: Problem::Truncated,
        }));
    };
    let mut header = [0; PACK_HEADER_BYTES];
    file.read_at(0, &mut header)?;
    check_pack_header(&header)?;
    let mut trailer = [0; PACK_TRAILER_BYTES];
    file.read_at(trailer_at, &mut trailer)?;
    let trailer = PackTrailer::decode(&trailer, size)?;
    // The trailer says, and its decoder checked, that the footer lies inside the file.
    let mut footer = vec![0; trailer.footer_bytes() as usize];
    file.read_at(trailer.footer_offset, &mut footer)?;
    Ok(PackContents::decode(&trailer, &footer)?)
}

/// Checks a pack from anywhere as a whole: header, footer, every frame decompressed and every chunk
/// hashed. Memory: the footer, and one frame at a time.
pub fn verify_pack(file: &dyn File) -> Result<PackContents, PackFault> {
    let contents = read_pack_contents(file)?;
    let mut chunks = contents.chunks();
    for (number, frame) in contents.frames().iter().enumerate() {
        let mut stored = vec![0; frame.stored as usize];
        file.read_at(frame.offset, &mut stored)?;
        let plain = decode_frame(frame.codec, stored, frame.plain)?;
        // The footer's decoder checked that chunks come in order of frame and fill each.
        let here = chunks.partition_point(|chunk| (chunk.frame as usize) <= number);
        let (these, rest) = chunks.split_at(here);
        chunks = rest;
        these
            .iter()
            .try_for_each(|chunk| check_chunk(&plain, chunk))?;
    }
    Ok(contents)
}

fn check_chunk(plain: &[u8], chunk: &PackedChunk) -> Result<(), PackFault> {
    let bytes = plain
        .get(chunk.offset as usize..)
        .and_then(|rest| rest.get(..chunk.len as usize));
    match bytes {
        Some(bytes) if ChunkId::of(bytes) == chunk.id => Ok(()),
        _ => Err(PackFault::Chunk {
            id: chunk.id,
            frame: chunk.frame,
            offset: chunk.offset,
        }),
    }
}

impl PackFault {
    /// This fault of a pack that somebody sent or that lies in the repository.
    pub(crate) fn of(self, pack: PackId) -> SeamError {
        let action = format!("check pack {pack}");
        match self {
            PackFault::File(error) => failed(action, error),
            fault => SeamError::caused(Trouble::Integrity, action, fault),
        }
    }
}

/// The packs that lie in the repository, in order of id.
pub(crate) fn list_packs(files: &dyn LockFiles) -> SeamResult<Vec<PackId>> {
    let list = |dir: &FilePath| files.list(dir).map_err(|error| failed("list packs", error));
    let all = paths::dir("packs");
    let mut packs = Vec::new();
    for dir in list(&all)? {
        // What lies elsewhere, or is spelled otherwise, is not ours.
        let Some(dir) = all
            .join(&dir.name)
            .ok()
            .filter(|_| dir.kind == EntryKind::Dir)
        else {
            continue;
        };
        let ids = list(&dir)?
            .into_iter()
            .filter_map(|entry| paths::pack_of_name(&entry.name));
        packs.extend(ids.filter(|id| paths::pack(*id).parent().as_ref() == Some(&dir)));
    }
    Ok(packs)
}

#[cfg(test)]
mod tests {
    use shale_files::{Files, MemoryFiles, OpenMode};
    use shale_model::{Codec, FrameEncoder, pack_header};

    use super::*;

    fn file(bytes: &[u8]) -> Box<dyn File> {
        let path = FilePath::new("pack").unwrap();
        let file = MemoryFiles::new().open(&path, OpenMode::CreateNew).unwrap();
        file.write_at(0, bytes).unwrap();
        file
    }

    /// Codec, stored bytes, and what the footer claims of each chunk.
    type Frame = (Codec, Vec<u8>, Vec<Vec<u8>>);

    /// A pack of these frames, sound but for what its frames really hold.
    fn pack(frames: &[Frame]) -> Vec<u8> {
        let mut contents = PackContents::default();
        let mut bytes = pack_header().to_vec();
        for (codec, stored, chunks) in frames {
            let chunks: Vec<_> = chunks
                .iter()
                .map(|plain| (ChunkId::of(plain), plain.len() as u32))
                .collect();
            contents.push_frame(*codec, stored.len() as u32, &chunks);
            bytes.extend_from_slice(stored);
        }
        bytes.extend_from_slice(&contents.encode_tail());
        bytes
    }

    fn zstd(plain: &[u8]) -> Vec<u8> {
        FrameEncoder::new()
            .unwrap()
            .compress(plain)
            .unwrap()
            .unwrap()
    }

    fn sample() -> Vec<u8> {
        let chunks = [vec![1; 5000], vec![2; 300]];
        pack(&[
            (Codec::Zstd, zstd(&chunks.concat()), chunks.to_vec()),
            (Codec::Plain, b"plain".to_vec(), vec![b"plain".to_vec()]),
        ])
    }

    #[test]
    fn a_sound_pack_passes() {
        let contents = verify_pack(&*file(&sample())).unwrap();
        assert_eq!(contents.chunks().len(), 3);
        let empty = verify_pack(&*file(&pack(&[]))).unwrap();
        assert_eq!(empty.chunks(), []);
    }

    #[test]
    fn every_cut_and_every_flip_is_found() {
        let sound = sample();
        for len in 0..sound.len() {
            assert!(verify_pack(&*file(&sound[..len])).is_err(), "cut to {len}");
        }
        // Of a zstd frame's descriptor decoders ignore a bit. The pack's id covers that one, too.
        let ignored = PACK_HEADER_BYTES + 4;
        for at in (0..sound.len()).filter(|at| *at != ignored) {
            let mut flipped = sound.clone();
            flipped[at] ^= 0x10;
            assert!(verify_pack(&*file(&flipped)).is_err(), "flip at {at}");
        }
    }

    #[test]
    fn a_footer_cannot_lie_about_the_frames() {
        let true_chunk = vec![7; 4000];
        let other = vec![8; 4000];
        let bomb = vec![0; 1 << 20];
        let cases = [
            ("another content", zstd(&other), true_chunk.clone()),
            ("a longer content", zstd(&bomb), true_chunk.clone()),
            ("a shorter content", zstd(&other[..500]), true_chunk.clone()),
            ("no zstd", vec![9; 50], true_chunk.clone()),
            (
                "bytes after the frame",
                [zstd(&true_chunk), vec![0; 9]].concat(),
                true_chunk,
            ),
        ];
        for (name, stored, claimed) in cases {
            let bytes = pack(&[(Codec::Zstd, stored, vec![claimed])]);
            assert!(read_pack_contents(&*file(&bytes)).is_ok(), "{name}");
            assert!(verify_pack(&*file(&bytes)).is_err(), "{name}");
        }
    }
}
