//! The bytes of one file in memory: pages that versions of the file share.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Bytes in one page of a file.
pub(crate) const PAGE_BYTES: usize = 4096;

/// One page of a file; versions of a file share those that are the same.
pub(crate) type Page = Arc<[u8; PAGE_BYTES]>;

/// Bytes of a file. Pages that are not there are zeros, and so is what lies behind the end.
#[derive(Clone, Default)]
pub(crate) struct Content {
    pub(crate) len: u64,
    pub(crate) pages: BTreeMap<u64, Page>,
}

impl Content {
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if end_of(offset, buffer.len() as u64)? > self.len && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, start, range) in pieces(offset, buffer.len()) {
            let piece = &mut buffer[range];
            match self.pages.get(&page) {
                Some(bytes) => piece.copy_from_slice(&bytes[start..start + piece.len()]),
                None => piece.fill(0),
            }
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = end_of(offset, data.len() as u64)?;
        for (page, start, range) in pieces(offset, data.len()) {
            let piece = &data[range];
            let bytes = self.pages.entry(page).or_insert_with(zeros);
            Arc::make_mut(bytes)[start..start + piece.len()].copy_from_slice(piece);
        }
        if !data.is_empty() {
            self.len = self.len.max(end);
        }
        Ok(())
    }

    pub(crate) fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let end = end_of(offset, len)?.min(self.len);
        self.clear(offset, end);
        Ok(())
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.clear(len, self.len);
        }
        self.len = len;
    }

    /// Zeros from `start` to before `end`.
    fn clear(&mut self, start: u64, end: u64) {
        const PAGE: u64 = PAGE_BYTES as u64;
        if start >= end {
            return;
        }
        let touched: Vec<u64> = self
            .pages
            .range(start / PAGE..=(end - 1) / PAGE)
            .map(|(&page, _)| page)
            .collect();
        for page in touched {
            let first = start.saturating_sub(page * PAGE) as usize;
            let last = (end - page * PAGE).min(PAGE) as usize;
            match self.pages.get_mut(&page) {
                Some(bytes) if (first, last) != (0, PAGE_BYTES) => {
                    Arc::make_mut(bytes)[first..last].fill(0);
                }
                _ => drop(self.pages.remove(&page)),
            }
        }
    }
}

fn zeros() -> Page {
    Arc::new([0; PAGE_BYTES])
}

/// The end of a range, which like every offset in a file is at most `i64::MAX`.
pub(crate) fn end_of(offset: u64, len: u64) -> io::Result<u64> {
    let end = offset
        .checked_add(len)
        .filter(|&end| i64::try_from(end).is_ok());
    end.ok_or(io::ErrorKind::InvalidInput.into())
}

/// Cuts `len` bytes from `offset` at pages: the page, where the piece begins in it, its bytes in the
/// buffer.
fn pieces(
    offset: u64,
    len: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> + use<> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let start = (at % PAGE_BYTES as u64) as usize;
        let range = done..len.min(done + PAGE_BYTES - start);
        done = range.end;
        (!range.is_empty()).then_some((at / PAGE_BYTES as u64, start, range))
    })
}
