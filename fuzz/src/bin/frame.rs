//! A stored frame: codec (1 byte), plain length (4 bytes, little-endian), stored bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale_model::limits::MAX_FRAME_BYTES;
use shale_model::{Codec, FrameEncoder, decode_frame};

fuzz_target!(|data: &[u8]| {
    let Some(([tag, plain @ ..], stored)) = data.split_first_chunk::<5>() else {
        return;
    };
    let (Some(codec), plain) = (Codec::from_tag(tag % 2), u32::from_le_bytes(*plain)) else {
        return;
    };
    let Ok(bytes) = decode_frame(codec, stored.to_vec(), plain) else {
        return;
    };
    assert_eq!(bytes.len(), plain as usize);
    assert!(bytes.len() <= MAX_FRAME_BYTES);
    let again = FrameEncoder::new().and_then(|mut encoder| encoder.compress(&bytes));
    if let Some(again) = again.expect("compress") {
        let same = decode_frame(Codec::Zstd, again, plain);
        assert_eq!(same.as_ref(), Ok(&bytes));
    }
});
