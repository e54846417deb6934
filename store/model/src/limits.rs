//! Every limit of the formats, with its reason.
//!
//! A limit here is part of the format: a writer never exceeds it and a reader refuses what does, so
//! that hostile input costs bounded time and memory.

/// Longest name of one directory entry, in bytes: `NAME_MAX` of Linux.
pub const MAX_NAME_BYTES: usize = 255;

/// Longest path inside a tree, in bytes: `PATH_MAX` of Linux less its final NUL. A longer one could
/// not be opened by its path in the guest either.
pub const MAX_PATH_BYTES: usize = 4095;

/// Longest target of a symbolic link, in bytes: what one ext4 block and `PATH_MAX` hold.
pub const MAX_SYMLINK_BYTES: usize = 4095;

/// Most bytes of names and values of one entry's extended attributes: `XATTR_SIZE_MAX` of Linux for one
/// value, and twice that for all, so that an entry fits into a page.
pub const MAX_XATTR_BYTES: usize = 128 * 1024;

/// Most extended attributes of one entry. `XATTR_LIST_MAX` allows 64 KiB of names; real files have
/// less than ten.
pub const MAX_XATTRS: usize = 1024;

/// Largest chunk of content, in bytes. Also the largest chunk that the chunker cuts: it bounds what a
/// single read has to fetch.
pub const MAX_CHUNK_BYTES: usize = 256 * 1024;

/// Largest page of a layer, in bytes. A page is a chunk too, so that the same pack, cache and
/// verification serve it.
pub const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// Most bytes that the entries of one page stand for: path of each directory, and name and extended attributes
/// of each entry. A page names them by what they share, so one of [`MAX_PAGE_BYTES`] could otherwise stand for
/// 17 GB. An honest page with labels and ACLs stays far below.
pub const MAX_PAGE_EXPANDED_BYTES: usize = 16 * 1024 * 1024;

/// Most bytes that the entries of one layer stand for, counted as for a page: 170 for each of
/// [`MAX_ENTRIES`].
pub const MAX_LAYER_EXPANDED_BYTES: u64 = 16 << 30;

/// Largest plain length of one frame, in bytes: what one fetch decompresses for one missing chunk.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;

/// Plain length at which a packer closes a frame, in bytes. Measured on a Debian base: zstd 3 over
/// independent blocks of 256 KiB is 7.5 % larger than a solid archive, 64 KiB is 12.6 % larger.
pub const FRAME_TARGET_BYTES: usize = 256 * 1024;

/// Largest pack, in bytes; uploads and rewrites stay bounded.
pub const MAX_PACK_BYTES: u64 = 1024 * 1024 * 1024;

/// Most chunks in one pack: its footer then stays below 200 MiB.
pub const MAX_PACK_CHUNKS: usize = 4 * 1024 * 1024;

/// Most frames in one pack: a frame holds at least one chunk.
pub const MAX_PACK_FRAMES: usize = MAX_PACK_CHUNKS;

/// Largest layer root, in bytes: about 60,000 pages, that is some 60 GiB of entries.
pub const MAX_LAYER_ROOT_BYTES: usize = 16 * 1024 * 1024;

/// Largest template, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 1024 * 1024;

/// Most layers in one template. Compose keeps them all in memory, and people lose track far earlier.
pub const MAX_LAYERS: usize = 128;

/// Most entries in one layer, and in one composed tree: inode numbers of ext4 are 32 bits and a tree
/// of this many entries is composed within 64 GiB of memory.
pub const MAX_ENTRIES: u64 = 100_000_000;

/// Largest file or disk, in bytes: 16 TiB, what ext4 with 4 KiB blocks and 32-bit logical block
/// numbers holds.
pub const MAX_FILE_BYTES: u64 = 16 << 40;

/// Bytes of a block: the unit of plans and overlays, and the ext4 block size.
pub const BLOCK_BYTES: usize = 4096;
