//! Random layers in which names meet: few names, shallow, everything that Linux has.

use std::collections::{BTreeMap, HashMap};
use std::mem::discriminant;

use anyhow::{Context, Result, ensure};
use harness::Random;
use shale_model::{
    Attrs, Content, Entry, Extent, Kind, LayerDir, Mtime, Name, Rdev, RootEntry, TreeLayer,
    TreePath, XattrPair, Xattrs,
};

use super::collect::chunk;
use super::{Chunks, Form};

/// Names that all layers share, the last five of them odd, in order.
const NAMES: [&[u8]; 9] = [
    b"a",
    b"b",
    b"etc",
    b"usr",
    b" ..glob*?",
    b"--dash",
    b"new\nline",
    b"not utf-8 \xff\x80",
    "größe-語".as_bytes(),
];
const FIRST_ODD: usize = 4;

/// How many of the names a directory of this depth has, in percent.
const SHARE: [u64; 4] = [55, 45, 35, 20];
/// Directories of this depth hold no directories.
const DEEPEST: usize = SHARE.len() - 1;

/// How often each thing occurred that the fold must get right.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<&'static str, usize>);

const WANTED: [&str; 8] = [
    "whiteout",
    "opaque directory",
    "type change",
    "hard link",
    "capability",
    "ACL",
    "device",
    "odd name",
];

impl Seen {
    fn count(&mut self, what: &'static str, times: usize) {
        *self.0.entry(what).or_default() += times;
    }

    /// Fails where something did not occur, in which case the run proves less than it says.
    pub(crate) fn assert_complete(&self) -> Result<()> {
        println!("{:?}", self.0);
        WANTED.iter().try_for_each(|what| {
            ensure!(
                self.0.contains_key(what),
                "no {what} occurred: {:?}",
                self.0
            );
            Ok(())
        })
    }
}

/// Makes stacks of layers.
pub(crate) struct Generator<'a> {
    pub(crate) random: &'a mut Random,
    /// Only what this form can hold is made.
    pub(crate) form: Form,
    pub(crate) chunks: Chunks,
    pub(crate) seen: Seen,
}

impl Generator<'_> {
    /// Two to four layers, bottom first.
    pub(crate) fn stack(&mut self) -> Result<Vec<TreeLayer>> {
        let layers = 2 + self.random.below(3);
        let mut stack = Vec::new();
        let mut below = HashMap::new();
        for _ in 0..layers {
            let layer = self.layer()?;
            self.note(&layer, &mut below)?;
            stack.push(layer);
        }
        Ok(stack)
    }

    /// Counts what is in a layer, and what it does to those `below` it.
    fn note(&mut self, layer: &TreeLayer, below: &mut HashMap<TreePath, Kind>) -> Result<()> {
        let before = below.clone();
        for (dir, entry) in layer.entries() {
            let path = dir.join(&entry.name)?;
            let over = before.get(&path).filter(|kind| **kind != Kind::Whiteout);
            let odd = NAMES[FIRST_ODD..].contains(&entry.name.as_bytes());
            self.seen.count("odd name", usize::from(odd));
            let has = |name: &[u8]| usize::from(entry.attrs.xattrs.get(name).is_some());
            self.seen.count("capability", has(CAPABILITY));
            self.seen.count("ACL", has(ACCESS_ACL) + has(DEFAULT_ACL));
            match (&entry.kind, over) {
                (Kind::Whiteout, Some(_)) => self.seen.count("whiteout", 1),
                (Kind::OpaqueDirectory, Some(over)) if over.is_directory() => {
                    self.seen.count("opaque directory", 1);
                }
                (Kind::HardLink(_), _) => self.seen.count("hard link", 1),
                (Kind::CharDevice(_) | Kind::BlockDevice(_), _) => self.seen.count("device", 1),
                (kind, Some(over)) if discriminant(kind) != discriminant(over) => {
                    self.seen.count("type change", 1);
                }
                _ => {}
            }
            below.insert(path, entry.kind.clone());
        }
        Ok(())
    }

    fn layer(&mut self) -> Result<TreeLayer> {
        let mut dirs = BTreeMap::new();
        let mut todo = vec![TreePath::root()];
        while let Some(path) = todo.pop() {
            let depth = path.components().count();
            let mut entries = Vec::new();
            for name in NAMES {
                if !self.chance(SHARE[depth]) {
                    continue;
                }
                let (name, kind) = (Name::new(name)?, self.kind(depth)?);
                if kind.is_directory() {
                    todo.push(path.join(&name)?);
                }
                let attrs = self.attrs(&kind)?;
                entries.push(Entry { name, attrs, kind });
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            if !entries.is_empty() {
                dirs.insert(path, entries);
            }
        }
        let dirs = dirs.into_iter();
        let mut dirs: Vec<_> = dirs
            .map(|(path, entries)| LayerDir { path, entries })
            .collect();
        self.link(&mut dirs)?;
        let attrs = self.attrs(&Kind::Directory)?;
        let (oci, opaque) = (self.form == Form::Oci, self.chance(5));
        let mut root = Some(RootEntry {
            attrs,
            opaque: oci && opaque,
        });
        if oci {
            self.leave_out(&mut dirs);
            root = root.filter(|root| root.opaque || self.chance(70));
        }
        Ok(TreeLayer { root, dirs })
    }

    /// Makes some entries further names of entries before them; GNU tar links only files and symbolic links.
    fn link(&mut self, dirs: &mut [LayerDir]) -> Result<()> {
        let oci = self.form == Form::Oci;
        let mut targets = Vec::new();
        for dir in dirs {
            for entry in &mut dir.entries {
                if entry.kind.is_directory() || entry.kind == Kind::Whiteout {
                    continue;
                }
                if !targets.is_empty() && self.chance(25) {
                    let target: &TreePath = self.one_of(&targets);
                    entry.kind = Kind::HardLink(target.clone());
                    entry.attrs = Attrs::default();
                } else if oci <= matches!(entry.kind, Kind::File(_) | Kind::Symlink(_)) {
                    targets.push(dir.path.join(&entry.name)?);
                }
            }
        }
        Ok(())
    }

    /// Leaves out the descriptions of some directories that hold something: archives need not have them.
    fn leave_out(&mut self, dirs: &mut Vec<LayerDir>) {
        let holding: Vec<_> = dirs.iter().map(|dir| dir.path.clone()).collect();
        for dir in &mut *dirs {
            let path = dir.path.clone();
            dir.entries.retain(|entry| {
                let holds = || path.join(&entry.name).is_ok_and(|p| holding.contains(&p));
                let kept = entry.kind != Kind::Directory || !holds() || !self.chance(15);
                self.seen.count("undescribed directory", usize::from(!kept));
                kept
            });
        }
        dirs.retain(|dir| !dir.entries.is_empty());
    }

    fn kind(&mut self, depth: usize) -> Result<Kind> {
        let directories = depth < DEEPEST;
        Ok(match self.random.below(100) {
            0..28 if directories => Kind::Directory,
            28..38 if directories => Kind::OpaqueDirectory,
            38..54 => Kind::Whiteout,
            54..64 => Kind::symlink(self.one_of(&["a", "../etc", "/usr/b", "größe"]).as_bytes())?,
            64..71 => Kind::CharDevice(self.device()),
            71..76 => Kind::BlockDevice(self.device()),
            76..80 => Kind::Fifo,
            // An archive cannot hold it.
            80..84 if self.form == Form::Overlay => Kind::Socket,
            _ => Kind::File(self.content()?),
        })
    }

    /// Never 0:0, which overlayfs takes for a whiteout.
    fn device(&mut self) -> Rdev {
        let (major, minor) = (1 + self.random.below(4095), self.random.below(1 << 20));
        Rdev {
            major: major as u32,
            minor: minor as u32,
        }
    }

    fn content(&mut self) -> Result<Content> {
        let mut extents = Vec::new();
        if self.chance(80) {
            let len = *self.one_of(&[1, 100, 4096, 5000]);
            extents.push(chunk(&mut self.chunks, self.random.bytes(len)));
        }
        if self.chance(10) {
            extents.push(Extent::Hole { len: 3 << 16 });
        }
        Ok(Content::new(extents)?)
    }

    fn attrs(&mut self, kind: &Kind) -> Result<Attrs> {
        if *kind == Kind::Whiteout {
            return Ok(Attrs::default());
        }
        let mode = match kind {
            Kind::Symlink(_) => 0o777,
            _ => *self.one_of(&[0o644, 0o755, 0o600, 0o4755, 0o2711, 0o1777, 0o7070, 0]),
        };
        let uid = *self.one_of(&[0, 33, 1000, 70_000, 4_000_000_000]);
        let gid = *self.one_of(&[0, 100, 65_536, 3_999_999_999]);
        let mtime = Mtime {
            seconds: self.random.below(1 << 33) as i64,
            nanos: self.random.below(1_000_000_000) as u32,
        };
        let xattrs = self.xattrs(kind, mode)?;
        Ok(Attrs {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        })
    }

    fn xattrs(&mut self, kind: &Kind, mode: u16) -> Result<Xattrs> {
        let is_file = matches!(kind, Kind::File(_));
        let mut pairs: Vec<XattrPair> = Vec::new();
        let mut add = |name: &[u8], value: Vec<u8>| pairs.push((name.into(), value.into()));
        if is_file && self.chance(15) {
            add(CAPABILITY, capability(self.random.below(1 << 20) as u32));
        }
        if is_file || kind.is_directory() {
            if self.chance(15) {
                let len = self.random.below(40) as usize;
                add(b"user.note", self.random.bytes(len));
            }
            if self.chance(15) {
                add(ACCESS_ACL, self.acl(mode));
            }
        }
        if kind.is_directory() && self.chance(10) {
            add(DEFAULT_ACL, self.acl(0o750));
        }
        if self.chance(10) {
            add(b"trusted.note", self.random.bytes(3));
        }
        Xattrs::new(pairs).context("make attributes")
    }

    /// An ACL with a named user and a named group that says the same as `mode`.
    fn acl(&mut self, mode: u16) -> Vec<u8> {
        let (user, group) = (self.random.below(70_000), self.random.below(70_000));
        let any = self.random.below(8) as u16;
        let none = u32::MAX;
        let entries = [
            (0x01, mode >> 6 & 7, none),
            (0x02, any, user as u32),
            (0x04, 5, none),
            (0x08, any, group as u32),
            (0x10, mode >> 3 & 7, none),
            (0x20, mode & 7, none),
        ];
        let entries = entries.iter().flat_map(|(tag, permissions, id)| {
            let tag: u16 = *tag;
            [
                &tag.to_le_bytes()[..],
                &permissions.to_le_bytes(),
                &id.to_le_bytes(),
            ]
            .concat()
        });
        2u32.to_le_bytes().into_iter().chain(entries).collect()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn one_of<'b, T>(&mut self, all: &'b [T]) -> &'b T {
        &all[self.random.below(all.len() as u64) as usize]
    }
}

const CAPABILITY: &[u8] = b"security.capability";
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Permitted and effective capabilities in version 2 of the kernel's `vfs_cap_data`.
fn capability(permitted: u32) -> Vec<u8> {
    [0x0200_0001, permitted, 0, 0, 0]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect()
}
