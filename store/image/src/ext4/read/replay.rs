//! A file system that was cut off while somebody wrote to it, as it is after its journal was replayed. Nothing is
//! written. Source: Linux `Documentation/filesystems/ext4/journal.rst`, and `fs/jbd2/recovery.c` for what is
//! taken and what is passed over.

use std::borrow::Cow;
use std::collections::HashMap;

use shale_model::limits::BLOCK_BYTES;

use super::{BLOCK, Metadata, SUPERBLOCK_AT, TreeInode, TreeReader, TreeShape, fault};
use crate::ext4::bytes::{get32, put32};
use crate::ext4::checksum::crc32c;
use crate::ext4::journal::{JOURNAL_BLOCKS, JOURNAL_INODE, MAGIC, SUPERBLOCK_V2};
use crate::ext4::superblock::SUPERBLOCK_BYTES;

/// The superblock's bit for a journal that is to be replayed, in its word at `0x60`.
const RECOVER: u32 = 0x4;

// Kinds of blocks in the log that begin with a header.
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

/// Bytes of a header: magic, kind, transaction.
const HEADER: usize = 12;

// Features of the journal that change how it is read; it may also say that commits do not wait for what they commit.
const HAS_REVOKES: u32 = 0x1;
const WIDE: u32 = 0x2;
const ASYNC_COMMIT: u32 = 0x4;
const CHECKSUM_V2: u32 = 0x8;
const CHECKSUM_V3: u32 = 0x10;
const KNOWN: u32 = HAS_REVOKES | WIDE | ASYNC_COMMIT | CHECKSUM_V2 | CHECKSUM_V3;

// Flags of a tag.
const ESCAPED: u32 = 0x1;
const SAME_UUID: u32 = 0x2;
const LAST: u32 = 0x8;

const BAD: &str = "a damaged journal";

/// A disk whose blocks are those of its journal where that has later ones.
///
/// Reads of any part of the disk go through it, the content of files too: a guest may have the journal hold that.
#[derive(Debug)]
pub struct Replayed<M> {
    disk: M,
    copies: HashMap<u64, JournalCopy>,
}

/// Where the last committed content of a block lies.
#[derive(Debug, Clone, Copy)]
struct JournalCopy {
    /// The block of the disk.
    at: u64,
    /// Whether its first four bytes look like the journal's own and were taken out.
    escaped: bool,
    /// What the journal says of its bytes, in how many bits, and its transaction.
    checksum: u32,
    sequence: u32,
}

impl<M: Metadata> Replayed<M> {
    /// Reads the journal of `disk`.
    ///
    /// # Errors
    /// The disk cannot be read, holds no file system of this crate, or its journal is damaged.
    pub fn new(disk: M) -> Result<Self, M::Error> {
        let sb = disk.range(SUPERBLOCK_AT, SUPERBLOCK_BYTES)?;
        let copies = match needs_recovery(&sb) {
            false => HashMap::new(),
            true => {
                let shape = TreeShape::parse(&recovered(&sb), disk.disk_bytes())?;
                let tree = shape.tree(&disk);
                match Log::open(&tree)? {
                    Some(log) => log.replay()?,
                    None => HashMap::new(),
                }
            }
        };
        Ok(Self { disk, copies })
    }

    /// The disk below.
    pub fn disk(&self) -> &M {
        &self.disk
    }

    /// Whether the journal has a later content of a block.
    pub fn is_replaced(&self, block: u64) -> bool {
        self.copies.contains_key(&block)
    }

    /// The bytes of a block that the journal has.
    fn copy(&self, copy: JournalCopy) -> Result<Vec<u8>, M::Error> {
        let mut bytes = self.disk.range(copy.at * BLOCK, BLOCK_BYTES)?.into_owned();
        if copy.escaped {
            bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        }
        Ok(bytes)
    }
}

impl<M: Metadata> Metadata for Replayed<M> {
    type Error = M::Error;

    fn range(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>, M::Error> {
        let end = offset.saturating_add(len as u64);
        let has_sb = offset < SUPERBLOCK_AT + SUPERBLOCK_BYTES as u64 && end > SUPERBLOCK_AT;
        let blocks = offset / BLOCK..end.div_ceil(BLOCK);
        let is_old = |block: u64| self.copies.contains_key(&block);
        if !has_sb && (self.copies.is_empty() || !blocks.clone().any(is_old)) {
            return self.disk.range(offset, len);
        }
        let mut bytes = self.disk.range(offset, len)?.into_owned();
        for block in blocks {
            let Some(copy) = self.copies.get(&block) else {
                continue;
            };
            let (from, to) = (offset.max(block * BLOCK), end.min((block + 1) * BLOCK));
            let inside = (from - block * BLOCK) as usize..(to - block * BLOCK) as usize;
            bytes[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&self.copy(*copy)?[inside]);
        }
        if offset <= SUPERBLOCK_AT && has_sb {
            let at = (SUPERBLOCK_AT - offset) as usize;
            if let Some(sb) = bytes.get_mut(at..at + SUPERBLOCK_BYTES) {
                let clean = recovered(sb);
                sb.copy_from_slice(&clean);
            }
        }
        Ok(bytes.into())
    }

    fn disk_bytes(&self) -> u64 {
        self.disk.disk_bytes()
    }
}

fn needs_recovery(sb: &[u8]) -> bool {
    get32(sb, 0x60) & RECOVER != 0
}

/// The superblock as it is when the journal was replayed.
fn recovered(sb: &[u8]) -> Vec<u8> {
    let mut sb = sb.to_vec();
    let features = get32(&sb, 0x60) & !RECOVER;
    put32(&mut sb, 0x60, features);
    sb
}

/// The log of a journal: a ring of blocks.
struct Log<'a, M> {
    tree: &'a TreeReader<'a, M>,
    inode: TreeInode,
    /// The ring's first block, and the block behind its last.
    first: u32,
    end: u32,
    /// Where its oldest transaction begins, and that one's number.
    start: u32,
    sequence: u32,
    tags: TagFormat,
    /// What checksums begin with, if there are any.
    seed: Option<u32>,
}

/// How tags are spelled.
#[derive(Clone, Copy)]
struct TagFormat {
    features: u32,
}

/// A block of the disk as a descriptor has it.
struct Tag {
    block: u64,
    flags: u32,
    checksum: u32,
    /// Bytes that it takes.
    len: usize,
}

/// What a transaction changes.
#[derive(Default)]
struct Transaction {
    copies: Vec<(u64, JournalCopy)>,
    /// Where in the log its lists of revoked blocks are: a list is as long as anybody likes.
    revokes: Vec<u32>,
}

impl<'a, M: Metadata> Log<'a, M> {
    /// The log of a file system, if there is anything in it.
    fn open(tree: &'a TreeReader<'a, M>) -> Result<Option<Self>, M::Error> {
        let inode = tree.any_number(JOURNAL_INODE)?;
        let inode = inode.ok_or_else(|| fault(SUPERBLOCK_AT, "there is no journal"))?;
        let mut log = Self {
            tree,
            inode,
            first: 0,
            end: 1,
            start: 0,
            sequence: 0,
            tags: TagFormat { features: 0 },
            seed: None,
        };
        let sb = log.block(0)?;
        let field = |at: usize| big(&sb, at);
        let is_ours = field(0) == MAGIC
            && field(4) == SUPERBLOCK_V2
            && field(0x0C) == BLOCK_BYTES as u32
            && field(0x28) & !KNOWN == 0;
        let (end, first, start) = (field(0x10), field(0x14), field(0x1C));
        if start == 0 {
            return Ok(None);
        }
        let is_ring =
            u64::from(end) <= JOURNAL_BLOCKS && 0 < first && (first..end).contains(&start);
        if !is_ours || !is_ring {
            return Err(log.fault());
        }
        let features = field(0x28);
        let has_checksums = features & (CHECKSUM_V2 | CHECKSUM_V3) != 0;
        log.seed = has_checksums.then(|| crc32c(!0, &sb[0x30..0x40]));
        (log.end, log.first, log.start) = (end, first, start);
        (log.sequence, log.tags) = (field(0x18), TagFormat { features });
        Ok(Some(log))
    }

    fn fault(&self) -> M::Error {
        self.inode.fault(BAD).into()
    }

    /// Where a block of the log lies on the disk.
    fn place(&self, at: u32) -> Result<u64, M::Error> {
        let start = self.tree.run(&self.inode, at)?.start;
        start.ok_or_else(|| self.fault())
    }

    fn block(&self, at: u32) -> Result<Vec<u8>, M::Error> {
        let place = self.place(at)?;
        Ok(self.tree.block(place)?.into_owned())
    }

    fn after(&self, at: u32) -> u32 {
        match at + 1 {
            next if next == self.end => self.first,
            next => next,
        }
    }

    /// The last content of every block that a committed transaction wrote, and no later one revoked.
    fn replay(&self) -> Result<HashMap<u64, JournalCopy>, M::Error> {
        let transactions = self.committed()?;
        // The last transaction that revokes each block of which there is a copy; the log bounds these.
        let copies = transactions.iter().flat_map(|it| &it.copies);
        let mut revoked: HashMap<u64, Option<usize>> =
            copies.map(|(block, _)| (*block, None)).collect();
        for (number, transaction) in transactions.iter().enumerate() {
            for at in &transaction.revokes {
                let list = self.tags.revoked(&self.block(*at)?);
                for block in list.ok_or_else(|| self.fault())? {
                    if let Some(last) = revoked.get_mut(&block) {
                        *last = Some(number);
                    }
                }
            }
        }
        let mut last = HashMap::new();
        for (number, transaction) in transactions.into_iter().enumerate() {
            for (block, copy) in transaction.copies {
                // A block that a transaction revokes was written by it only before that.
                let revoker = revoked.get(&block).copied().flatten();
                if revoker.is_none_or(|revoker| revoker < number) {
                    last.insert(block, copy);
                }
            }
        }
        for (block, copy) in &last {
            if *block >= self.tree.shape.blocks || !self.is_sound(copy)? {
                return Err(self.fault());
            }
        }
        Ok(last)
    }

    /// The transactions that were committed, in order. The log ends where a block is not of the transaction that should
    /// come next: it was never written, or belongs to an older round.
    fn committed(&self) -> Result<Vec<Transaction>, M::Error> {
        let (mut committed, mut open) = (Vec::new(), Transaction::default());
        let (mut at, mut sequence) = (self.start, self.sequence);
        let mut left = self.end - self.first;
        while left > 0 {
            let block = self.block(at)?;
            if big(&block, 0) != MAGIC || big(&block, 8) != sequence {
                break;
            }
            let taken = match big(&block, 4) {
                DESCRIPTOR if self.has_sound_tail(&block) => {
                    self.describe(at, left - 1, &block, &mut open)?
                }
                REVOKE if self.has_sound_tail(&block) => {
                    open.revokes.push(at);
                    0
                }
                COMMIT if self.is_sound_commit(&block) => {
                    committed.push(std::mem::take(&mut open));
                    sequence = sequence.wrapping_add(1);
                    0
                }
                _ => break,
            };
            for _ in 0..=taken {
                at = self.after(at);
            }
            left -= 1 + taken;
        }
        Ok(committed)
    }

    /// Notes the blocks that a descriptor at `at` tells of, at most `left`, which follow it in the log; how many.
    fn describe(
        &self,
        mut at: u32,
        left: u32,
        block: &[u8],
        open: &mut Transaction,
    ) -> Result<u32, M::Error> {
        let sequence = big(block, 8);
        let mut taken = 0;
        for tag in self.tags.of(block) {
            if taken == left {
                return Err(self.fault());
            }
            at = self.after(at);
            taken += 1;
            let copy = JournalCopy {
                at: self.place(at)?,
                escaped: tag.flags & ESCAPED != 0,
                checksum: tag.checksum,
                sequence,
            };
            open.copies.push((tag.block, copy));
        }
        Ok(taken)
    }

    /// Whether a block of the disk is what the journal wrote.
    fn is_sound(&self, copy: &JournalCopy) -> Result<bool, M::Error> {
        let Some(seed) = self.seed else {
            return Ok(true);
        };
        // Of the bytes as they lie in the log.
        let bytes = self.tree.block(copy.at)?;
        let checksum = crc32c(crc32c(seed, &copy.sequence.to_be_bytes()), &bytes);
        Ok(match self.tags.features & CHECKSUM_V3 {
            0 => checksum & 0xFFFF == copy.checksum,
            _ => checksum == copy.checksum,
        })
    }

    /// Whether a descriptor or a list of revoked blocks is what was written.
    fn has_sound_tail(&self, block: &[u8]) -> bool {
        self.seed.is_none_or(|seed| {
            let (bytes, tail) = block.split_at(BLOCK_BYTES - 4);
            crc32c(crc32c(seed, bytes), &[0; 4]) == big(tail, 0)
        })
    }

    fn is_sound_commit(&self, block: &[u8]) -> bool {
        self.seed.is_none_or(|seed| {
            let (before, after) = (&block[..16], &block[20..]);
            let checksum = crc32c(crc32c(crc32c(seed, before), &[0; 4]), after);
            checksum == big(block, 16)
        })
    }
}

impl TagFormat {
    /// Bytes at the end of a block that are its checksum.
    fn tail(self) -> usize {
        match self.features & (CHECKSUM_V2 | CHECKSUM_V3) {
            0 => 0,
            _ => 4,
        }
    }

    fn is_wide(self) -> bool {
        self.features & WIDE != 0
    }

    /// Bytes of a tag.
    fn tag_bytes(self) -> usize {
        match self.features & CHECKSUM_V3 {
            0 => {
                let checksum = if self.features & CHECKSUM_V2 != 0 {
                    2
                } else {
                    0
                };
                8 + checksum + if self.is_wide() { 4 } else { 0 }
            }
            _ => 16,
        }
    }

    /// The tags of a descriptor.
    fn of(self, block: &[u8]) -> impl Iterator<Item = Tag> {
        let end = block.len() - self.tail();
        let mut at = HEADER;
        std::iter::from_fn(move || {
            let tag = self.tag(block.get(at..end)?)?;
            at = match tag.flags & LAST {
                0 => at + tag.len,
                _ => end,
            };
            Some(tag)
        })
    }

    fn tag(self, bytes: &[u8]) -> Option<Tag> {
        let bytes = bytes.get(..self.tag_bytes()).map(|_| bytes)?;
        let is_v3 = self.features & CHECKSUM_V3 != 0;
        let (flags, checksum) = match is_v3 {
            true => (big(bytes, 4), big(bytes, 12)),
            false => (big(bytes, 4) & 0xFFFF, big(bytes, 4) >> 16),
        };
        let high = if self.is_wide() { big(bytes, 8) } else { 0 };
        let uuid = if flags & SAME_UUID == 0 { 16 } else { 0 };
        Some(Tag {
            block: u64::from(big(bytes, 0)) | u64::from(high) << 32,
            flags,
            checksum,
            len: self.tag_bytes() + uuid,
        })
    }

    /// The blocks that a list revokes; nothing if it is damaged.
    fn revoked(self, block: &[u8]) -> Option<Vec<u64>> {
        let used = big(block, HEADER) as usize;
        let list = block[..block.len() - self.tail()].get(HEADER + 4..used)?;
        let one = if self.is_wide() { 8 } else { 4 };
        let blocks = list.chunks_exact(one).map(|number| match self.is_wide() {
            true => u64::from(big(number, 0)) << 32 | u64::from(big(number, 4)),
            false => u64::from(big(number, 0)),
        });
        Some(blocks.collect())
    }
}

/// The big-endian field at `at`; 0 where the bytes end before it.
fn big(from: &[u8], at: usize) -> u32 {
    let field = from.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
