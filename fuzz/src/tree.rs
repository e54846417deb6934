//! Layers out of arbitrary bytes: each entry follows the rules of an entry, the layer as a whole need not.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Result, Unstructured};
use shale_model::limits::{MAX_CHUNK_BYTES, MAX_FILE_BYTES};
use shale_model::{
    Attrs, ChunkId, Content, Entry, Extent, Kind, LayerDir, MODE_BITS, Mtime, Name, Rdev,
    RootEntry, TreeLayer, TreePath, XattrPair, Xattrs,
};

/// Few names, so that layers and links meet; some are hard for a file system.
const NAMES: [&[u8]; 12] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"etc",
    b"passwd",
    b"lost+found",
    b"\xff\xfe",
    b"-",
    b"z\n",
    b"...",
    &[b'n'; 255],
];

/// Names of attributes: each prefix that ext4 has, one that it has not, and access control lists.
const XATTRS: [&[u8]; 7] = [
    b"user.a",
    b"user.bb",
    b"security.capability",
    b"trusted.overlay.opaque",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"other",
];

/// Most entries of a layer: enough for a directory of several blocks.
const MAX_ENTRIES: usize = 300;

/// A layer made of arbitrary bytes.
#[derive(Debug)]
pub struct LayerFromBytes(pub TreeLayer);

impl<'a> Arbitrary<'a> for LayerFromBytes {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let root = match u.ratio(1, 4)? {
            true => Some(RootEntry {
                attrs: attrs(u)?,
                opaque: u.arbitrary()?,
            }),
            false => None,
        };
        let mut dirs: BTreeMap<TreePath, BTreeMap<Name, Entry>> = BTreeMap::new();
        while !u.is_empty() && dirs.values().map(BTreeMap::len).sum::<usize>() < MAX_ENTRIES {
            if u.ratio(1, 16)? {
                break;
            }
            let dir = path(u, 3)?;
            // Every so often a name of its own, so that a directory can become large.
            let name = match u.arbitrary::<u8>()? {
                n @ 0..=127 => Name::new(NAMES[usize::from(n) % NAMES.len()]),
                n => Name::new(format!("{n}-{}", u.arbitrary::<u8>()?).as_bytes()),
            };
            let Ok(name) = name else { continue };
            let kind = kind(u)?;
            let attrs = match kind {
                Kind::HardLink(_) | Kind::Whiteout => Attrs::default(),
                _ => attrs(u)?,
            };
            let entry = Entry { name, attrs, kind };
            dirs.entry(dir)
                .or_default()
                .insert(entry.name.clone(), entry);
        }
        let dir = |(path, entries): (TreePath, BTreeMap<Name, Entry>)| LayerDir {
            path,
            entries: entries.into_values().collect(),
        };
        let dirs = dirs.into_iter().map(dir).collect();
        Ok(Self(TreeLayer { root, dirs }))
    }
}

fn path(u: &mut Unstructured<'_>, most: usize) -> Result<TreePath> {
    let mut path = TreePath::root();
    for _ in 0..u.int_in_range(0..=most)? {
        if let Ok(longer) = Name::new(u.choose(&NAMES)?).map(|name| path.join(&name)) {
            path = longer.unwrap_or(path);
        }
    }
    Ok(path)
}

fn kind(u: &mut Unstructured<'_>) -> Result<Kind> {
    let rdev = |u: &mut Unstructured<'_>| -> Result<Rdev> {
        // 12 and 20 bits, which is what Linux has; nothing but these is an entry.
        Ok(Rdev {
            major: u.int_in_range(0..=0xfff)?,
            minor: u.int_in_range(0..=0xf_ffff)?,
        })
    };
    Ok(match u.int_in_range(0..=11)? {
        0..=2 => Kind::File(content(u)?),
        3 => Kind::Directory,
        4 => Kind::OpaqueDirectory,
        5 => {
            let target = vec![b't'; usize::from(u.arbitrary::<u16>()?)];
            Kind::symlink(&target).unwrap_or(Kind::Fifo)
        }
        6 | 7 => Kind::HardLink(path(u, 4)?),
        8 => Kind::CharDevice(rdev(u)?),
        9 => Kind::BlockDevice(rdev(u)?),
        10 => Kind::Socket,
        _ => Kind::Whiteout,
    })
}

fn content(u: &mut Unstructured<'_>) -> Result<Content> {
    let mut extents = Vec::new();
    for _ in 0..u.int_in_range(0..=6)? {
        let hole = matches!(extents.last(), Some(Extent::Hole { .. }));
        extents.push(match u.arbitrary::<u8>()? {
            n if n < 64 && !hole => Extent::Hole {
                len: match n % 4 {
                    0 => u.int_in_range(1..=MAX_FILE_BYTES)?,
                    _ => 4096 * u64::from(n),
                },
            },
            n => Extent::Chunk {
                id: ChunkId::of(&[n]),
                len: u.int_in_range(1..=MAX_CHUNK_BYTES as u32)?,
            },
        });
    }
    Ok(Content::new(extents).unwrap_or_default())
}

fn attrs(u: &mut Unstructured<'_>) -> Result<Attrs> {
    let mut pairs: BTreeMap<&[u8], Box<[u8]>> = BTreeMap::new();
    for _ in 0..u.arbitrary::<u8>()?.saturating_sub(240) / 3 {
        let name = *u.choose(&XATTRS)?;
        let value = match u.arbitrary::<u8>()? {
            n @ 0..=15 => vec![n; usize::from(u.arbitrary::<u16>()?)],
            n => u.bytes(usize::from(n % 40).min(u.len()))?.to_vec(),
        };
        pairs.insert(name, value.into());
    }
    let pairs: Vec<XattrPair> = pairs.into_iter().map(|(n, v)| (n.into(), v)).collect();
    Ok(Attrs {
        mode: u.arbitrary::<u16>()? & MODE_BITS,
        uid: u.arbitrary()?,
        gid: u.arbitrary()?,
        mtime: Mtime {
            seconds: u.arbitrary()?,
            nanos: u.int_in_range(0..=999_999_999)?,
        },
        xattrs: Xattrs::new(pairs).unwrap_or_default(),
    })
}

/// The same pseudo-random bytes each time, for seeds of structured targets (Knuth's MMIX generator).
#[derive(Debug)]
pub struct Lcg(pub u64);

impl Lcg {
    /// So many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let next = |_| {
            let Self(state) = self;
            *state = state.wrapping_mul(6_364_136_223_846_793_005);
            *state = state.wrapping_add(1_442_695_040_888_963_407);
            (*state >> 56) as u8
        };
        (0..len).map(next).collect()
    }
}
