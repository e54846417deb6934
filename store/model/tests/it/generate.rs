//! Random tree layers that follow the rules of a layer, with all that an entry can be.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use shale_model::*;

/// Few names, so that layers meet; some of them odd.
const NAMES: [&[u8]; 8] = [
    b"a",
    b"b",
    b"c",
    b"etc",
    b"\xff\xfe",
    b"with space",
    b"-",
    b"zz\n",
];

/// A layer of up to `most` random entries up to three directories deep.
pub(crate) fn layers(most: usize) -> impl Strategy<Value = TreeLayer> {
    let entry = (vec(0..NAMES.len(), 1..4), attrs(), any::<u32>());
    let root = proptest::option::of((attrs(), any::<bool>()));
    (vec(entry, 0..most), root).prop_map(|(entries, root)| build(entries, root))
}

fn attrs() -> impl Strategy<Value = Attrs> {
    let time = (-3_000_000_000i64..10_000_000_000, 0u32..1_000_000_000);
    let xattrs = vec((0u8..3, vec(any::<u8>(), 0..5)), 0..3);
    (0u16..=MODE_BITS, any::<u32>(), 0u32..3, time, xattrs).prop_map(
        |(mode, uid, gid, (seconds, nanos), pairs)| {
            let pairs: BTreeMap<_, _> = pairs.into_iter().collect();
            let pair = |(n, value): (u8, Vec<u8>)| -> XattrPair {
                (format!("user.{n}").into_bytes().into(), value.into())
            };
            Attrs {
                mode,
                uid: uid % 70_000,
                gid,
                mtime: Mtime { seconds, nanos },
                xattrs: Xattrs::new(pairs.into_iter().map(pair).collect()).unwrap(),
            }
        },
    )
}

/// The content of the chunk that random number `n` stands for.
fn chunk(n: u32) -> Extent {
    let bytes = vec![n as u8; 1 + n as usize % 700];
    Extent::Chunk {
        id: ChunkId::of(&bytes),
        len: bytes.len() as u32,
    }
}

fn content(n: u32) -> Content {
    let hole = Extent::Hole { len: 4096 };
    let extents = match n % 5 {
        0 => vec![],
        1 | 2 => vec![chunk(n)],
        3 => vec![hole, chunk(n), chunk(n / 3), hole],
        _ => vec![hole],
    };
    Content::new(extents).unwrap()
}

type Chosen = (Vec<usize>, Attrs, u32);

fn build(entries: Vec<Chosen>, root: Option<(Attrs, bool)>) -> TreeLayer {
    let mut dirs: BTreeMap<TreePath, BTreeMap<Name, Entry>> = BTreeMap::new();
    for (path, attrs, n) in entries {
        let name = Name::new(NAMES[path[path.len() - 1]]).unwrap();
        let parents = path[..path.len() - 1].iter().map(|&i| NAMES[i]);
        let dir = TreePath::new(&parents.collect::<Vec<_>>().join(&b'/')).unwrap();
        let kind = match n % 13 {
            0..=3 => Kind::File(content(n / 13)),
            4 | 5 => Kind::Directory,
            6 => Kind::OpaqueDirectory,
            7 => Kind::Symlink(b"target".to_vec().into()),
            8 => Kind::CharDevice(Rdev {
                major: n % 4096,
                minor: n % 99,
            }),
            9 => Kind::BlockDevice(Rdev {
                major: 8,
                minor: n % 16,
            }),
            10 => Kind::Fifo,
            11 => Kind::Socket,
            _ => Kind::Whiteout,
        };
        dirs.entry(dir)
            .or_default()
            .insert(name.clone(), Entry { name, attrs, kind });
    }
    drop_below_leaves(&mut dirs);
    add_hard_links(&mut dirs);
    TreeLayer {
        root: root.map(|(attrs, opaque)| RootEntry { attrs, opaque }),
        dirs: dirs
            .into_iter()
            .map(|(path, entries)| LayerDir {
                path,
                entries: normal(entries),
            })
            .collect(),
    }
}

/// Removes directories below what the same layer says is no directory.
fn drop_below_leaves(dirs: &mut BTreeMap<TreePath, BTreeMap<Name, Entry>>) {
    let leaves: Vec<Vec<u8>> = dirs
        .iter()
        .flat_map(|(dir, entries)| entries.values().map(move |e| (dir, e)))
        .filter(|(_, entry)| !entry.kind.is_directory())
        .map(|(dir, entry)| [dir.join(&entry.name).unwrap().as_bytes(), b"/"].concat())
        .collect();
    dirs.retain(|dir, _| {
        let path = [dir.as_bytes(), b"/"].concat();
        !leaves.iter().any(|leaf| path.starts_with(leaf))
    });
}

/// Turns some sockets into one more name of the first file of the layer that comes before them.
fn add_hard_links(dirs: &mut BTreeMap<TreePath, BTreeMap<Name, Entry>>) {
    let mut first = None;
    for (dir, entries) in dirs.iter_mut() {
        for entry in entries.values_mut() {
            match (&entry.kind, &first) {
                (Kind::File(_), None) => first = dir.join(&entry.name).ok(),
                (Kind::Socket, Some(target)) => entry.kind = Kind::HardLink(target.clone()),
                _ => {}
            }
        }
    }
}

/// Whiteouts and hard links have no attributes.
fn normal(entries: BTreeMap<Name, Entry>) -> Vec<Entry> {
    let normal = |mut entry: Entry| {
        if matches!(entry.kind, Kind::Whiteout | Kind::HardLink(_)) {
            entry.attrs = Attrs::default();
        }
        entry
    };
    entries.into_values().map(normal).collect()
}
