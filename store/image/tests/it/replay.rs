//! Journals of every format, written by a model of who writes them: what it committed is what is read.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use proptest::collection::vec;
use proptest::prelude::*;
use shale_image::{Metadata, Replayed, TreeShape};
use shale_model::limits::BLOCK_BYTES;
use shale_model::{Filesystem, FormatError, Plan};

use crate::support::{LayerBuilder, plan};

const BLOCK: u64 = BLOCK_BYTES as u64;
const MAGIC: u32 = 0xC03B_3998;
/// The journal's inode, which the superblock copies: its only extent says where the log lies.
const EXTENT_AT: usize = 1024 + 0x10C + 12;
/// Blocks of the log that the ring has here, so that it wraps.
const RING: u32 = 90;

const WIDE: u32 = 0x2;
const V2: u32 = 0x8;
const V3: u32 = 0x10;

/// A plan's disk, with blocks that were written since.
#[derive(Debug, Clone)]
struct Written {
    plan: Plan<Vec<u8>>,
    blocks: HashMap<u64, Vec<u8>>,
}

impl Metadata for Written {
    type Error = FormatError;

    fn range(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>, FormatError> {
        let mut bytes = Vec::new();
        let mut at = offset;
        while bytes.len() < len {
            let block = at / BLOCK;
            let whole = match self.blocks.get(&block) {
                Some(written) => written.clone(),
                None => self
                    .plan
                    .synthesised_range(block * BLOCK, BLOCK_BYTES)?
                    .into(),
            };
            let inside = (at % BLOCK) as usize;
            let step = (BLOCK_BYTES - inside).min(len - bytes.len());
            bytes.extend_from_slice(&whole[inside..inside + step]);
            at += step as u64;
        }
        Ok(bytes.into())
    }

    fn disk_bytes(&self) -> u64 {
        self.plan.disk_bytes()
    }
}

/// What one transaction does: blocks that it writes, with what, and then blocks that it revokes.
#[derive(Debug, Clone)]
struct Transaction {
    writes: Vec<(u8, u8)>,
    revokes: Vec<u8>,
    /// Blocks that one descriptor tells of.
    per_descriptor: usize,
}

fn transactions() -> impl Strategy<Value = Vec<Transaction>> {
    let one = (
        vec((0u8..12, any::<u8>()), 0..6),
        vec(0u8..12, 0..3),
        1usize..4,
    );
    let one = one.prop_map(|(writes, revokes, per_descriptor)| Transaction {
        writes,
        revokes,
        per_descriptor,
    });
    vec(one, 0..7)
}

/// The block that a number of the model stands for: some where no content of the template is.
fn target(number: u8) -> u64 {
    9_000_000 / 4096 + 16_384 + u64::from(number)
}

/// Its content: every fourth begins like a block of the journal.
fn content(value: u8) -> Vec<u8> {
    let mut bytes = vec![value; BLOCK_BYTES];
    if value.is_multiple_of(4) {
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
    }
    bytes
}

fn crc(seed: u32, bytes: &[u8]) -> u32 {
    // The reflected Castagnoli polynomial, a bit at a time: apart from the crate that is tested.
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 }
        })
    })
}

fn put(block: &mut [u8], at: usize, value: u32) {
    block[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Writes a log as jbd2 does.
struct Writer {
    log: u64,
    features: u32,
    at: u32,
    sequence: u32,
    blocks: HashMap<u64, Vec<u8>>,
}

impl Writer {
    fn seed(&self) -> Option<u32> {
        (self.features & (V2 | V3) != 0).then(|| crc(!0, &[7; 16]))
    }

    fn push(&mut self, block: Vec<u8>) {
        self.blocks.insert(self.log + u64::from(self.at), block);
        self.at = if self.at + 1 == RING { 1 } else { self.at + 1 };
    }

    fn header(&self, kind: u32) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        for (at, value) in [MAGIC, kind, self.sequence].into_iter().enumerate() {
            put(&mut block, 4 * at, value);
        }
        block
    }

    fn sign_tail(&self, block: &mut [u8]) {
        if let Some(seed) = self.seed() {
            let sum = crc(seed, block);
            put(block, BLOCK_BYTES - 4, sum);
        }
    }

    fn transaction(&mut self, transaction: &Transaction) {
        for writes in transaction.writes.chunks(transaction.per_descriptor) {
            self.describe(writes);
        }
        if !transaction.revokes.is_empty() {
            let mut block = self.header(5);
            let mut at = 16;
            for number in &transaction.revokes {
                if self.features & WIDE != 0 {
                    at += 4;
                }
                put(&mut block, at, target(*number) as u32);
                at += 4;
            }
            put(&mut block, 12, at as u32);
            self.sign_tail(&mut block);
            self.push(block);
        }
        let mut block = self.header(2);
        if let Some(seed) = self.seed() {
            let sum = crc(seed, &block);
            put(&mut block, 16, sum);
        }
        self.push(block);
        self.sequence = self.sequence.wrapping_add(1);
    }

    fn describe(&mut self, writes: &[(u8, u8)]) {
        let mut descriptor = self.header(1);
        let (mut at, mut datas) = (12, Vec::new());
        for (nth, (number, value)) in writes.iter().enumerate() {
            let mut data = content(*value);
            let is_escaped = data[..4] == MAGIC.to_be_bytes();
            if is_escaped {
                data[..4].fill(0);
            }
            let mut flags = u32::from(is_escaped);
            flags |= if nth > 0 { 2 } else { 0 };
            flags |= if nth + 1 == writes.len() { 8 } else { 0 };
            let seed = self.seed();
            let sum = seed.map_or(0, |seed| {
                crc(crc(seed, &self.sequence.to_be_bytes()), &data)
            });
            put(&mut descriptor, at, target(*number) as u32);
            if self.features & V3 != 0 {
                put(&mut descriptor, at + 4, flags);
                put(&mut descriptor, at + 12, sum);
                at += 16;
            } else {
                put(&mut descriptor, at + 4, (sum & 0xFFFF) << 16 | flags);
                at += 8;
                at += if self.features & WIDE != 0 { 4 } else { 0 };
                at += if self.features & V2 != 0 { 2 } else { 0 };
            }
            at += if nth == 0 { 16 } else { 0 };
            datas.push(data);
        }
        self.sign_tail(&mut descriptor);
        self.push(descriptor);
        datas.into_iter().for_each(|data| self.push(data));
    }
}

/// The disk of an empty template whose log holds these transactions, from block `start` of the ring on.
fn disk_with(transactions: &[Transaction], features: u32, start: u32) -> Written {
    let (_, parts) = plan(&[LayerBuilder::default().build()], Filesystem::Ext4V1, 0);
    let plan = Plan::open(parts.encode().1).unwrap();
    let mut sb = plan.synthesised_range(0, BLOCK_BYTES).unwrap().into_owned();
    let log = u32::from_le_bytes(sb[EXTENT_AT + 8..EXTENT_AT + 12].try_into().unwrap());
    sb[1024 + 0x60] |= 4;
    let mut writer = Writer {
        log: log.into(),
        features,
        at: start,
        sequence: 0xFFFF_FFFD,
        blocks: HashMap::from([(0, sb)]),
    };
    let mut head = plan
        .synthesised_range(writer.log * BLOCK, BLOCK_BYTES)
        .unwrap()
        .into_owned();
    for (at, value) in [
        (0x10, RING),
        (0x18, writer.sequence),
        (0x1C, start),
        (0x28, features),
    ] {
        put(&mut head, at, value);
    }
    head[0x30..0x40].fill(7);
    writer.blocks.insert(writer.log, head);
    for transaction in transactions {
        writer.transaction(transaction);
    }
    Written {
        plan,
        blocks: writer.blocks,
    }
}

/// What is on the disk after these transactions.
fn model(transactions: &[Transaction]) -> BTreeMap<u8, u8> {
    let mut disk = BTreeMap::new();
    for (number, transaction) in transactions.iter().enumerate() {
        for (block, value) in &transaction.writes {
            let later = &transactions[number..];
            if !later.iter().any(|later| later.revokes.contains(block)) {
                disk.insert(*block, *value);
            }
        }
    }
    disk
}

fn formats() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0, WIDE, V2, V2 | WIDE, V3, V3 | WIDE]).prop_map(|bits| bits | 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_committed_is_read(
        transactions in transactions(),
        features in formats(),
        start in 1..RING,
        torn in any::<bool>(),
    ) {
        let mut disk = disk_with(&transactions, features, start);
        let mut committed = &transactions[..];
        // The last commit was never written.
        if torn && let Some((_, before)) = transactions.split_last() {
            let whole = disk_with(before, features, start);
            let mut lost: Vec<u64> = disk.blocks.keys().copied().collect();
            lost.retain(|block| !whole.blocks.contains_key(block));
            let commit = lost.into_iter().find(|block| {
                let bytes = &disk.blocks[block];
                bytes[..4] == MAGIC.to_be_bytes() && bytes[7] == 2
            });
            disk.blocks.remove(&commit.unwrap());
            committed = before;
        }
        let replayed = Replayed::new(disk).unwrap();
        prop_assert!(TreeShape::of(&replayed).is_ok());
        let wanted = model(committed);
        for number in 0..12 {
            let at = target(number) * BLOCK;
            let found = replayed.range(at, BLOCK_BYTES).unwrap();
            let expected = wanted.get(&number).map_or(vec![0; BLOCK_BYTES], |value| content(*value));
            prop_assert!(found == expected, "block {number}");
            prop_assert_eq!(replayed.is_replaced(target(number)), wanted.contains_key(&number));
        }
        let across = replayed.range(target(3) * BLOCK - 5, 10).unwrap();
        let apart = [target(2) * BLOCK + BLOCK - 5, target(3) * BLOCK]
            .map(|at| replayed.range(at, 5).unwrap().into_owned());
        prop_assert_eq!(&across[..], apart.concat());
    }

    /// Any bytes in the log give blocks or an error.
    #[test]
    fn damage_is_noticed_or_ends_the_log(
        transactions in transactions(),
        features in formats(),
        damage in vec((any::<prop::sample::Index>(), 0..BLOCK_BYTES, any::<u8>()), 1..6),
    ) {
        let mut disk = disk_with(&transactions, features, 1);
        let mut places: Vec<u64> = disk.blocks.keys().copied().collect();
        places.sort();
        for (block, at, value) in damage {
            let block = places[block.index(places.len())];
            // Where headers and tags are.
            let at = if value % 2 == 0 { at % 64 } else { at };
            disk.blocks.get_mut(&block).unwrap()[at] ^= value | 1;
        }
        if let Ok(replayed) = Replayed::new(disk)
            && features & (V2 | V3) != 0
        {
            let written: Vec<Vec<u8>> = transactions
                .iter()
                .flat_map(|transaction| &transaction.writes)
                .map(|(_, value)| content(*value))
                .chain([vec![0; BLOCK_BYTES]])
                .collect();
            for number in 0..12 {
                let found = replayed.range(target(number) * BLOCK, BLOCK_BYTES).unwrap();
                // With 16 bits, one damage in 65,536 is not noticed.
                prop_assert!(features & V3 == 0 || written.iter().any(|bytes| *bytes == *found));
            }
        }
    }
}
