//! Random layers: whatever they hold, the check finds nothing and the kernel sees the tree.

use proptest::collection::vec;
use proptest::prelude::*;
use shale_model::{Attrs, Content, Extent, Filesystem, Kind, Mtime, Rdev, TreePath, Xattrs};
use tempfile::TempDir;

use crate::mount::{Mount, compare};
use crate::support::{LayerBuilder, Store, acl, check, plan, write_disk};

/// One line of a random layer; numbers choose among what there is.
#[derive(Debug, Clone)]
struct Line {
    dir: usize,
    name: Vec<u8>,
    what: What,
    attrs: Attrs,
}

#[derive(Debug, Clone)]
enum What {
    /// Lengths of chunks, and of holes in blocks after them; bytes of a last hole.
    File(Vec<(u32, u8)>, u16),
    Directory,
    Opaque,
    /// A directory with this many names.
    Full(u16),
    Symlink(usize),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
    HardLink(usize),
    Whiteout,
}

fn what() -> impl Strategy<Value = What> {
    let chunk = prop_oneof![1u32..9000, Just(4096), Just(8192), 1u32..60_000];
    prop_oneof![
        6 => (vec((chunk, 0u8..4), 0..9), 0u16..9000).prop_map(|(c, h)| What::File(c, h)),
        1 => vec((1u32..5000, 1u8..3), 300..500).prop_map(|c| What::File(c, 0)),
        5 => Just(What::Directory),
        1 => Just(What::Opaque),
        2 => (0u16..1500).prop_map(What::Full),
        2 => (1usize..200).prop_map(What::Symlink),
        1 => (0u32..4096, 0u32..0x10_0000).prop_map(|(a, b)| What::Char(a, b)),
        1 => (0u32..300, 0u32..300).prop_map(|(a, b)| What::Block(a, b)),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
        3 => any::<usize>().prop_map(What::HardLink),
        2 => Just(What::Whiteout),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd = vec(any::<u8>(), 1..256).prop_map(|mut name| {
        name.iter_mut()
            .filter(|b| matches!(b, 0 | b'/' | b'.'))
            .for_each(|b| *b = b'_');
        name
    });
    // Few names, so that layers meet.
    prop_oneof![6 => "[a-f]".prop_map(String::into_bytes), 1 => odd]
}

fn random_attrs() -> impl Strategy<Value = Attrs> {
    let pair = |name: &'static [u8], len: usize| {
        vec(any::<u8>(), 0..len).prop_map(move |value| (Box::from(name), value.into()))
    };
    let list = prop_oneof![
        4 => Just(vec![]),
        1 => vec(pair(b"user.note", 80), 1),
        1 => pair(b"security.selinux", 50).prop_flat_map(move |a| {
            (Just(a), pair(b"user.large", 3500), pair(b"trusted.\xfe", 90))
        }).prop_map(|(a, b, c)| vec![a, b, c]),
    ];
    let default = acl(&[
        (1, 7, !0),
        (2, 5, 77),
        (4, 5, !0),
        (0x10, 7, !0),
        (0x20, 1, !0),
    ]);
    let seconds = prop_oneof![any::<i32>().prop_map(i64::from), 0i64..10_737_418_240];
    let ids = prop_oneof![Just(0), 0u32..u32::MAX];
    (
        0u16..0o10000,
        ids.clone(),
        ids,
        seconds,
        0u32..1_000_000_000,
        list,
        any::<bool>(),
    )
        .prop_map(move |(mode, uid, gid, seconds, nanos, mut list, has_acl)| {
            if has_acl && mode & 1 == 1 {
                list.push((
                    Box::from(&b"system.posix_acl_default"[..]),
                    default.clone().into(),
                ));
            }
            Attrs {
                mode,
                uid,
                gid,
                mtime: Mtime { seconds, nanos },
                xattrs: Xattrs::new(list).unwrap(),
            }
        })
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let line = (any::<usize>(), name(), what(), random_attrs());
    let line = line.prop_map(|(dir, name, what, attrs)| Line {
        dir,
        name,
        what,
        attrs,
    });
    vec(line, 0..25)
}

/// A layer of these lines. Directories that it names are among those of `dirs`, which grows.
fn build(lines: &[Line], dirs: &mut Vec<Vec<u8>>, store: &mut Store) -> LayerBuilder {
    let mut layer = LayerBuilder::default();
    // What is a directory here must not be something else too.
    let mut targets: Vec<TreePath> = Vec::new();
    let mut others: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        let dir = dirs[line.dir % dirs.len()].clone();
        let path = match dir.is_empty() {
            true => line.name.clone(),
            false => [&dir[..], b"/", &line.name].concat(),
        };
        if path.len() > 2000 || others.contains(&path) || under(&others, &path) {
            continue;
        }
        let mut attrs = line.attrs.clone();
        let is_dir = matches!(line.what, What::Directory | What::Opaque | What::Full(_));
        if !is_dir {
            if dirs
                .iter()
                .any(|dir| *dir == path || under(std::slice::from_ref(&path), dir))
            {
                continue;
            }
            // The kernel hides these from whoever asks for them on what is not a file or directory.
            let is_file = matches!(line.what, What::File(..));
            let pairs = attrs.xattrs.iter().filter(|(name, _)| {
                !name.starts_with(b"system.") && (is_file || !name.starts_with(b"user."))
            });
            let pairs = pairs.map(|(n, v)| (n.into(), v.into())).collect();
            attrs.xattrs = Xattrs::new(pairs).unwrap();
            others.push(path.clone());
        } else if !dirs.contains(&path) {
            dirs.push(path.clone());
        }
        let kind = match &line.what {
            What::File(chunks, tail) => file(chunks, *tail, store),
            What::Opaque => Kind::OpaqueDirectory,
            What::Directory => Kind::Directory,
            What::Full(count) => {
                for at in 0..*count {
                    let child = [&path[..], format!("/{at}-{}", at % 77).as_bytes()].concat();
                    layer.add(&child, Kind::Fifo, Attrs::default());
                }
                Kind::Directory
            }
            What::Symlink(len) => Kind::symlink(&vec![b's'; *len]).unwrap(),
            What::Char(major, minor) => Kind::CharDevice(Rdev {
                major: *major,
                minor: *minor,
            }),
            What::Block(major, minor) => Kind::BlockDevice(Rdev {
                major: *major,
                minor: *minor,
            }),
            What::Fifo => Kind::Fifo,
            What::Socket => Kind::Socket,
            What::HardLink(target) => {
                // Targets come before their links: in order of directory, then of name.
                let place = TreePath::new(&path).unwrap().split();
                let before: Vec<&TreePath> = targets.iter().filter(|t| t.split() < place).collect();
                match before.len() {
                    0 => Kind::Fifo,
                    count => Kind::HardLink(before[target % count].clone()),
                }
            }
            What::Whiteout => Kind::Whiteout,
        };
        if matches!(kind, Kind::File(_)) {
            targets.push(TreePath::new(&path).unwrap());
        }
        layer.add(&path, kind, attrs);
    }
    layer
}

/// Whether `path` lies below one of `above`.
fn under(above: &[Vec<u8>], path: &[u8]) -> bool {
    above.iter().any(|above| {
        path.strip_prefix(&above[..])
            .is_some_and(|rest| rest.starts_with(b"/"))
    })
}

fn file(chunks: &[(u32, u8)], tail: u16, store: &mut Store) -> Kind {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    for (index, (len, hole)) in chunks.iter().enumerate() {
        let byte = (index as u8 ^ *len as u8) | 1;
        extents.push(store.chunk(vec![byte; *len as usize]));
        at += u64::from(*len);
        if *hole > 0 {
            let len = at.next_multiple_of(4096) - at + u64::from(*hole) * 4096;
            extents.push(Extent::Hole { len });
            at += len;
        }
    }
    if tail > 0 && !matches!(extents.last(), Some(Extent::Hole { .. })) {
        let len = u64::from(tail);
        extents.push(Extent::Hole { len });
    }
    Kind::File(Content::new(extents).unwrap())
}

fn layers(random: &[Vec<Line>], store: &mut Store) -> Vec<shale_model::TreeLayer> {
    let mut dirs = vec![Vec::new()];
    random
        .iter()
        .map(|lines| build(lines, &mut dirs, store).build())
        .collect()
}

/// Layers that fit on each other, and the bytes of their chunks.
pub(crate) fn any_layers() -> impl Strategy<Value = (Vec<shale_model::TreeLayer>, Store)> {
    vec(lines(), 1..6).prop_map(|random| {
        let mut store = Store::default();
        let layers = layers(&random, &mut store);
        (layers, store)
    })
}

pub(crate) fn profiles() -> impl Strategy<Value = Filesystem> {
    prop_oneof![Just(Filesystem::Ext4V1), Just(Filesystem::Ext4Old)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_layers_make_a_clean_disk(
        random in vec(lines(), 1..6),
        filesystem in profiles(),
    ) {
        let mut store = Store::default();
        let layers = layers(&random, &mut store);
        let disk = TempDir::new().unwrap();
        let disk = disk.path().join("disk");
        let (_, parts) = plan(&layers, filesystem, 0);
        write_disk(&parts, &store, &disk);
        check(&disk);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn privileged_any_layers_read_back_from_the_kernel(
        random in vec(lines(), 1..5),
        filesystem in profiles(),
    ) {
        let mut store = Store::default();
        let layers = layers(&random, &mut store);
        let temp = TempDir::new().unwrap();
        let disk = temp.path().join("disk");
        let (tree, parts) = plan(&layers, filesystem, 0);
        write_disk(&parts, &store, &disk);
        let mount = Mount::new(&disk, "rw");
        compare(&tree, &store, mount.path());
        mount.close();
        check(&disk);
    }
}
