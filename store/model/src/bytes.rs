//! Reading and writing the byte formats: little-endian integers, varints, and one error type.
//!
//! Varints are LEB128 (the encoding of DWARF 5, section 7.6) of at most 10 bytes; an overlong encoding is refused so
//! that every value has one form. Signed values are zigzag-folded first.

/// What is wrong with bytes that should be one of Shale's formats.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {problem} (at byte {at})")]
pub struct FormatError {
    /// The format that was being read, for example `layer page`.
    pub what: &'static str,
    /// Offset of the fault from the start of that object.
    pub at: usize,
    /// The rule that was broken.
    pub problem: Problem,
}

/// The rule that bytes broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The bytes end before the value does.
    #[error("truncated")]
    Truncated,
    /// The object does not begin with its magic bytes.
    #[error("not this format: the magic bytes differ")]
    Magic,
    /// Written by a later version of Shale.
    #[error("version {found} is newer than version {known}, which is the newest this build reads")]
    Newer {
        /// The version in the object.
        found: u16,
        /// The newest version that this build knows.
        known: u16,
    },
    /// Feature flags that this build does not know and must not ignore.
    #[error("unknown feature flags {0:#x}")]
    Features(u64),
    /// A limit of [`crate::limits`] is exceeded.
    #[error("{name} is {found}, the limit is {max}")]
    Limit {
        /// What is limited.
        name: &'static str,
        /// The value found.
        found: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// The bytes decode, but are not the one form that this content has.
    #[error("not in canonical form")]
    NotCanonical,
    /// A checksum or an id does not match the bytes.
    #[error("the bytes do not match their checksum")]
    Checksum,
    /// Any other broken rule, spelled out.
    #[error("{0}")]
    Rule(&'static str),
}

/// Longest varint of 64 bits.
const MAX_VARINT_BYTES: usize = 10;

/// A bounds-checked cursor over the bytes of one object.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A cursor at the start of `bytes`, whose errors call the object `what`.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Offset of the next byte.
    pub fn position(&self) -> usize {
        self.at
    }

    /// An error of this object at the current offset.
    pub fn error(&self, problem: Problem) -> FormatError {
        FormatError {
            what: self.what,
            at: self.at,
            problem,
        }
    }

    /// Fails with [`Problem::Rule`] unless `held`.
    pub fn rule(&self, held: bool, rule: &'static str) -> Result<(), FormatError> {
        if held {
            Ok(())
        } else {
            Err(self.error(Problem::Rule(rule)))
        }
    }

    /// Fails with [`Problem::Limit`] if `found` exceeds `max`.
    pub fn limit(&self, name: &'static str, found: u64, max: u64) -> Result<(), FormatError> {
        if found <= max {
            Ok(())
        } else {
            Err(self.error(Problem::Limit { name, found, max }))
        }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let end = self
            .at
            .checked_add(len)
            .filter(|&end| end <= self.bytes.len())
            .ok_or_else(|| self.error(Problem::Truncated))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// An unsigned varint.
    pub fn uvarint(&mut self) -> Result<u64, FormatError> {
        let mut value = 0u64;
        for index in 0..MAX_VARINT_BYTES {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * index as u32;
            let fits = shift < 63 || bits <= 1;
            self.rule(fits, "a varint exceeds 64 bits")?;
            value |= bits << shift;
            if byte & 0x80 == 0 {
                self.rule(index == 0 || byte != 0, "a varint is overlong")?;
                return Ok(value);
            }
        }
        Err(self.error(Problem::Rule("a varint exceeds 10 bytes")))
    }

    /// A zigzag-folded signed varint.
    pub fn ivarint(&mut self) -> Result<i64, FormatError> {
        let folded = self.uvarint()?;
        Ok((folded >> 1) as i64 ^ -((folded & 1) as i64))
    }

    /// An unsigned varint of at most `max`, as a length or count of `name`.
    pub fn count(&mut self, name: &'static str, max: usize) -> Result<usize, FormatError> {
        let found = self.uvarint()?;
        self.limit(name, found, max as u64)?;
        Ok(found as usize)
    }

    /// Reads the magic bytes and the version that every format begins with; `known` is the only version
    /// that there is so far.
    pub fn start(&mut self, magic: &[u8; 8], known: u16) -> Result<(), FormatError> {
        if self.take(8)? != magic {
            return Err(self.error(Problem::Magic));
        }
        let found = self.u16()?;
        if found > known {
            return Err(self.error(Problem::Newer { found, known }));
        }
        self.rule(found == known, "no such version")
    }

    /// Reads eight bytes of feature flags, none of which is known yet.
    pub fn no_features(&mut self) -> Result<(), FormatError> {
        match self.u64()? {
            0 => Ok(()),
            features => Err(self.error(Problem::Features(features))),
        }
    }

    /// Reads `N` bytes that must be zero.
    pub fn zeros<const N: usize>(&mut self) -> Result<(), FormatError> {
        let zero = self.array()? == [0; N];
        self.rule(zero, "padding is not zero")
    }

    /// Fails unless every byte was read.
    pub fn finish(&self) -> Result<(), FormatError> {
        self.rule(self.remaining() == 0, "bytes follow the end")
    }
}

/// Appends an unsigned varint.
pub fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a zigzag-folded signed varint.
pub fn put_ivarint(out: &mut Vec<u8>, value: i64) {
    put_uvarint(out, (value << 1 ^ value >> 63) as u64);
}

/// Bytes that [`put_uvarint`] appends for `value`.
pub fn uvarint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64, signed: i64) {
            let mut bytes = Vec::new();
            put_uvarint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), uvarint_len(value));
            put_ivarint(&mut bytes, signed);
            let mut reader = Reader::new("test", &bytes);
            prop_assert_eq!(reader.uvarint(), Ok(value));
            prop_assert_eq!(reader.ivarint(), Ok(signed));
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_value_has_one_encoding() {
        for bytes in [&[0x80, 0x00][..], &[0xff; 10], &[0xff; 11]] {
            assert!(Reader::new("test", bytes).uvarint().is_err(), "{bytes:?}");
        }
        let mut max = [0xff; 10];
        max[9] = 1;
        assert_eq!(Reader::new("test", &max).uvarint(), Ok(u64::MAX));
    }

    #[test]
    fn short_bytes_are_truncated() {
        let error = Reader::new("test", &[1, 2]).u32().unwrap_err();
        assert_eq!(error.problem, Problem::Truncated);
    }
}
