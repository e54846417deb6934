//! Files of a guest, read from its disk while it does not run.
//!
//! The reader is the crate `ext4-view`, which replays the journal in memory. It refuses file systems whose
//! group descriptors are spread over the disk (`meta_bg`), as ours are; so it is shown one where they are
//! not: the flag is taken out of the superblock, and reads of descriptors are sent to where they lie.

use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read};
use shale_model::BlockDevice;
use tokio::runtime::Handle;

use crate::patience::Patience;
use crate::read_ahead::ReadAhead;

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
const MAX_BOOT_FILE_BYTES: u64 = 256 << 20;

/// Most block groups of a file system: the reader keeps all of their descriptors in memory, some 16 bytes each,
/// and takes their number from a superblock that the guest may have written. 16 TiB have 131,072.
const MAX_GROUPS: u64 = 1 << 20;

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

/// The kernel and initial RAM disk that the guest's own links point to; reads fail when `patience` ends.
/// Blocks; must not be called from a thread of `runtime`.
pub(crate) fn boot_files(
    disk: Arc<dyn BlockDevice>,
    runtime: Handle,
    patience: Patience,
) -> Result<BootFiles, GuestFileError> {
    let reader = DiskReader::new(disk, runtime, patience);
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
    patience: Patience,
    ahead: ReadAhead,
    spread: Option<Spread>,
}

/// Where the descriptors of a file system with `meta_bg` lie.
struct Spread {
    block_bytes: u64,
    first_block: u64,
    blocks_per_group: u64,
    descriptor_bytes: u64,
    /// The first block of descriptors that lies apart from the others.
    first: u64,
}

impl DiskReader {
    fn new(disk: Arc<dyn BlockDevice>, runtime: Handle, patience: Patience) -> Self {
        Self {
            disk,
            runtime,
            patience,
            ahead: ReadAhead::default(),
            spread: None,
        }
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        let wanted = buffer.len() as u64;
        let inside = offset
            .checked_add(wanted)
            .is_some_and(|end| end <= self.disk.size());
        if !inside {
            return Err(Problem("a read leaves the disk".into()));
        }
        if self.ahead.read(offset, buffer) {
            return Ok(());
        }
        let window = self.ahead.window(offset, wanted);
        let mut bytes = vec![0; window.min(self.disk.size() - offset) as usize];
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                read = self.disk.read(offset, &mut bytes) => {
                    read.map_err(|e| Problem(e.to_string()))
                }
                error = self.patience.ended() => Err(Problem(error.to_string())),
            }
        })?;
        buffer.copy_from_slice(&bytes[..buffer.len()]);
        self.ahead.keep(offset, bytes);
        Ok(())
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
            check_groups(dst)?;
            self.spread = Spread::take_out_of(dst);
        }
        Ok(())
    }
}

fn u16_at(superblock: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([superblock[at], superblock[at + 1]])
}

fn u32_at(superblock: &[u8], at: usize) -> u32 {
    u32::from(u16_at(superblock, at)) | u32::from(u16_at(superblock, at + 2)) << 16
}

/// Refuses superblocks with more groups than a file system has.
fn check_groups(superblock: &[u8]) -> Result<(), Problem> {
    let blocks = u64::from(u32_at(superblock, 0x4)) | u64::from(u32_at(superblock, 0x150)) << 32;
    let per_group = u32_at(superblock, 0x20).max(1);
    match blocks / u64::from(per_group) {
        groups if groups > MAX_GROUPS => Err(Problem(format!("it has {groups} block groups"))),
        _ => Ok(()),
    }
}

impl Spread {
    /// Takes the flag out of a superblock that has it.
    fn take_out_of(superblock: &mut [u8]) -> Option<Self> {
        let incompatible = u32_at(superblock, INCOMPATIBLE_AT);
        if incompatible & META_BG == 0 {
            return None;
        }
        let this = Self {
            // A larger shift is no file system; the reader refuses it.
            block_bytes: 1024 << u32_at(superblock, 0x18).min(6),
            first_block: u32_at(superblock, 0x14).into(),
            blocks_per_group: u32_at(superblock, 0x20).into(),
            descriptor_bytes: u16_at(superblock, 0xfe).max(32).into(),
            first: u32_at(superblock, 0x104).into(),
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
            .and_then(|start| start.checked_add(self.first_block))
            .and_then(|start| start.checked_mul(self.block_bytes));
        start.map_or(u64::MAX - rest, |start| start + rest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::ops::Range;
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::process::Command;
    use std::sync::Mutex;
    use std::time::Duration;

    use shale_model::{BlockRun, BoxFuture, DeviceResult};
    use tokio::runtime::Runtime;

    use super::*;
    use crate::error::HostError;
    use crate::file_disk::FileDisk;
    use crate::patience::Hope;

    /// A disk that remembers what was read, and answers so many reads.
    struct Seen(FileDisk, Mutex<Vec<Range<usize>>>, usize);

    impl BlockDevice for Seen {
        fn size(&self) -> u64 {
            self.0.size()
        }

        fn read<'a>(
            &'a self,
            offset: u64,
            buffer: &'a mut [u8],
        ) -> BoxFuture<'a, DeviceResult<()>> {
            let range = offset as usize..offset as usize + buffer.len();
            let mut seen = self.1.lock().unwrap();
            seen.push(range);
            match seen.len() <= self.2 {
                true => self.0.read(offset, buffer),
                false => Box::pin(std::future::pending()),
            }
        }

        fn write<'a>(&'a self, offset: u64, data: &'a [u8]) -> BoxFuture<'a, DeviceResult<()>> {
            self.0.write(offset, data)
        }

        fn zero(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<()>> {
            self.0.zero(offset, len)
        }

        fn flush(&self) -> BoxFuture<'_, DeviceResult<()>> {
            self.0.flush()
        }

        fn status(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<Vec<BlockRun>>> {
            self.0.status(offset, len)
        }
    }

    /// An ext4 file system of `tree`, made with these options of mke2fs(8).
    fn disk(tree: &Path, image: &Path, options: &[&str], size: &str) -> Arc<dyn BlockDevice> {
        let _ = fs::remove_file(image);
        let mut command = Command::new("mke2fs");
        command
            .args(["-q", "-t", "ext4", "-d"])
            .arg(tree)
            .args(options);
        let output = command
            .arg(image)
            .arg(size)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let output = output
            .output()
            .expect("mke2fs runs (Debian package e2fsprogs)");
        assert!(output.status.success(), "{output:?}");
        Arc::new(FileDisk::open(image).unwrap())
    }

    #[test]
    fn the_kernel_is_found_through_links_on_every_layout() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
        fs::create_dir_all(tree.join("boot")).unwrap();
        let kernel: Vec<u8> = (0..3_000_000u32).map(|n| (n / 5) as u8).collect();
        fs::write(tree.join("boot/vmlinuz-6.1"), &kernel).unwrap();
        fs::write(tree.join("boot/initrd.img-6.1"), b"initrd").unwrap();
        std::os::unix::fs::symlink("boot/vmlinuz-6.1", tree.join("vmlinuz")).unwrap();
        std::os::unix::fs::symlink("boot/initrd.img-6.1", tree.join("initrd.img")).unwrap();
        let runtime = Runtime::new().unwrap();
        for (options, size) in [
            (&[][..], "64M"),
            (&["-O", "meta_bg,^resize_inode"], "64M"),
            // Files are spread over groups whose descriptors lie far apart; small groups make many.
            (&["-O", "meta_bg,^resize_inode", "-g", "1024"], "2G"),
            (
                &[
                    "-O",
                    "meta_bg,^resize_inode,metadata_csum,64bit",
                    "-g",
                    "1024",
                ],
                "2G",
            ),
            (
                &[
                    "-O",
                    "meta_bg,^resize_inode,^metadata_csum,^64bit",
                    "-g",
                    "512",
                ],
                "1G",
            ),
            (
                &[
                    "-O",
                    "meta_bg,^resize_inode,metadata_csum,64bit",
                    "-b",
                    "1024",
                ],
                "512M",
            ),
            (&["-O", "^has_journal,^extent,^64bit,^metadata_csum"], "64M"),
        ] {
            let disk = disk(&tree, &image, options, size);
            let found = boot_files(disk, runtime.handle().clone(), Patience::endless());
            let found = found.unwrap_or_else(|error| panic!("{options:?}: {error:?}"));
            assert!(found.kernel == kernel, "{options:?}");
            assert_eq!(found.initrd.as_deref(), Some(&b"initrd"[..]), "{options:?}");
        }
    }

    #[test]
    fn a_disk_without_a_kernel_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
        fs::create_dir_all(&tree).unwrap();
        let runtime = Runtime::new().unwrap();
        let empty = disk(&tree, &image, &[], "16M");
        let error = boot_files(empty, runtime.handle().clone(), Patience::endless()).err();
        assert!(matches!(error, Some(GuestFileError::NoKernel)), "{error:?}");
        // Neither is a link that leads nowhere.
        std::os::unix::fs::symlink("boot/gone", tree.join("vmlinuz")).unwrap();
        let dangling = disk(&tree, &image, &[], "16M");
        let error = boot_files(dangling, runtime.handle().clone(), Patience::endless()).err();
        assert!(matches!(error, Some(GuestFileError::NoKernel)), "{error:?}");
        fs::write(&image, vec![7; 1 << 20]).unwrap();
        let noise = Arc::new(FileDisk::open(&image).unwrap());
        let error = boot_files(noise, runtime.handle().clone(), Patience::endless()).err();
        assert!(
            matches!(error, Some(GuestFileError::FileSystem(_))),
            "{error:?}"
        );
    }

    #[test]
    fn a_disk_that_does_not_answer_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("vmlinuz"), "kernel").unwrap();
        disk(&tree, &image, &[], "16M");
        let runtime = Runtime::new().unwrap();
        let hope = Hope::new();
        let _given_up = hope.give_up();
        // It ends at any read: of the superblock, of the kernel's bytes, and of what lies between.
        let mut ended = 0;
        for answers in 0.. {
            let file = FileDisk::open(&image).unwrap();
            let seen = Arc::new(Seen(file, Mutex::default(), answers));
            let patience = hope.patience("web", Duration::MAX);
            match boot_files(seen, runtime.handle().clone(), patience.clone()) {
                Ok(_) => break,
                Err(_) => ended += 1,
            }
            assert!(matches!(patience.over(), Some(HostError::GivenUp(_))));
        }
        assert!(ended > 3, "{ended} reads");
    }

    /// A guest that wants to harm its host writes what it likes: the reader comes back, and takes little
    /// memory. Where it panics, the service answers that the work was interrupted.
    #[test]
    fn damaged_file_systems_end_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("vmlinuz"), vec![3; 200_000]).unwrap();
        // Without checksums, damage goes unnoticed for longer.
        let options = [
            "-O",
            "meta_bg,^resize_inode,^metadata_csum",
            "-g",
            "1024",
            "-N",
            "256",
        ];
        let disk_bytes = {
            disk(&tree, &image, &options, "32M");
            fs::read(&image).unwrap()
        };
        let runtime = Runtime::new().unwrap();
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&image)
            .unwrap();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize
        };
        // What a reading looks at, less the kernel itself.
        let seen = Arc::new(Seen(
            FileDisk::open(&image).unwrap(),
            Mutex::default(),
            usize::MAX,
        ));
        boot_files(seen.clone(), runtime.handle().clone(), Patience::endless())
            .ok()
            .unwrap();
        let looked: BTreeSet<usize> = seen.1.lock().unwrap().iter().cloned().flatten().collect();
        // Most of a block of metadata is zeros, or the ones that end a bitmap, which nobody looks at.
        let metadata = looked
            .into_iter()
            .filter(|at| ![0, 3, 0xff].contains(&disk_bytes[*at]));
        let metadata: Vec<usize> = metadata.collect();
        let (mut read, mut refused) = (0, 0);
        std::panic::set_hook(Box::new(|_| {}));
        for _ in 0..500 {
            let at = metadata[random() % metadata.len()];
            file.write_all_at(&[random() as u8; 4][..1 + random() % 4], at as u64)
                .unwrap();
            let reader: Arc<dyn BlockDevice> = Arc::new(FileDisk::open(&image).unwrap());
            let handle = runtime.handle().clone();
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                boot_files(reader, handle, Patience::endless())
            }));
            match found {
                Ok(Ok(_)) => read += 1,
                _ => refused += 1,
            }
            let end = disk_bytes.len().min(at + 4);
            file.write_all_at(&disk_bytes[at..end], at as u64).unwrap();
        }
        let _ = std::panic::take_hook();
        assert!(read > 10 && refused > 10, "{read} read, {refused} refused");
    }
}
