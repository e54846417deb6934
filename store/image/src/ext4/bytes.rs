//! Little-endian fields at explicit offsets.

pub(super) fn put16(to: &mut [u8], at: usize, value: u16) {
    to[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put32(to: &mut [u8], at: usize, value: u32) {
    to[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The low 32 bits of `value` at `low`, the next 32 at `high`.
pub(super) fn put_split(to: &mut [u8], low: usize, high: usize, value: u64) {
    put32(to, low, value as u32);
    put32(to, high, (value >> 32) as u32);
}

/// The field at `at`; 0 where the bytes end before it, so that readers of damaged bytes need no other check.
pub(super) fn get16(from: &[u8], at: usize) -> u16 {
    let field = from.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

/// As [`get16`], of four bytes.
pub(super) fn get32(from: &[u8], at: usize) -> u32 {
    let field = from.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The value that [`put_split`] wrote.
pub(super) fn get_split(from: &[u8], low: usize, high: usize) -> u64 {
    u64::from(get32(from, low)) | u64::from(get32(from, high)) << 32
}
