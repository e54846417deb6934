//! A disk that a guest wrote: the file system of a template, with anything in its metadata and its journal. The journal is
//! replayed, and then the tree is read.
#![no_main]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use shale_image::{Layout, Metadata, Replayed, TreeReader, TreeShape, lay_out};
use shale_model::limits::BLOCK_BYTES;
use shale_model::{Filesystem, FormatError, Plan, TemplateId, TreeLayer, compose};

/// Blocks that are written to: metadata of the first group, and the start of the log behind it.
const BLOCKS: u16 = 700;
/// Block of the journal, as the layout has it for an empty tree.
const JOURNAL: u64 = 516;
/// Inodes that are looked at.
const INODES: u32 = 64;
/// Names that are read of one directory.
const NAMES: usize = 200;

/// Bytes of a block, at an offset.
type Write = (u16, u16, Vec<u8>);

struct Disk {
    plan: Plan<Vec<u8>>,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Disk {
    fn block(&self, number: u64) -> Result<Vec<u8>, FormatError> {
        match self.blocks.get(&number) {
            Some(written) => Ok(written.clone()),
            None => {
                let offset = number.saturating_mul(BLOCK_BYTES as u64);
                Ok(self
                    .plan
                    .synthesised_range(offset, BLOCK_BYTES)?
                    .into_owned())
            }
        }
    }

    fn write(&mut self, (block, at, bytes): &Write) {
        let number = u64::from(block % BLOCKS);
        let mut block = self.block(number).expect("a block of the disk");
        for (at, byte) in (usize::from(*at)..BLOCK_BYTES).zip(bytes) {
            block[at] = *byte;
        }
        self.blocks.insert(number, block);
    }
}

impl Metadata for Disk {
    type Error = FormatError;

    fn range(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>, FormatError> {
        let block = BLOCK_BYTES as u64;
        let first = offset / block;
        let mut bytes = Vec::new();
        for number in first..(offset + len as u64).div_ceil(block) {
            bytes.extend(self.block(number)?);
        }
        let inside = (offset % block) as usize;
        Ok(bytes[inside..inside + len].to_vec().into())
    }

    fn disk_bytes(&self) -> u64 {
        self.plan.disk_bytes()
    }
}

fuzz_target!(|input: (bool, Vec<Write>)| {
    let (old, writes) = input;
    let filesystem = match old {
        true => Filesystem::Ext4Old,
        false => Filesystem::Ext4V1,
    };
    let tree = compose(&[TreeLayer::default()]).expect("an empty tree");
    let layout = Layout {
        template: TemplateId::of(b"fuzz"),
        filesystem,
        disk_bytes: 0,
        uuid: [1; 16],
    };
    let parts = lay_out(&tree, &layout, &Default::default()).expect("a small disk");
    let plan = Plan::open(parts.encode().1).expect("a plan");
    let mut disk = Disk {
        plan,
        blocks: BTreeMap::new(),
    };
    // A journal that is to be replayed, from its first block on.
    disk.write(&(
        0,
        1024 + 0x60,
        vec![disk.block(0).expect("a block")[1024 + 0x60] | 4],
    ));
    disk.write(&(JOURNAL as u16, 0x1C, vec![0, 0, 0, 1]));
    writes.iter().for_each(|write| disk.write(write));
    let Ok(replayed) = Replayed::new(disk) else {
        return;
    };
    let Ok(shape) = TreeShape::of(&replayed) else {
        return;
    };
    let read = shape.tree(&replayed);
    (0..INODES).for_each(|number| visit(&read, number));
});

/// Reads one inode in every way.
fn visit(read: &TreeReader<'_, Replayed<Disk>>, number: u32) {
    let Ok(Some(inode)) = read.inode(number) else {
        return;
    };
    let _ = (read.xattrs(&inode), read.link_target(&inode), inode.rdev());
    for block in [0, 1, 300, u32::MAX] {
        if let Ok(run) = read.run(&inode, block) {
            assert!(run.blocks > 0 && u64::from(block) + run.blocks <= 1 << 32);
        }
    }
    let mut names = Vec::new();
    let _ = read.entries(&inode, 0, |entry| {
        names.push(entry.name.to_vec());
        match names.len() < NAMES {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    for name in &names {
        let _ = read.lookup(&inode, name);
    }
}
