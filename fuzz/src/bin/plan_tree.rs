//! The tree of a damaged plan: a layer of arbitrary entries laid out, some of the bytes that the layout made replaced, and all that a
//! client of the mounted tree could ask for. Without damage, every name is found.
#![no_main]

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use shale_fuzz::LayerFromBytes;
use shale_image::{Layout, TreeReader, TreeShape, default_bytes, lay_out};
use shale_model::{Filesystem, Plan, TemplateId, compose};

/// Largest disk that is laid out: its groups take time.
const MOST_DISK_BYTES: u64 = 4 << 30;
/// Inodes that are looked at, all names of a layer among them.
const INODES: u32 = 700;
/// Names that are read of one directory.
const NAMES: usize = 2000;

fuzz_target!(|input: (bool, LayerFromBytes, Vec<(u32, u8)>)| {
    let (old, layer, damage) = input;
    let filesystem = match old {
        true => Filesystem::Ext4Old,
        false => Filesystem::Ext4V1,
    };
    let Ok(tree) = compose(&[layer.0]) else {
        return;
    };
    if default_bytes(&tree, filesystem).map_or(true, |bytes| bytes > MOST_DISK_BYTES) {
        return;
    }
    let layout = Layout {
        template: TemplateId::of(b"fuzz"),
        filesystem,
        disk_bytes: 0,
        uuid: [1; 16],
    };
    let Ok(mut parts) = lay_out(&tree, &layout, &Default::default()) else {
        return;
    };
    for (at, value) in &damage {
        let len = parts.synthesised.len();
        parts.synthesised[*at as usize % len] = *value;
    }
    let plan = Plan::open(parts.encode().1).expect("a plan");
    let read = match TreeShape::of(&plan) {
        Ok(shape) => shape.tree(&plan),
        Err(_) => {
            assert!(!damage.is_empty());
            return;
        }
    };
    let names = (0..INODES)
        .map(|number| visit(&read, number, !damage.is_empty()))
        .sum::<usize>();
    assert!(
        !damage.is_empty() || names > 0,
        "the root has two names at least"
    );
});

/// Reads one inode in every way; how many names it has.
fn visit(read: &TreeReader<'_, Plan<Vec<u8>>>, number: u32, is_damaged: bool) -> usize {
    let Ok(inode) = read.inode(number) else {
        assert!(is_damaged);
        return 0;
    };
    let Some(inode) = inode else {
        return 0;
    };
    let xattrs = read.xattrs(&inode);
    assert!(is_damaged || xattrs.is_ok());
    let _ = (inode.rdev(), inode.owner(), inode.mtime(), inode.sectors());
    let _ = read.link_target(&inode);
    for block in [0, 1, 300, u32::MAX] {
        if let Ok(run) = read.run(&inode, block) {
            assert!(run.blocks > 0 && u64::from(block) + run.blocks <= 1 << 32);
        }
    }
    let mut found = Vec::new();
    let entries = read.entries(&inode, 0, |entry| {
        found.push((entry.name.to_vec(), entry.inode));
        match found.len() < NAMES {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    assert!(is_damaged || entries.is_ok() == inode.is_directory());
    for (name, number) in &found {
        let again = read.lookup(&inode, name);
        assert!(is_damaged || again == Ok(Some(*number)));
    }
    found.len()
}
