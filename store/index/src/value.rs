//! What the index stores for a chunk: about 20 bytes.
//!
//! ```text
//! varint  number of the pack, see the packs table
//! varint  first byte of the frame in the pack
//! varint  stored bytes of the frame
//! varint  plain bytes of the frame
//! u8      codec of the frame
//! varint  first byte of the chunk in the frame's plain bytes
//! varint  length of the chunk
//! ```

use shale_model::{
    Codec, FormatError, FrameLocation, Location, PackId, Problem, Reader, put_uvarint,
};

const WHAT: &str = "entry of the chunk index";

/// Number of a pack in this index.
pub(crate) type PackNumber = u32;

pub(crate) fn encode(pack: PackNumber, at: &Location, out: &mut Vec<u8>) {
    out.clear();
    put_uvarint(out, pack.into());
    put_uvarint(out, at.frame.offset);
    put_uvarint(out, at.frame.stored.into());
    put_uvarint(out, at.frame.plain.into());
    out.push(at.frame.codec.tag());
    put_uvarint(out, at.offset.into());
    put_uvarint(out, at.len.into());
}

/// The number of the pack alone.
pub(crate) fn pack_of(value: &[u8]) -> Result<PackNumber, FormatError> {
    u32_of(&mut Reader::new(WHAT, value))
}

/// The location; `None` if `pack_id` knows no pack of that number.
pub(crate) fn decode(
    value: &[u8],
    pack_id: impl FnOnce(PackNumber) -> Option<PackId>,
) -> Result<Option<Location>, FormatError> {
    let mut reader = Reader::new(WHAT, value);
    let number = u32_of(&mut reader)?;
    let offset = reader.uvarint()?;
    let (stored, plain) = (u32_of(&mut reader)?, u32_of(&mut reader)?);
    let codec = Codec::from_tag(reader.u8()?);
    let codec = codec.ok_or_else(|| reader.error(Problem::Rule("no such codec")))?;
    let (start, len) = (u32_of(&mut reader)?, u32_of(&mut reader)?);
    reader.finish()?;
    let frame = FrameLocation {
        offset,
        stored,
        plain,
        codec,
    };
    Ok(pack_id(number).map(|pack| Location {
        pack,
        frame,
        offset: start,
        len,
    }))
}

fn u32_of(reader: &mut Reader<'_>) -> Result<u32, FormatError> {
    let value = reader.uvarint()?;
    u32::try_from(value).map_err(|_| reader.error(Problem::Rule("a number exceeds 32 bits")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_stored_is_read(
            number: u32, offset: u64, stored: u32, plain: u32, start: u32, len: u32, zstd: bool,
        ) {
            let pack = PackId::from_bytes([1; 32]);
            let codec = if zstd { Codec::Zstd } else { Codec::Plain };
            let frame = FrameLocation { offset, stored, plain, codec };
            let location = Location { pack, frame, offset: start, len };
            let mut value = Vec::new();
            encode(number, &location, &mut value);
            prop_assert_eq!(pack_of(&value), Ok(number));
            let read = decode(&value, |n| (n == number).then_some(pack));
            prop_assert_eq!(read, Ok(Some(location)));
            prop_assert_eq!(decode(&value, |_| None), Ok(None));
            for cut in 0..value.len() {
                prop_assert!(decode(&value[..cut], |_| Some(pack)).is_err());
            }
        }
    }
}
