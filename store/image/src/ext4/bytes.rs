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
