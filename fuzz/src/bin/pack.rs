//! A pack: its header, trailer and footer, and the frames in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale_model::{
    ChunkId, PACK_HEADER_BYTES, PACK_TRAILER_BYTES, PackContents, PackTrailer, check_pack_header,
    decode_frame, pack_header,
};

fuzz_target!(|data: &[u8]| {
    read(data);
    if let Some(pack) = mended(data) {
        read(&pack);
    }
});

fn read(pack: &[u8]) {
    let header = &pack[..PACK_HEADER_BYTES.min(pack.len())];
    if check_pack_header(header).is_ok() {
        assert_eq!(header, pack_header());
    }
    let tail = pack.len().saturating_sub(PACK_TRAILER_BYTES);
    let Ok(trailer) = PackTrailer::decode(&pack[tail..], pack.len() as u64) else {
        return;
    };
    let footer = trailer.footer_offset as usize;
    let Ok(contents) = PackContents::decode(&trailer, &pack[footer..tail]) else {
        return;
    };
    assert_eq!(contents.encode_tail(), &pack[footer..]);
    assert_eq!(contents.pack_bytes(), pack.len() as u64);
    let mut chunks = contents.chunks().iter().peekable();
    for (number, frame) in contents.frames().iter().enumerate() {
        let stored = &pack[frame.offset as usize..][..frame.stored as usize];
        let plain = decode_frame(frame.codec, stored.to_vec(), frame.plain);
        while let Some(chunk) = chunks.next_if(|chunk| chunk.frame as usize == number) {
            if let Ok(plain) = &plain {
                ChunkId::of(&plain[chunk.offset as usize..][..chunk.len as usize]);
            }
        }
    }
    assert!(chunks.next().is_none(), "a chunk without frame");
}

/// The pack with the right header, place of the footer, and checksum.
fn mended(data: &[u8]) -> Option<Vec<u8>> {
    let mut pack = data.to_vec();
    let tail = pack.len().checked_sub(PACK_TRAILER_BYTES)?;
    pack.get_mut(..PACK_HEADER_BYTES)?
        .copy_from_slice(&pack_header());
    let count = |at: usize| Some(u32::from_le_bytes(*pack[at..].first_chunk()?) as usize);
    // 24 bytes a frame and 44 a chunk: see the head of store/model/src/pack.rs.
    let len = count(tail + 8)? * 24 + count(tail + 12)? * 44;
    let footer = tail.checked_sub(len)?;
    let checksum = *ChunkId::of(&pack[footer..tail]).as_bytes();
    pack[tail..tail + 8].copy_from_slice(&(footer as u64).to_le_bytes());
    pack[tail + 16..tail + 48].copy_from_slice(&checksum);
    pack[tail + 48..tail + 56].fill(0);
    Some(pack)
}
