//! The inputs that are too large to be kept: archives that are written while they are read, and a sparse disk.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Result;

pub(super) const BLOCK: usize = 512;
const PIECE_BYTES: usize = 1 << 20;

/// Files of the archive of small files.
pub(super) const FILES: u64 = 1_000_000;
const FILES_A_DIRECTORY: u64 = 1000;

/// Bytes of the one file of the archive of a large file.
pub(super) const LARGE_FILE_BYTES: u64 = 8 << 30;

/// Bytes of the sparse disk, and of each of its islands of data.
pub(super) const DISK_BYTES: u64 = 50 << 30;
pub(super) const ISLAND_BYTES: u64 = 768 << 20;
/// Where the islands begin: the start, the end, and neither at multiples of anything.
pub(super) const ISLANDS: [u64; 4] = [
    0,
    (17 << 30) + 123_457,
    (33 << 30) + 1,
    DISK_BYTES - ISLAND_BYTES,
];

/// Writes [`FILES`] files; `content` gives the bytes of the one with this number.
pub(super) fn small_files(
    out: &mut dyn Write,
    numbers: std::ops::Range<u64>,
    content: impl Fn(u64, &mut [u8]),
    len: usize,
) -> Result<()> {
    let mut bytes = vec![0; len.next_multiple_of(BLOCK)];
    for number in numbers {
        let directory = number / FILES_A_DIRECTORY;
        if number.is_multiple_of(FILES_A_DIRECTORY) {
            header(out, &format!("d{directory:05}/"), b'5', 0)?;
        }
        content(number, &mut bytes[..len]);
        let name = format!("d{directory:05}/file-{number:08}");
        header(out, &name, b'0', len as u64)?;
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Random bytes of the file with this number.
pub(super) fn random_content(number: u64, bytes: &mut [u8]) {
    fastrand::Rng::with_seed(number).fill(bytes);
}

/// Writes one file of [`LARGE_FILE_BYTES`].
pub(super) fn large_file(out: &mut dyn Write) -> Result<()> {
    header(out, "large", b'0', LARGE_FILE_BYTES)?;
    let mut mixed = Mixed::new(2);
    for _ in 0..LARGE_FILE_BYTES / PIECE_BYTES as u64 {
        out.write_all(mixed.next())?;
    }
    Ok(())
}

/// Makes the sparse disk.
pub(super) fn sparse_disk(path: &Path) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(DISK_BYTES)?;
    let mut mixed = Mixed::new(3);
    for start in ISLANDS {
        for piece in 0..ISLAND_BYTES / PIECE_BYTES as u64 {
            file.write_all_at(mixed.next(), start + piece * PIECE_BYTES as u64)?;
        }
    }
    Ok(file.sync_all()?)
}

/// Pieces of which one half is random and the other can be compressed.
struct Mixed {
    random: fastrand::Rng,
    bytes: Vec<u8>,
}

impl Mixed {
    fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            bytes: vec![0; PIECE_BYTES],
        }
    }

    fn next(&mut self) -> &[u8] {
        let (hard, easy) = self.bytes.split_at_mut(PIECE_BYTES / 2);
        self.random.fill(hard);
        let number = self.random.u64(..).to_le_bytes();
        for word in easy.chunks_exact_mut(number.len()) {
            word.copy_from_slice(&number);
        }
        &self.bytes
    }
}

/// A ustar header; the name has at most 100 bytes.
fn header(out: &mut dyn Write, name: &str, kind: u8, size: u64) -> Result<()> {
    /// Sizes from here on do not fit into eleven octal digits, and are written in binary as GNU tar does.
    const BINARY_FROM: u64 = 8 << 30;
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size < BINARY_FROM {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"14000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(out.write_all(&block)?)
}
