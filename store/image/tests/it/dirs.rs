//! Directories: hash trees that the check and the kernel agree with.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use shale_model::{Filesystem, Kind, PlanParts};
use tempfile::TempDir;

use crate::mount::{Mount, compare};
use crate::support::{LayerBuilder, PROFILES, Store, attrs, check, debugfs, plan, write_disk};

/// A name that is not text every now and then, of a length between 1 and 255.
fn name(at: u32) -> Vec<u8> {
    let mut name = format!("n{at}-").into_bytes();
    let extra = at.wrapping_mul(2_654_435_761) >> 24;
    if at.is_multiple_of(7) {
        name.resize(
            (name.len() + extra as usize).min(255),
            0x80 | (at % 100) as u8,
        );
    }
    name
}

#[test]
fn directories_of_any_number_of_names_are_clean() {
    let mut layer = LayerBuilder::default();
    let kind = Kind::symlink(b"target").unwrap();
    for count in [0, 1, 10, 50, 100, 101, 102, 200, 1000, 9000] {
        layer.dir(&format!("d{count}"));
        for at in 0..count {
            let path = [format!("d{count}/").as_bytes(), &name(at)].concat();
            layer.add(&path, kind.clone(), attrs(0o777));
        }
    }
    let temp = TempDir::new().unwrap();
    for filesystem in PROFILES {
        let disk = temp.path().join("disk");
        let (_, parts) = plan(&[layer.build()], filesystem, 0);
        write_disk(&parts, &Store::default(), &disk);
        check(&disk);
        assert!(debugfs(&disk, "htree_dump /d9000").contains("Number of entries (limit): 50"));
    }
}

/// Around the last name that fits into one block.
#[test]
fn the_step_from_a_list_to_a_tree_is_clean() {
    let temp = TempDir::new().unwrap();
    let mut layer = LayerBuilder::default();
    layer.dir("d");
    for at in 0..245 {
        layer.add(format!("d/{at:08}").as_bytes(), Kind::Fifo, attrs(0o600));
    }
    for len in [1, 3, 4, 5, 8, 9, 12, 13, 16, 17, 24, 25, 28, 29] {
        let mut layer = layer.clone();
        layer.add(
            &[b"d/", &*vec![b'x'; len]].concat(),
            Kind::Fifo,
            attrs(0o600),
        );
        for at in 245..253 {
            layer.add(format!("d/{at:08}").as_bytes(), Kind::Fifo, attrs(0o600));
            for filesystem in PROFILES {
                let disk = temp.path().join("disk");
                let (_, parts) = plan(&[layer.build()], filesystem, 0);
                write_disk(&parts, &Store::default(), &disk);
                check(&disk);
            }
        }
    }
}

/// Two names with the same hash.
const PAIR: [&str; 2] = ["name-73499", "name-103645"];

/// Two names with one hash, one in each of two leaves: the index marks the second leaf, and the kernel
/// finds both.
#[test]
fn privileged_a_hash_may_go_on_in_the_next_leaf() {
    let temp = TempDir::new().unwrap();
    let disk = temp.path().join("disk");
    let found = (0..2000).find_map(|round| {
        let mut layer = LayerBuilder::default();
        layer.dir("d");
        for name in PAIR {
            layer.add(format!("d/{name}").as_bytes(), Kind::Fifo, attrs(0o600));
        }
        for at in 0..300 {
            let path = format!("d/{round}-{at}-{at:020}");
            layer.add(path.as_bytes(), Kind::Fifo, attrs(0o600));
        }
        let plan = plan(&[layer.build()], Filesystem::Ext4V1, 0);
        goes_on(&plan.1, 12).then_some(plan)
    });
    let (tree, parts) = found.expect("one of the directories has its border between the two");
    write_disk(&parts, &Store::default(), &disk);
    check(&disk);
    let mount = Mount::new(&disk, "ro");
    for name in PAIR {
        assert!(fs::symlink_metadata(mount.path().join("d").join(name)).is_ok());
    }
    compare(&tree, &Store::default(), mount.path());
    mount.close();
}

/// Whether the hash tree of a directory has a leaf that begins with the hash that the one before ends
/// with.
fn goes_on(parts: &PlanParts, inode: u32) -> bool {
    let word = |block: &[u8], at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
    let mut blocks = parts.synthesised.chunks_exact(4096);
    let root = blocks.find(|block| {
        block[..12] == *[&inode.to_le_bytes()[..], b"\x0c\0\x01\x02.\0\0\0"].concat()
    });
    let root = root.unwrap();
    let count = usize::from(u16::from_le_bytes([root[34], root[35]]));
    (1..count).any(|entry| word(root, 32 + 8 * entry) & 1 == 1)
}

#[test]
fn privileged_a_hundred_thousand_names_are_found() {
    let mut layer = LayerBuilder::default();
    layer.dir("many");
    for at in 0..100_000 {
        let path = [b"many/", &*name(at)].concat();
        layer.add(&path, Kind::Fifo, attrs(0o600));
    }
    let temp = TempDir::new().unwrap();
    for filesystem in PROFILES {
        let disk = temp.path().join("disk");
        let (_, parts) = plan(&[layer.build()], filesystem, 0);
        write_disk(&parts, &Store::default(), &disk);
        check(&disk);
        let mount = Mount::new(&disk, "rw");
        let many = mount.path().join("many");
        for at in 0..100_000 {
            let path = many.join(OsStr::from_bytes(&name(at)));
            assert!(fs::symlink_metadata(&path).is_ok(), "{path:?}");
        }
        assert!(fs::symlink_metadata(many.join("n100001-")).is_err());
        assert_eq!(fs::read_dir(&many).unwrap().count(), 100_000);
        for at in (0..100_000).step_by(3) {
            fs::remove_file(many.join(OsStr::from_bytes(&name(at)))).unwrap();
        }
        for at in 0..40_000 {
            fs::write(many.join(format!("new-{at}-{at:040}")), b"").unwrap();
        }
        mount.close();
        check(&disk);
    }
}
