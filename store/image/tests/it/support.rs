//! Trees from short descriptions, disks as sparse files, and the tools that judge them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use shale_image::{Layout, lay_out};
use shale_model::{
    Attrs, ChunkId, Content, Entry, Extent, Filesystem, FormatError, Kind, LayerDir, Mtime, Name,
    Piece, Plan, PlanParts, RootEntry, TemplateId, Tree, TreeLayer, TreePath, Xattrs, compose,
};

pub(crate) const PROFILES: [Filesystem; 2] = [Filesystem::Ext4V1, Filesystem::Ext4Old];

/// Bytes of every chunk that a test made.
#[derive(Debug, Default, Clone)]
pub(crate) struct Store(pub(crate) HashMap<ChunkId, Vec<u8>>);

impl Store {
    /// A chunk of these bytes.
    pub(crate) fn chunk(&mut self, bytes: Vec<u8>) -> Extent {
        let id = ChunkId::of(&bytes);
        let len = bytes.len() as u32;
        self.0.insert(id, bytes);
        Extent::Chunk { id, len }
    }

    /// A file of one chunk.
    pub(crate) fn file(&mut self, bytes: &[u8]) -> Kind {
        let extents = match bytes {
            [] => vec![],
            _ => vec![self.chunk(bytes.to_vec())],
        };
        Kind::File(Content::new(extents).unwrap())
    }
}

/// A layer as it is written down in tests: entries by path.
#[derive(Debug, Default, Clone)]
pub(crate) struct LayerBuilder {
    entries: BTreeMap<TreePath, BTreeMap<Name, Entry>>,
    root: Option<RootEntry>,
}

impl LayerBuilder {
    pub(crate) fn add(&mut self, path: &[u8], kind: Kind, attrs: Attrs) -> &mut Self {
        let (dir, name) = TreePath::new(path).unwrap().split().unwrap();
        let entry = Entry {
            name: name.clone(),
            attrs,
            kind,
        };
        self.entries.entry(dir).or_default().insert(name, entry);
        self
    }

    pub(crate) fn dir(&mut self, path: &str) -> &mut Self {
        self.add(path.as_bytes(), Kind::Directory, attrs(0o755))
    }

    pub(crate) fn root(&mut self, attrs: Attrs) -> &mut Self {
        let opaque = false;
        self.root = Some(RootEntry { attrs, opaque });
        self
    }

    pub(crate) fn build(&self) -> TreeLayer {
        let dirs = self.entries.iter().map(|(path, entries)| LayerDir {
            path: path.clone(),
            entries: entries.values().cloned().collect(),
        });
        TreeLayer {
            root: self.root.clone(),
            dirs: dirs.collect(),
        }
    }
}

/// Attributes with a mode and times that differ from zero.
pub(crate) fn attrs(mode: u16) -> Attrs {
    Attrs {
        mode,
        uid: 0,
        gid: 0,
        mtime: Mtime {
            seconds: 1_600_000_000,
            nanos: 123_456_789,
        },
        xattrs: Xattrs::default(),
    }
}

pub(crate) fn xattrs(pairs: &[(&[u8], &[u8])]) -> Xattrs {
    let pairs = pairs.iter().map(|(n, v)| (Box::from(*n), Box::from(*v)));
    Xattrs::new(pairs.collect()).unwrap()
}

pub(crate) fn options(filesystem: Filesystem, disk_bytes: u64) -> Layout {
    Layout {
        template: TemplateId::of(b"test"),
        filesystem,
        disk_bytes,
        uuid: *b"0123456789abcdef",
    }
}

pub(crate) fn plan(
    layers: &[TreeLayer],
    filesystem: Filesystem,
    disk_bytes: u64,
) -> (Tree, PlanParts) {
    let tree = compose(layers).unwrap();
    let parts = lay_out(&tree, &options(filesystem, disk_bytes), &BTreeMap::new()).unwrap();
    (tree, parts)
}

/// Writes the disk as a sparse file.
pub(crate) fn write_disk(parts: &PlanParts, store: &Store, path: &Path) {
    let plan = Plan::open(parts.encode().1).unwrap();
    let file = File::create(path).unwrap();
    file.set_len(plan.disk_bytes()).unwrap();
    let mut at = 0;
    plan.pieces::<FormatError>(0, plan.disk_bytes(), |piece| {
        match piece {
            Piece::Zero(_) => {}
            Piece::Bytes(bytes) => file.write_all_at(bytes, at).unwrap(),
            Piece::Chunk(slice) => {
                let from = slice.offset as usize;
                let bytes = &store.0[&slice.id][from..from + slice.len as usize];
                file.write_all_at(bytes, at).unwrap();
            }
        }
        at += piece.len();
        Ok(())
    })
    .unwrap();
    assert_eq!(at, plan.disk_bytes());
}

/// Runs a tool that a Debian package brings.
pub(crate) fn tool(package: &str, name: &str, args: &[&str]) -> Output {
    let output = Command::new(name).args(args).output();
    output.unwrap_or_else(|error| {
        panic!("{name} does not run ({error}); it is in Debian's package {package}")
    })
}

/// Fails unless `e2fsck` finds nothing at all.
pub(crate) fn check(disk: &Path) {
    let output = tool("e2fsprogs", "e2fsck", &["-fn", disk.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    // Five passes and a summary; anything else is a complaint.
    let complaints: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("Pass ") && !line.contains(" files ("))
        .collect();
    let clean = output.status.success() && complaints.is_empty();
    assert!(clean, "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// What `debugfs` prints for a request.
pub(crate) fn debugfs(disk: &Path, request: &str) -> String {
    let args = ["-R", request, disk.to_str().unwrap()];
    let output = tool("e2fsprogs", "debugfs", &args);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An ACL as `getxattr` returns it, of tag, permissions and id.
pub(crate) fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}
