//! The tree read back from a plan is the tree that was laid out.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::collection::vec;
use proptest::prelude::*;
use shale_image::{TreeInode, TreeReader, TreeShape};
use shale_model::limits::BLOCK_BYTES;
use shale_model::{
    Content, Extent, FormatError, Kind, Node, NodeData, NodeId, Piece, Plan, PlanParts, Tree,
};

use crate::random::{any_layers, profiles};
use crate::support::{LayerBuilder, PROFILES, Store, acl, attrs, plan, xattrs};

type Read<'a> = TreeReader<'a, Plan<Vec<u8>>>;

fn open(parts: &PlanParts) -> Plan<Vec<u8>> {
    Plan::open(parts.encode().1).unwrap()
}

/// Compares everything that the reader finds with the tree.
pub(crate) fn compare(tree: &Tree, store: &Store, plan: &Plan<Vec<u8>>) {
    let read = TreeShape::of(plan).unwrap().tree(plan);
    let mut numbers = BTreeMap::from([(NodeId::ROOT, TreeShape::ROOT)]);
    for (path, id, node) in tree.walk() {
        // Parents come before what is in them; a hard link has the number of its first name.
        let number = match path.split() {
            None => TreeShape::ROOT,
            Some((dir, name)) => {
                let parent = number_of(&read, dir.as_bytes());
                let directory = read.inode(parent).unwrap().unwrap();
                let found = read.lookup(&directory, name.as_bytes()).unwrap();
                found.unwrap_or_else(|| panic!("{path} is not found"))
            }
        };
        assert_eq!(*numbers.entry(id).or_insert(number), number, "{path}");
        let inode = read.inode(number).unwrap().unwrap();
        compare_attributes(node, &inode, &read);
        match &node.data {
            NodeData::Directory(_) => compare_names(tree, id, &inode, &read),
            NodeData::File(content) => compare_content(content, store, &inode, &read, plan),
            NodeData::Symlink(target) => {
                assert_eq!(&*read.link_target(&inode).unwrap(), &**target);
            }
            NodeData::CharDevice(rdev) | NodeData::BlockDevice(rdev) => {
                assert_eq!(inode.rdev(), Some(*rdev), "{path}");
            }
            NodeData::Fifo | NodeData::Socket => {}
        }
    }
}

fn number_of(read: &Read<'_>, path: &[u8]) -> u32 {
    let parts = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty());
    parts.fold(TreeShape::ROOT, |number, name| {
        let directory = read.inode(number).unwrap().unwrap();
        read.lookup(&directory, name).unwrap().unwrap()
    })
}

fn compare_attributes(node: &Node, inode: &TreeInode, read: &Read<'_>) {
    let kind = match &node.data {
        NodeData::File(_) => 0o10,
        NodeData::Directory(_) => 0o4,
        NodeData::Symlink(_) => 0o12,
        NodeData::CharDevice(_) => 0o2,
        NodeData::BlockDevice(_) => 0o6,
        NodeData::Fifo => 0o1,
        NodeData::Socket => 0o14,
    };
    assert_eq!(inode.mode() >> 12, kind);
    assert_eq!(inode.permissions(), node.attrs.mode);
    assert_eq!(inode.owner(), (node.attrs.uid, node.attrs.gid));
    assert_eq!(inode.mtime(), node.attrs.mtime);
    let is_many = matches!(node.data, NodeData::Directory(_)) && node.links > 65_000;
    assert_eq!(inode.links, if is_many { 1 } else { node.links });
    assert_eq!(read.xattrs(inode).unwrap(), node.attrs.xattrs);
    assert!(inode.has_xattrs() || node.attrs.xattrs.is_empty());
}

/// Names as a reader of directories sees them who stops and goes on after each of them.
fn compare_names(tree: &Tree, id: NodeId, inode: &TreeInode, read: &Read<'_>) {
    let mut found = Vec::new();
    let mut cookie = 0;
    let mut all = Vec::new();
    read.entries(inode, 0, |entry| {
        all.push(entry.name.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    // Every step walks a block again: of large directories only some.
    let step = 1 + all.len() / 50;
    loop {
        let mut here = 0;
        read.entries(inode, cookie, |entry| {
            let is_dot = matches!(entry.name, b"." | b"..");
            if is_dot {
                assert_eq!(entry.kind, 4);
            } else {
                let node = read.inode(entry.inode).unwrap().unwrap();
                assert_eq!(u16::from(entry.kind), node.mode() >> 12);
            }
            found.push(entry.name.to_vec());
            cookie = entry.cookie;
            here += 1;
            match here < step {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })
        .unwrap();
        if here == 0 {
            break;
        }
    }
    assert_eq!(found, all);
    found.sort();
    let mut wanted: Vec<Vec<u8>> = tree
        .children(id)
        .map(|e| e.name.as_bytes().to_vec())
        .collect();
    wanted.extend([b".".to_vec(), b"..".to_vec()]);
    wanted.sort();
    assert_eq!(found, wanted);
    assert_eq!(read.lookup(inode, b"no such name").unwrap(), None);
    assert_eq!(read.lookup(inode, b".").unwrap(), Some(inode.number));
}

/// What the tree has, extent by extent, lies where the runs say.
fn compare_content(
    content: &Content,
    store: &Store,
    inode: &TreeInode,
    read: &Read<'_>,
    plan: &Plan<Vec<u8>>,
) {
    assert_eq!(inode.size, content.size());
    let mut found = Bytes { read, plan, store };
    let mut at = 0;
    for extent in content.extents() {
        let len = extent.len();
        match extent {
            Extent::Chunk { id, .. } => {
                assert_eq!(found.range(inode, at, len as usize), store.0[id]);
            }
            // Holes may be terabytes: whole blocks of them have no place on the disk.
            Extent::Hole { .. } => {
                let (mut block, end) = (at.div_ceil(4096), (at + len) / 4096);
                while block < end {
                    let run = read.run(inode, block as u32).unwrap();
                    assert_eq!(run.start, None);
                    block += run.blocks;
                }
            }
        }
        at += len;
    }
}

struct Bytes<'a> {
    read: &'a Read<'a>,
    plan: &'a Plan<Vec<u8>>,
    store: &'a Store,
}

impl Bytes<'_> {
    fn range(&mut self, inode: &TreeInode, from: u64, len: usize) -> Vec<u8> {
        let block = BLOCK_BYTES as u64;
        let (mut at, end) = (from, from + len as u64);
        let mut out = Vec::new();
        while at < end {
            let run = self.read.run(inode, (at / block) as u32).unwrap();
            let take = (run.blocks * block - at % block).min(end - at);
            let Some(start) = run.start else {
                out.resize(out.len() + take as usize, 0);
                at += take;
                continue;
            };
            let pieces = self.plan.pieces(start * block + at % block, take, |piece| {
                match piece {
                    Piece::Zero(len) => out.resize(out.len() + len as usize, 0),
                    Piece::Bytes(bytes) => out.extend_from_slice(bytes),
                    Piece::Chunk(slice) => {
                        let from = slice.offset as usize;
                        let chunk = &self.store.0[&slice.id];
                        out.extend_from_slice(&chunk[from..from + slice.len as usize]);
                    }
                }
                Ok::<(), FormatError>(())
            });
            pieces.unwrap();
            at += take;
        }
        out
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_layers_read_back_as_they_were_laid_out(
        random in any_layers(),
        filesystem in profiles(),
    ) {
        let (layers, store) = random;
        let (tree, parts) = plan(&layers, filesystem, 0);
        compare(&tree, &store, &open(&parts));
    }

    #[test]
    fn damaged_plans_end_in_errors(
        random in any_layers(),
        filesystem in profiles(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
    ) {
        let (layers, _) = random;
        let (_, parts) = plan(&layers, filesystem, 0);
        let mut damaged = parts.clone();
        for (at, value) in flips {
            let at = at.index(damaged.synthesised.len());
            damaged.synthesised[at] = value;
        }
        visit_all(&open(&damaged));
    }
}

/// Reads all that a client could ask for, whatever comes of it.
fn visit_all(plan: &Plan<Vec<u8>>) {
    let Ok(shape) = TreeShape::of(plan) else {
        return;
    };
    let read = shape.tree(plan);
    for number in 0..shape.inodes().0.min(3000) {
        let Ok(Some(inode)) = read.inode(number) else {
            continue;
        };
        let _ = (read.xattrs(&inode), read.link_target(&inode), inode.rdev());
        let _ = (
            read.lookup(&inode, b"a"),
            read.run(&inode, u32::MAX),
            read.run(&inode, 0),
        );
        let mut left = 2000;
        let _ = read.entries(&inode, 0, |_| {
            left -= 1;
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
    }
}

/// Directories of one, two and three levels; names whose hashes meet are found behind a leaf's end.
#[test]
fn every_name_of_large_directories_is_found() {
    let mut layer = LayerBuilder::default();
    for (count, width) in [(300, 5), (20_000, 6), (60_000, 200)] {
        layer.dir(&format!("d{count}"));
        for at in 0..count {
            let name = format!("d{count}/{at:0width$}");
            layer.add(name.as_bytes(), Kind::Fifo, attrs(0o600));
        }
    }
    for filesystem in PROFILES {
        let (tree, parts) = plan(&[layer.build()], filesystem, 0);
        compare(&tree, &Store::default(), &open(&parts));
    }
}

#[test]
fn sparse_files_of_deep_trees_and_attributes_of_every_kind_read_back() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    for count in [1, 4, 5, 340, 341, 1361, 3000] {
        let extents = (0..count).flat_map(|at| {
            let hole = Extent::Hole {
                len: 4096 * (1 + at % 3),
            };
            [store.chunk(vec![at as u8 | 1; 4096]), hole]
        });
        let content = Content::new(extents.collect()).unwrap();
        layer.add(
            format!("striped-{count}").as_bytes(),
            Kind::File(content),
            attrs(0o644),
        );
    }
    let most = Content::new(vec![
        Extent::Hole {
            len: (16 << 40) - 8192,
        },
        store.chunk(vec![7; 100]),
    ]);
    layer.add(b"most", Kind::File(most.unwrap()), attrs(0o644));
    let none = u32::MAX;
    let list = acl(&[
        (1, 7, none),
        (2, 6, 1000),
        (4, 5, none),
        (0x10, 7, none),
        (0x20, 0, none),
    ]);
    let mut marked = attrs(0o4755);
    marked.xattrs = xattrs(&[
        (
            b"security.capability",
            &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (b"system.posix_acl_access", &list),
        (b"user.empty", b""),
        (b"user.large", &[9; 3000]),
    ]);
    let program = store.file(b"program");
    layer.add(b"program", program, marked);
    layer
        .dir("lost+found")
        .add(b"lost+found/found", Kind::Fifo, attrs(0));
    for filesystem in PROFILES {
        let (tree, parts) = plan(&[layer.build()], filesystem, 0);
        compare(&tree, &store, &open(&parts));
    }
}

#[test]
fn what_is_the_file_systems_own_is_not_there() {
    for filesystem in PROFILES {
        let (_, parts) = plan(&[LayerBuilder::default().build()], filesystem, 0);
        let plan = open(&parts);
        let shape = TreeShape::of(&plan).unwrap();
        let read = shape.tree(&plan);
        let root = read.inode(TreeShape::ROOT).unwrap().unwrap();
        assert_eq!(root.links, 2);
        assert_eq!(read.lookup(&root, b"lost+found").unwrap(), None);
        for number in (0..20)
            .chain([shape.inodes().0, u32::MAX])
            .filter(|n| *n != TreeShape::ROOT)
        {
            assert_eq!(read.inode(number).unwrap(), None, "{number}");
        }
        let mut other = parts.clone();
        other.synthesised.iter_mut().for_each(|byte| *byte = 0);
        assert!(TreeShape::of(&open(&other)).is_err());
    }
}
