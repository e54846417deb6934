//! Inputs of several parts: each but the last has its length (u16, little-endian) before it.

/// The parts of an input; what its lengths promise and it does not have is missing from the end.
pub fn split<const N: usize>(mut data: &[u8]) -> [&[u8]; N] {
    let mut parts = [&data[..0]; N];
    let Some((last, others)) = parts.split_last_mut() else {
        return parts;
    };
    for part in others {
        let Some((len, rest)) = data.split_first_chunk::<2>() else {
            return parts;
        };
        let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
        (*part, data) = rest.split_at(len);
    }
    *last = data;
    parts
}

/// The input that [`split`] splits into `parts`, of which each but the last has less than 64 KiB.
pub fn join(parts: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::new();
    for (n, part) in parts.iter().enumerate() {
        if n + 1 < parts.len() {
            data.extend_from_slice(&(part.len() as u16).to_le_bytes());
        }
        data.extend_from_slice(part);
    }
    data
}
