//! Lists of chunk ids, and which of them are missing.
//!
//! ```text
//! ids      32 bytes each, without a header: the length of the body says how many
//! missing  one bit each, bit i % 8 (least significant first) of byte i / 8: 1 if the chunk is missing;
//!          bits behind the last are 0
//! ```

use shale_model::{ChunkId, FormatError, ID_LEN, MAX_TRACE_CHUNKS, Reader};

use crate::limits::MAX_IDS;

/// The body that asks for `ids`.
pub fn encode_ids(ids: &[ChunkId]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ids.len() * ID_LEN);
    for id in ids {
        out.extend_from_slice(id.as_bytes());
    }
    out
}

/// The ids that a body asks for, at most [`MAX_IDS`].
pub fn decode_ids(body: &[u8]) -> Result<Vec<ChunkId>, FormatError> {
    decode(body, MAX_IDS)
}

/// The ids of a trace, at most [`MAX_TRACE_CHUNKS`].
pub fn decode_trace(body: &[u8]) -> Result<Vec<ChunkId>, FormatError> {
    decode(body, MAX_TRACE_CHUNKS)
}

fn decode(body: &[u8], most: usize) -> Result<Vec<ChunkId>, FormatError> {
    let mut reader = Reader::new("list of ids", body);
    let count = body.len() / ID_LEN;
    reader.limit("ids", count as u64, most as u64)?;
    let ids = (0..count).map(|_| reader.array().map(ChunkId::from_bytes));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    reader.finish()?;
    Ok(ids)
}

/// The body that says which ids are missing.
pub fn encode_missing(missing: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| {
        let bits = bits.iter().enumerate();
        bits.fold(0, |byte, (i, &bit)| byte | u8::from(bit) << i)
    };
    missing.chunks(8).map(byte).collect()
}

/// Which of `count` ids are missing.
pub fn decode_missing(body: &[u8], count: usize) -> Result<Vec<bool>, FormatError> {
    let reader = Reader::new("missing chunks", body);
    let bytes = count.div_ceil(8);
    reader.rule(body.len() == bytes, "it answers for other ids than asked")?;
    let bits = body
        .iter()
        .flat_map(|byte| (0..8).map(move |i| byte >> i & 1 == 1));
    let mut bits: Vec<bool> = bits.collect();
    reader.rule(!bits[count..].contains(&true), "padding is not zero")?;
    bits.truncate(count);
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(missing in proptest::collection::vec(any::<bool>(), 0..100)) {
            let body = encode_missing(&missing);
            prop_assert_eq!(decode_missing(&body, missing.len()), Ok(missing.clone()));
            let ids: Vec<_> = (0..missing.len()).map(|i| ChunkId::of(&[i as u8])).collect();
            prop_assert_eq!(decode_ids(&encode_ids(&ids)), Ok(ids));
        }
    }

    #[test]
    fn bodies_of_other_lengths_are_errors() {
        assert!(decode_ids(&[0; ID_LEN + 1]).is_err());
        assert!(decode_ids(&vec![0; MAX_IDS * ID_LEN]).is_ok());
        assert!(decode_ids(&vec![0; (MAX_IDS + 1) * ID_LEN]).is_err());
        assert!(decode_trace(&vec![0; MAX_TRACE_CHUNKS * ID_LEN]).is_ok());
        assert!(decode_trace(&vec![0; (MAX_TRACE_CHUNKS + 1) * ID_LEN]).is_err());
        assert!(decode_missing(&[1], 0).is_err());
        assert!(decode_missing(&[0b100], 2).is_err());
        assert_eq!(decode_missing(&[0b10], 2), Ok(vec![false, true]));
    }
}
