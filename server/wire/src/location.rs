//! Where chunks lie, as a table.
//!
//! ```text
//!  0   4  packs
//!  4   4  chunks
//!  8  32  each pack: its id, each once, in order of first use
//!     32  each chunk, in the order asked:
//!          0  4  number of its pack in the table above; 0xffffffff: not there, the rest is zero
//!          4  4  first byte in the frame's plain bytes
//!          8  4  plain length
//!         12  4  stored length of the frame
//!         16  4  plain length of the frame
//!         20  4  codec of the frame
//!         24  8  offset of the frame in the pack
//! ```
//! All integers are little-endian. 10,000 chunks of a few packs are 320 KB.

use std::collections::HashMap;

use shale_model::limits::{MAX_FRAME_BYTES, MAX_PACK_BYTES};
use shale_model::{
    Codec, FormatError, FrameLocation, ID_LEN, Location, PACK_HEADER_BYTES, PackId, Problem, Reader,
};

const ABSENT: u32 = u32::MAX;
const HEADER_BYTES: usize = 8;
const RECORD_BYTES: usize = 32;

/// The table of these locations.
pub fn encode_locations(locations: &[Option<Location>]) -> Vec<u8> {
    let mut packs = Vec::new();
    let mut numbers = HashMap::new();
    for location in locations.iter().flatten() {
        numbers.entry(location.pack).or_insert_with(|| {
            packs.push(location.pack);
            packs.len() as u32 - 1
        });
    }
    let tables = packs.len() * ID_LEN + locations.len() * RECORD_BYTES;
    let mut out = Vec::with_capacity(HEADER_BYTES + tables);
    out.extend_from_slice(&(packs.len() as u32).to_le_bytes());
    out.extend_from_slice(&(locations.len() as u32).to_le_bytes());
    for pack in &packs {
        out.extend_from_slice(pack.as_bytes());
    }
    for location in locations {
        put_record(&mut out, location.as_ref().map(|l| (numbers[&l.pack], l)));
    }
    out
}

fn put_record(out: &mut Vec<u8>, record: Option<(u32, &Location)>) {
    let Some((number, location)) = record else {
        out.extend_from_slice(&ABSENT.to_le_bytes());
        out.extend_from_slice(&[0; RECORD_BYTES - 4]);
        return;
    };
    let frame = location.frame;
    let fields = [
        number,
        location.offset,
        location.len,
        frame.stored,
        frame.plain,
        u32::from(frame.codec.tag()),
    ];
    for field in fields {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&frame.offset.to_le_bytes());
}

/// The locations of `count` chunks. Every number is checked against the limits of the pack format,
/// so that nobody is made to read or hold more than a frame can have.
pub fn decode_locations(body: &[u8], count: usize) -> Result<Vec<Option<Location>>, FormatError> {
    let mut reader = Reader::new("table of locations", body);
    let (packs, chunks) = (reader.u32()?, reader.u32()?);
    let asked = chunks as usize == count;
    reader.rule(asked, "it answers for other ids than asked")?;
    reader.limit("packs", packs.into(), chunks.into())?;
    let packs = (0..packs).map(|_| reader.array().map(PackId::from_bytes));
    let packs = packs.collect::<Result<Vec<_>, _>>()?;
    let locations = (0..count).map(|_| read_record(&mut reader, &packs));
    let locations = locations.collect::<Result<Vec<_>, _>>()?;
    reader.finish()?;
    Ok(locations)
}

fn read_record(reader: &mut Reader<'_>, packs: &[PackId]) -> Result<Option<Location>, FormatError> {
    let (number, offset, len) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let (stored, plain, codec) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let frame_offset = reader.u64()?;
    if number == ABSENT {
        let zero = (offset, len, stored, plain, codec, frame_offset) == (0, 0, 0, 0, 0, 0);
        reader.rule(zero, "an absent chunk has a location")?;
        return Ok(None);
    }
    let pack = packs.get(number as usize).copied();
    let pack = pack.ok_or_else(|| reader.error(Problem::Rule("a pack is not in the table")))?;
    let codec = u8::try_from(codec).ok().and_then(Codec::from_tag);
    let codec = codec.ok_or_else(|| reader.error(Problem::Rule("unknown codec")))?;
    reader.limit("plain frame length", plain.into(), MAX_FRAME_BYTES as u64)?;
    reader.limit("stored frame length", stored.into(), plain.into())?;
    reader.rule(stored > 0 && len > 0, "a frame or a chunk is empty")?;
    let inside = u64::from(offset) + u64::from(len) <= u64::from(plain);
    reader.rule(inside, "a chunk is not inside its frame")?;
    let end = frame_offset.checked_add(stored.into());
    let inside =
        frame_offset >= PACK_HEADER_BYTES as u64 && end.is_some_and(|e| e <= MAX_PACK_BYTES);
    reader.rule(inside, "a frame is not inside its pack")?;
    Ok(Some(Location {
        pack,
        frame: FrameLocation {
            offset: frame_offset,
            stored,
            plain,
            codec,
        },
        offset,
        len,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn location() -> impl Strategy<Value = Location> {
        let plain = 1..=MAX_FRAME_BYTES as u32;
        let offset = PACK_HEADER_BYTES as u64..MAX_PACK_BYTES - MAX_FRAME_BYTES as u64;
        (0..4u8, plain, offset, any::<(u32, u32, u32, bool)>()).prop_map(
            |(pack, plain, offset, (stored, at, len, zstd))| {
                let at = at % plain;
                Location {
                    pack: PackId::from_bytes([pack; ID_LEN]),
                    frame: FrameLocation {
                        offset,
                        stored: 1 + stored % plain,
                        plain,
                        codec: if zstd { Codec::Zstd } else { Codec::Plain },
                    },
                    offset: at,
                    len: 1 + len % (plain - at),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            locations in proptest::collection::vec(proptest::option::of(location()), 0..50),
        ) {
            let body = encode_locations(&locations);
            prop_assert_eq!(decode_locations(&body, locations.len()), Ok(locations.clone()));
            prop_assert!(decode_locations(&body, locations.len() + 1).is_err());
            prop_assert!(decode_locations(&body[..body.len() - 1], locations.len()).is_err());
        }

        #[test]
        fn hostile_bytes_give_bounded_locations(
            locations in proptest::collection::vec(proptest::option::of(location()), 1..5),
            at: prop::sample::Index,
            flip in 1..=255u8,
        ) {
            let mut body = encode_locations(&locations);
            let at = at.index(body.len());
            body[at] ^= flip;
            for location in decode_locations(&body, locations.len()).into_iter().flatten().flatten() {
                prop_assert!(location.frame.offset + u64::from(location.frame.stored) <= MAX_PACK_BYTES);
                prop_assert!(location.offset + location.len <= location.frame.plain);
            }
        }
    }

    #[test]
    fn the_bytes_of_version_1_stay() {
        let location = Location {
            pack: PackId::from_bytes([7; ID_LEN]),
            frame: FrameLocation {
                offset: 32,
                stored: 5,
                plain: 6,
                codec: Codec::Zstd,
            },
            offset: 1,
            len: 2,
        };
        let body = encode_locations(&[Some(location), None]);
        let mut expected = vec![1, 0, 0, 0, 2, 0, 0, 0];
        expected.extend([7; 32]);
        for field in [0u32, 1, 2, 5, 6, 1, 32, 0, ABSENT, 0, 0, 0, 0, 0, 0, 0] {
            expected.extend(field.to_le_bytes());
        }
        assert_eq!(body, expected);
    }
}
