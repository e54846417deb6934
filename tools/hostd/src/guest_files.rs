//! Files of a guest, read from its disk while it does not run.
//!
//! The reader is the crate `ext4-view`, which replays the journal in memory. It refuses file systems whose
//! group descriptors are spread over the disk (`meta_bg`), as ours are; so it is shown one where they are
//! not: the flag is taken out of the superblock, and reads of descriptors are sent to where they lie.

use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read};
use shale_model::BlockDevice;
use tokio::runtime::Handle;

/// Where Debian and its relatives, then others, have the kernel of the next boot.
const KERNELS: [&str; 3] = ["/vmlinuz", "/boot/vmlinuz", "/boot/vmlinuz-linux"];
/// The initial RAM disk that goes with each of [`KERNELS`].
const INITRDS: [&str; 3] = [
    "/initrd.img",
    "/boot/initrd.img",
    "/boot/initramfs-linux.img",
];

/// Largest kernel or initial RAM disk that is read: they are held in memory. Debian's generic ones have 8
/// and 40 MiB.
const MAX_BOOT_FILE_BYTES: u64 = 1 << 30;

/// What a direct boot starts.
pub(crate) struct BootFiles {
    pub(crate) kernel: Vec<u8>,
    pub(crate) initrd: Option<Vec<u8>>,
}

/// Why no kernel can be read from a disk.
#[derive(Debug, thiserror::Error)]
pub enum GuestFileError {
    /// The file system cannot be read.
    #[error("read the disk's file system")]
    FileSystem(#[source] Ext4Error),
    /// A file on it cannot be read.
    #[error("read `{path}` on the disk")]
    File {
        /// The file.
        path: &'static str,
        /// Why not.
        source: Ext4Error,
    },
    /// None of the usual names leads to a kernel.
    #[error("the disk has no kernel: neither {}", KERNELS.join(" nor "))]
    NoKernel,
    /// A kernel or initial RAM disk of a size that none has.
    #[error("`{path}` on the disk has {bytes} bytes; the limit is {MAX_BOOT_FILE_BYTES}")]
    TooLarge {
        /// The file.
        path: &'static str,
        /// Its size.
        bytes: u64,
    },
}

/// The kernel and initial RAM disk that the guest's own links point to. Blocks; must not be called from a
/// thread of `runtime`.
pub(crate) fn boot_files(
    disk: Arc<dyn BlockDevice>,
    runtime: Handle,
) -> Result<BootFiles, GuestFileError> {
    let reader = DiskReader::new(disk, runtime);
    let ext4 = Ext4::load(Box::new(reader)).map_err(GuestFileError::FileSystem)?;
    for (kernel, initrd) in KERNELS.into_iter().zip(INITRDS) {
        if let Some(kernel) = read(&ext4, kernel)? {
            let initrd = read(&ext4, initrd)?;
            return Ok(BootFiles { kernel, initrd });
        }
    }
    Err(GuestFileError::NoKernel)
}

fn read(ext4: &Ext4, path: &'static str) -> Result<Option<Vec<u8>>, GuestFileError> {
    let bytes = match ext4.metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(Ext4Error::NotFound) => return Ok(None),
        Err(source) => return Err(GuestFileError::File { path, source }),
    };
    if bytes > MAX_BOOT_FILE_BYTES {
        return Err(GuestFileError::TooLarge { path, bytes });
    }
    let content = ext4.read(path);
    content
        .map(Some)
        .map_err(|source| GuestFileError::File { path, source })
}

const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
const INCOMPATIBLE_AT: usize = 0x60;
const META_BG: u32 = 0x10;
const CHECKSUM_AT: usize = 0x3fc;

/// A disk as `ext4-view` reads it.
struct DiskReader {
    disk: Arc<dyn BlockDevice>,
    runtime: Handle,
    spread: Option<Spread>,
}

/// Where the descriptors of a file system with `meta_bg` lie.
struct Spread {
    block_bytes: u64,
    blocks_per_group: u64,
    descriptor_bytes: u64,
    /// The first block of descriptors that lies apart from the others.
    first: u64,
}

impl DiskReader {
    fn new(disk: Arc<dyn BlockDevice>, runtime: Handle) -> Self {
        let spread = None;
        Self {
            disk,
            runtime,
            spread,
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.disk.size()) {
            return Err(Problem("a read leaves the disk".into()));
        }
        let read = self.runtime.block_on(self.disk.read(offset, buffer));
        read.map_err(|error| Problem(error.to_string()))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Problem(String);

impl Ext4Read for DiskReader {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let start = match &self.spread {
            Some(spread) => spread.locate(start_byte, dst.len() as u64),
            None => start_byte,
        };
        self.read_at(start, dst)?;
        if start_byte == SUPERBLOCK_AT && dst.len() == SUPERBLOCK_BYTES {
            self.spread = Spread::take_out_of(dst);
        }
        Ok(())
    }
}

impl Spread {
    /// Takes the flag out of a superblock that has it.
    fn take_out_of(superblock: &mut [u8]) -> Option<Self> {
        let u16_at = |at: usize| u16::from_le_bytes([superblock[at], superblock[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let incompatible = u32_at(INCOMPATIBLE_AT);
        if incompatible & META_BG == 0 {
            return None;
        }
        let this = Self {
            // A larger shift is no file system; the reader refuses it.
            block_bytes: 1024 << u32_at(0x18).min(6),
            blocks_per_group: u32_at(0x20).into(),
            descriptor_bytes: u16_at(0xfe).max(32).into(),
            first: u32_at(0x104).into(),
        };
        let without = (incompatible & !META_BG).to_le_bytes();
        superblock[INCOMPATIBLE_AT..INCOMPATIBLE_AT + 4].copy_from_slice(&without);
        // The kernel's crc32c has no final inversion (Documentation/filesystems/ext4/checksums.rst).
        let checksum = !crc32c::crc32c(&superblock[..CHECKSUM_AT]);
        superblock[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        Some(this)
    }

    /// Where the bytes lie that are read at `offset`. Descriptors are read one by one, and nothing else
    /// that small is read from the blocks after the superblock.
    fn locate(&self, offset: u64, len: u64) -> u64 {
        let table = if self.block_bytes == 1024 {
            2048
        } else {
            self.block_bytes
        };
        let Some(inside) = offset
            .checked_sub(table)
            .filter(|_| len == self.descriptor_bytes)
        else {
            return offset;
        };
        let (block, rest) = (inside / self.block_bytes, inside % self.block_bytes);
        // The first stands behind the superblock, as ever. The group that each other one describes first
        // has an even number, and so no copy of the superblock before it (sparse_super).
        if block == 0 || block < self.first {
            return offset;
        }
        let groups = self.block_bytes / self.descriptor_bytes;
        let start = block
            .checked_mul(groups)
            .and_then(|group| group.checked_mul(self.blocks_per_group))
            .and_then(|start| start.checked_mul(self.block_bytes));
        start.map_or(u64::MAX - rest, |start| start + rest)
    }
}
