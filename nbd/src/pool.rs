//! Buffers of requests, used again and again.
//!
//! A buffer holds a request's data and then its reply, header and all, in one piece: whatever is sent
//! leaves in one slice, and a read's data is not copied. Buffers stay initialised, so that using one
//! again costs nothing; they never leave their connection, so what an old one holds is the same
//! client's.

use crate::limits::{MAX_PAYLOAD_BYTES, MAX_POOLED_BYTES};

/// Room for a reply's header before its data: the largest is 28 bytes, 32 keep the data aligned.
pub(crate) const HEAD_BYTES: usize = 32;

/// Sizes of buffers: the data part is 4 KiB times a power of two.
const SMALLEST_DATA_BYTES: usize = 4096;
const SIZES: usize = 14;

/// Bytes of the largest buffer.
pub(crate) const MAX_BUFFER_BYTES: usize = HEAD_BYTES + (SMALLEST_DATA_BYTES << (SIZES - 1));

// A size of its own for the largest payload: nothing below may need to check that again.
const _: () = assert!(SMALLEST_DATA_BYTES << (SIZES - 1) == MAX_PAYLOAD_BYTES as usize);

/// One buffer.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
}

impl Buffer {
    /// A buffer that does not come from a pool, for `len` bytes of data.
    pub(crate) fn new(len: usize) -> Self {
        let (_, data) = size_for(len);
        Self {
            bytes: vec![0; HEAD_BYTES.saturating_add(data)].into_boxed_slice(),
        }
    }

    /// Bytes that it takes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// All of it: [`HEAD_BYTES`] of room for a header, then the data.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of it, to write to.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The first `len` bytes of the data part, or all of it if it is shorter.
    pub(crate) fn data(&self, len: usize) -> &[u8] {
        let data = self.bytes.get(HEAD_BYTES..).unwrap_or_default();
        data.get(..len).unwrap_or(data)
    }

    /// The first `len` bytes of the data part, or all of it if it is shorter, to write to.
    pub(crate) fn data_mut(&mut self, len: usize) -> &mut [u8] {
        let data = self.bytes.get_mut(HEAD_BYTES..).unwrap_or_default();
        let len = len.min(data.len());
        &mut data[..len]
    }
}

/// The unused buffers of one connection.
#[derive(Default)]
pub(crate) struct Pool {
    free: [Vec<Buffer>; SIZES],
    bytes: usize,
}

impl Pool {
    /// Bytes that [`Pool::take`] hands out for `len` bytes of data.
    pub(crate) fn cost(len: usize) -> usize {
        HEAD_BYTES.saturating_add(size_for(len).1)
    }

    /// A buffer for `len` bytes of data, at most [`MAX_PAYLOAD_BYTES`]. Its content is undefined.
    pub(crate) fn take(&mut self, len: usize) -> Buffer {
        match self.free[size_for(len).0].pop() {
            Some(buffer) => {
                self.bytes = self.bytes.saturating_sub(buffer.len());
                buffer
            }
            None => Buffer::new(len),
        }
    }

    /// Gives a buffer back.
    pub(crate) fn put(&mut self, buffer: Buffer) {
        let bytes = self.bytes.saturating_add(buffer.len());
        if bytes <= MAX_POOLED_BYTES {
            self.bytes = bytes;
            let size = size_for(buffer.len().saturating_sub(HEAD_BYTES)).0;
            self.free[size].push(buffer);
        }
    }
}

/// The number of the smallest size that holds `len` bytes of data, and its bytes.
fn size_for(len: usize) -> (usize, usize) {
    let len = len.clamp(SMALLEST_DATA_BYTES, MAX_PAYLOAD_BYTES as usize);
    let data = len.next_power_of_two();
    let size = (data / SMALLEST_DATA_BYTES).trailing_zeros() as usize;
    (size, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_what_was_asked_and_costs_what_was_said() {
        let mut pool = Pool::default();
        let max = MAX_PAYLOAD_BYTES as usize;
        for len in [0, 1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, max] {
            let mut buffer = pool.take(len);
            assert_eq!(buffer.data_mut(len).len(), len);
            assert_eq!(buffer.len(), Pool::cost(len), "{len}");
            assert!(buffer.len() < 2 * len.max(4096) + HEAD_BYTES);
            pool.put(buffer);
        }
    }

    #[test]
    fn the_pool_is_bounded_and_gives_buffers_again() {
        let mut pool = Pool::default();
        for _ in 0..2 {
            let buffers: Vec<_> = (0..20).map(|_| pool.take(1 << 20)).collect();
            buffers.into_iter().for_each(|buffer| pool.put(buffer));
            assert!(pool.bytes <= MAX_POOLED_BYTES && pool.bytes > 0);
        }
        let mut buffer = pool.take(4096);
        buffer.data_mut(4096).fill(9);
        pool.put(buffer);
        assert_eq!(pool.take(17).data(1), [9]);
    }
}
