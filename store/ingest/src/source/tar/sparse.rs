//! Sparse files in tar archives: a map says which parts of the file the archive holds, one after the other.
//!
//! GNU tar has written four forms (GNU tar manual, "Storing Sparse Files"): the map in the header and in
//! blocks after it (type `S`), in pax records (0.0 and 0.1), or as text before the content (1.0).

use shale_model::limits::MAX_FILE_BYTES;

use crate::error::TarProblem;

/// Most parts of one sparse file: their map takes 16 MiB then. A file that has more is no longer sparse.
pub(super) const MAX_PARTS: usize = 1 << 20;

/// Where a member's stored bytes lie in its file: adjacent to each other in the archive, in order in the
/// file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SparseMap {
    parts: Vec<(u64, u64)>,
    /// Bytes of the whole file.
    size: u64,
}

impl SparseMap {
    /// A file of `size` bytes that is stored as it is.
    pub(super) fn whole(size: u64) -> Self {
        Self {
            parts: vec![(0, size)],
            size,
        }
    }

    /// Checks that `parts`, each an offset and a length, lie in a file of `size` bytes in order, and are
    /// `stored` bytes together.
    pub(super) fn new(parts: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Self, TarProblem> {
        let malformed = || TarProblem::Malformed("map of a sparse file");
        let mut end = 0u64;
        let mut held = 0u64;
        for &(offset, len) in &parts {
            if offset < end {
                return Err(malformed());
            }
            end = offset.checked_add(len).ok_or_else(malformed)?;
            // No overflow: the parts do not overlap.
            held += len;
        }
        if end > size || held != stored {
            return Err(malformed());
        }
        if size > MAX_FILE_BYTES {
            let what = "content of a sparse file";
            return Err(TarProblem::TooLong {
                what,
                found: size,
                max: MAX_FILE_BYTES,
            });
        }
        Ok(Self { parts, size })
    }

    /// Offset and length of part number `at` of the file, with the end of the file as an empty part.
    pub(super) fn part(&self, at: usize) -> (u64, u64) {
        self.parts.get(at).copied().unwrap_or((self.size, 0))
    }

    /// Number of parts.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }
}

/// Reads the text before the content of form 1.0 as it comes: the number of parts, then offset and length
/// of each, each number on its own line.
#[derive(Debug, Default)]
pub(super) struct MapText {
    numbers: Vec<u64>,
    current: Option<u64>,
}

impl MapText {
    /// Takes the next block; whether the map ends in it.
    pub(super) fn push(&mut self, block: &[u8]) -> Result<bool, TarProblem> {
        let malformed = || TarProblem::Malformed("map of a sparse file");
        for byte in block {
            if self.is_complete() {
                return Ok(true);
            }
            match byte {
                b'0'..=b'9' => {
                    let value = self.current.unwrap_or(0).checked_mul(10);
                    let digit = u64::from(byte - b'0');
                    let value = value.and_then(|v| v.checked_add(digit));
                    self.current = Some(value.ok_or_else(malformed)?);
                }
                b'\n' => self
                    .numbers
                    .push(self.current.take().ok_or_else(malformed)?),
                _ => return Err(malformed()),
            }
            if self.numbers.first().is_some_and(|n| *n > MAX_PARTS as u64) {
                return Err(malformed());
            }
        }
        Ok(self.is_complete())
    }

    /// The parts, once the map ended.
    pub(super) fn parts(self) -> Vec<(u64, u64)> {
        let pairs = self.numbers[1..].chunks_exact(2);
        pairs.map(|pair| (pair[0], pair[1])).collect()
    }

    fn is_complete(&self) -> bool {
        let announced = self.numbers.first().map(|parts| 1 + 2 * *parts as usize);
        announced == Some(self.numbers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_lie_are_refused() {
        assert!(SparseMap::new(vec![(0, 5), (10, 5)], 20, 10).is_ok());
        assert!(SparseMap::new(vec![(20, 0)], 20, 0).is_ok());
        let parts: [&[(u64, u64)]; 5] = [
            &[(10, 5), (0, 5)],
            &[(0, 5), (4, 5)],
            &[(0, 5), (16, 5)],
            &[(0, 5), (10, 6)],
            &[(0, 5), (u64::MAX, 5)],
        ];
        for parts in parts {
            assert!(SparseMap::new(parts.to_vec(), 20, 10).is_err(), "{parts:?}");
        }
        assert!(SparseMap::new(vec![], MAX_FILE_BYTES + 1, 0).is_err());
    }

    #[test]
    fn a_map_as_text_ends_where_it_says() {
        let mut text = MapText::default();
        assert!(!text.push(b"2\n0\n5").unwrap());
        assert!(text.push(b"12\n1024\n7\n\0\0\0").unwrap());
        assert_eq!(text.parts(), [(0, 512), (1024, 7)]);
        for bad in [
            &b"x"[..],
            b"\n",
            b"1\n\n",
            b"99999999\n",
            b"99999999999999999999999\n",
        ] {
            assert!(
                MapText::default().push(bad).is_err(),
                "{}",
                bad.escape_ascii()
            );
        }
        assert!(MapText::default().push(b"0\n").unwrap());
    }
}
