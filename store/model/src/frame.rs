//! Frames: neighbouring chunks compressed together.

use crate::bytes::{FormatError, Problem};
use crate::limits::MAX_FRAME_BYTES;
use crate::pack::Codec;

/// Compresses frames with one reused zstd context.
pub struct FrameEncoder {
    compressor: zstd::bulk::Compressor<'static>,
}

/// zstd level of frames. Levels above it cost several times the processor for 2 to 4 % of size.
pub const ZSTD_LEVEL: i32 = 3;

impl FrameEncoder {
    /// A context at [`ZSTD_LEVEL`].
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
        })
    }

    /// The stored form of `plain`, or `None` where storing it plain is as small.
    pub fn compress(&mut self, plain: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        let stored = self.compressor.compress(plain)?;
        Ok((stored.len() < plain.len()).then_some(stored))
    }
}

/// The plain bytes of a frame whose stored bytes come from anywhere: at most `plain` of them, and
/// exactly that many, or an error. The chunks in it are still to be hashed.
pub fn decode_frame(codec: Codec, stored: Vec<u8>, plain: u32) -> Result<Vec<u8>, FormatError> {
    let fault = |problem| FormatError {
        what: "frame",
        at: 0,
        problem,
    };
    let len = plain as usize;
    if len > MAX_FRAME_BYTES {
        return Err(fault(Problem::Limit {
            name: "plain frame length",
            found: plain.into(),
            max: MAX_FRAME_BYTES as u64,
        }));
    }
    let bytes = match codec {
        Codec::Plain => stored,
        Codec::Zstd => zstd::bulk::decompress(&stored, len)
            .map_err(|_| fault(Problem::Rule("zstd cannot decompress it")))?,
    };
    if bytes.len() == len {
        Ok(bytes)
    } else {
        Err(fault(Problem::Rule("its plain length differs")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressible_bytes_shrink_and_return() {
        let plain = b"shale ".repeat(1000);
        let stored = FrameEncoder::new()
            .unwrap()
            .compress(&plain)
            .unwrap()
            .unwrap();
        assert!(stored.len() < 100);
        assert_eq!(decode_frame(Codec::Zstd, stored.clone(), 6000), Ok(plain));
        for wrong in [5999, 6001, u32::MAX] {
            assert!(decode_frame(Codec::Zstd, stored.clone(), wrong).is_err());
        }
        assert!(decode_frame(Codec::Zstd, stored[..20].to_vec(), 6000).is_err());
    }

    #[test]
    fn random_bytes_stay_plain() {
        let mut noise = vec![0; 4096];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(FrameEncoder::new().unwrap().compress(&noise).unwrap(), None);
    }
}
