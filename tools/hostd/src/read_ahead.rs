//! Reads that follow each other, made into few large ones: one behind the other, a kernel's would each wait for a
//! registry, and a large read fetches its chunks side by side.

/// Bytes of the largest read. Two of them are what is read too much at most: behind a kernel and its initial RAM disk.
const MAX_WINDOW_BYTES: u64 = 4 << 20;

/// What was read of a disk last.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    start: u64,
    bytes: Vec<u8>,
}

impl ReadAhead {
    /// Fills `buffer` from `offset` if the bytes are here.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let inside = offset
            .checked_sub(self.start)
            .and_then(|at| usize::try_from(at).ok());
        let end = inside.and_then(|at| at.checked_add(buffer.len()));
        let part = inside
            .zip(end)
            .and_then(|(at, end)| self.bytes.get(at..end));
        if let Some(part) = part {
            buffer.copy_from_slice(part);
        }
        part.is_some()
    }

    /// How many bytes are to be read from `offset`, where `len` are wanted: twice as many as the last time if it
    /// goes on where that ended.
    pub(crate) fn window(&self, offset: u64, len: u64) -> u64 {
        let had = self.bytes.len() as u64;
        let goes_on = had > 0 && offset == self.start + had;
        match goes_on {
            true => len.max((2 * had).min(MAX_WINDOW_BYTES)),
            false => len,
        }
    }

    /// Keeps what was read from `offset`.
    pub(crate) fn keep(&mut self, offset: u64, bytes: Vec<u8>) {
        self.start = offset;
        self.bytes = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_grows_and_everything_else_is_read_as_asked() {
        let disk: Vec<u8> = (0..20 << 20).map(|n: u32| (n / 3) as u8).collect();
        let mut ahead = ReadAhead::default();
        let mut windows = Vec::new();
        let mut read = |offset: u64, len: usize| {
            let mut buffer = vec![0; len];
            if !ahead.read(offset, &mut buffer) {
                let window = ahead.window(offset, len as u64);
                windows.push(window);
                let end = disk.len().min((offset + window) as usize);
                ahead.keep(offset, disk[offset as usize..end].to_vec());
                assert!(ahead.read(offset, &mut buffer));
            }
            assert!(buffer == disk[offset as usize..offset as usize + len]);
        };
        for block in 0..4000 {
            read(block * 4096, 4096);
        }
        read(5, 100);
        read(5 << 20, 8192);
        let first: Vec<u64> = windows[..4].to_vec();
        assert_eq!(first, [4096, 8192, 16384, 32768]);
        assert_eq!(windows[windows.len() - 2..], [100, 8192]);
        assert_eq!(windows.iter().max(), Some(&MAX_WINDOW_BYTES));
        assert!(windows.len() < 20, "{windows:?}");
    }
}
