//! Bytes that came from a client and were not yet taken.

use crate::limits::INPUT_BYTES;
use crate::request::REQUEST_BYTES;

/// A buffer of [`INPUT_BYTES`] between the socket and the requests.
pub(crate) struct Input {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; INPUT_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next request, if it is here as a whole. It stays.
    pub(crate) fn peek_request(&self) -> Option<&[u8; REQUEST_BYTES]> {
        self.filled().first_chunk()
    }

    /// Drops up to `len` bytes; how many it were.
    pub(crate) fn skip(&mut self, len: u64) -> u64 {
        let here = self.end - self.start;
        let skipped = usize::try_from(len).unwrap_or(usize::MAX).min(here);
        self.start += skipped;
        skipped as u64
    }

    /// Moves bytes to `to`; how many there were.
    pub(crate) fn take(&mut self, to: &mut [u8]) -> usize {
        let here = self.filled();
        let len = here.len().min(to.len());
        to[..len].copy_from_slice(&here[..len]);
        self.start += len;
        len
    }

    /// Where further bytes go: never empty while no whole request is here.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            // At most the beginning of one request is moved, as whole ones are taken before more is
            // read.
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Says that `len` bytes of the room were filled.
    pub(crate) fn filled_more(&mut self, len: usize) {
        self.end = self.end.saturating_add(len).min(self.bytes.len());
    }

    fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }
}
