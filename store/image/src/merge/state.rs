//! A stack of layers as a merge sees it: what is at a path, and which layer said so last.

use std::borrow::Cow;
use std::collections::BTreeMap;

use shale_model::{
    Attrs, Content, Entry, Extent, Kind, LayerDir, LayerId, Mtime, Name, RootEntry, TreeLayer,
    TreePath,
};

use super::ids::IdMap;
use super::remap::remap_attrs;
use super::{ChunkBytes, MAX_MERGED_FILE_BYTES, MergeError};

/// A merged stack.
#[derive(Debug, Clone, Default)]
pub(super) struct State<'a> {
    /// Bottom first, with their numbers remapped.
    pub(super) layers: Vec<(LayerId, Cow<'a, TreeLayer>)>,
    /// What is at some paths in place of what the layers say, with the layer that said it last.
    pub(super) over: BTreeMap<TreePath, (LayerId, Entry)>,
    /// The same for the root directory, which has no entry.
    pub(super) over_root: Option<(LayerId, Attrs)>,
    /// Bytes of merged files.
    pub(super) synthetic: ChunkBytes,
}

/// What is at a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'s> {
    /// The layer that said so last.
    pub(super) layer: LayerId,
    /// `None` if that layer removed it.
    pub(super) what: Option<What<'s>>,
}

/// A thing in a tree; hard links are what they link to, and no directory is opaque.
#[derive(Debug, Clone, Copy)]
pub(super) struct What<'s> {
    pub(super) attrs: &'s Attrs,
    pub(super) kind: &'s Kind,
}

impl<'s> What<'s> {
    /// What `entry` of `tree` is; `None` for a whiteout.
    pub(super) fn of(tree: &'s TreeLayer, entry: &'s Entry) -> Option<Self> {
        match &entry.kind {
            Kind::Whiteout => None,
            Kind::HardLink(target) => {
                let target = find_entry(tree, target).unwrap_or(entry);
                Some(Self::plain(target))
            }
            _ => Some(Self::plain(entry)),
        }
    }

    fn plain(entry: &'s Entry) -> Self {
        let kind = match &entry.kind {
            Kind::OpaqueDirectory => &Kind::Directory,
            kind => kind,
        };
        let attrs = &entry.attrs;
        Self { attrs, kind }
    }

    /// Whether both are the same but for the time. `map` gives the numbers of `other`.
    pub(super) fn same(&self, other: &What<'_>, map: &IdMap) -> bool {
        // Nobody can change the mode of a symbolic link.
        let link = matches!(self.kind, Kind::Symlink(_));
        self.kind == other.kind && same_attrs(self.attrs, other.attrs, map, link)
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind.is_directory()
    }

    /// The content of a regular file.
    pub(super) fn content(&self) -> Option<&'s Content> {
        match self.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }
}

/// Whether attributes are the same but for the time; `map` gives the numbers of `b`.
fn same_attrs(a: &Attrs, b: &Attrs, map: &IdMap, any_mode: bool) -> bool {
    let mapped = if map.is_empty() {
        Cow::Borrowed(b)
    } else {
        Cow::Owned(remap_attrs(b, map))
    };
    (any_mode || a.mode == mapped.mode)
        && (a.uid, a.gid) == (mapped.uid, mapped.gid)
        && a.xattrs == mapped.xattrs
}

/// Whether two optional things are the same; `map` gives the numbers of `b`.
pub(super) fn same(a: Option<What<'_>>, b: Option<What<'_>>, map: &IdMap) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.same(&b, map),
        (None, None) => true,
        _ => false,
    }
}

/// What a layer holds in the directory `path`.
pub(super) fn find_dir<'t>(tree: &'t TreeLayer, path: &TreePath) -> Option<&'t LayerDir> {
    let found = tree.dirs.binary_search_by(|dir| dir.path.cmp(path)).ok()?;
    Some(&tree.dirs[found])
}

/// What a layer says about `path`.
pub(super) fn find_entry<'t>(tree: &'t TreeLayer, path: &TreePath) -> Option<&'t Entry> {
    let (parent, name) = path.split()?;
    find_name(find_dir(tree, &parent)?, &name)
}

fn find_name<'t>(dir: &'t LayerDir, name: &Name) -> Option<&'t Entry> {
    let found = dir.entries.binary_search_by(|entry| entry.name.cmp(name));
    Some(&dir.entries[found.ok()?])
}

/// The directories of a layer at and below `path`.
pub(super) fn dirs_below<'t>(tree: &'t TreeLayer, path: &TreePath) -> &'t [LayerDir] {
    let start = tree.dirs.partition_point(|dir| dir.path < *path);
    let below = &tree.dirs[start..];
    let end = below.partition_point(|dir| is_below(&dir.path, path));
    &below[..end]
}

/// Whether `path` is `dir` or below it.
fn is_below(path: &TreePath, dir: &TreePath) -> bool {
    let rest = path.as_bytes().strip_prefix(dir.as_bytes());
    rest.is_some_and(|rest| dir.is_root() || rest.is_empty() || rest.starts_with(b"/"))
}

/// The directories that hold `path`, each with the name below it, from the root downwards.
fn ancestors(path: &TreePath) -> Vec<(TreePath, Name)> {
    let mut found = Vec::new();
    let mut at = path.split();
    while let Some((parent, name)) = at {
        at = parent.split();
        found.push((parent, name));
    }
    found.reverse();
    found
}

/// One directory of a [`State`], ready for many look-ups.
#[derive(Debug)]
pub(super) struct DirView<'s> {
    over: BTreeMap<Name, (LayerId, &'s Entry)>,
    /// What layers say, top first, down to the layer that hides what is below it.
    blocks: Vec<(LayerId, &'s TreeLayer, &'s LayerDir)>,
    /// The layer that hides what is below it, and whether it put something else in the directory's place.
    cut: Option<(LayerId, bool)>,
}

impl<'s> DirView<'s> {
    /// What is called `name`; `None` if no layer ever said anything.
    pub(super) fn find(&self, name: &Name) -> Option<Seen<'s>> {
        if let Some((layer, entry)) = self.over.get(name) {
            let removed = entry.kind == Kind::Whiteout;
            let what = (!removed).then(|| What::plain(entry));
            let layer = *layer;
            return Some(Seen { layer, what });
        }
        for &(layer, tree, dir) in &self.blocks {
            if let Some(entry) = find_name(dir, name) {
                let what = What::of(tree, entry);
                return Some(Seen { layer, what });
            }
        }
        let (layer, _) = self.cut?;
        Some(Seen { layer, what: None })
    }

    /// The layer that put something other than a directory in this place or above it, if one did and no
    /// later layer says anything about what is in the directory.
    pub(super) fn replaced_by(&self) -> Option<LayerId> {
        let (layer, replaced) = self.cut?;
        (replaced && self.blocks.is_empty()).then_some(layer)
    }
}

impl<'a> State<'a> {
    pub(super) fn ids(&self) -> impl Iterator<Item = LayerId> {
        self.layers.iter().map(|(id, _)| *id)
    }

    /// What is in the directory at `path`.
    pub(super) fn dir(&self, path: &TreePath) -> DirView<'_> {
        let ancestors = ancestors(path);
        let mut blocks = Vec::new();
        let mut cut = None;
        for (id, tree) in self.layers.iter().rev() {
            if let Some(dir) = find_dir(tree, path) {
                blocks.push((*id, &**tree, dir));
            }
            cut = cut_of(tree, &ancestors).map(|replaced| (*id, replaced));
            if cut.is_some() {
                break;
            }
        }
        let mut over = BTreeMap::new();
        let inside = self.over.range(path.clone()..);
        for (at, (layer, entry)) in inside.take_while(|(at, _)| is_below(at, path)) {
            if at.split().is_some_and(|(parent, _)| parent == *path) {
                over.insert(entry.name.clone(), (*layer, entry));
            }
        }
        DirView { over, blocks, cut }
    }

    /// What is at `path`, which is not the root; `None` if no layer ever said anything.
    pub(super) fn find(&self, path: &TreePath) -> Option<Seen<'_>> {
        let (parent, name) = path.split()?;
        self.dir(&parent).find(&name)
    }

    /// What the layers say about the root directory, with the layer that said it last.
    pub(super) fn root(&self) -> Option<(LayerId, &Attrs)> {
        if let Some((layer, attrs)) = &self.over_root {
            return Some((*layer, attrs));
        }
        let mut layers = self.layers.iter().rev();
        layers.find_map(|(id, tree)| Some((*id, &tree.root.as_ref()?.attrs)))
    }

    /// Puts a layer on top, which then says what is at every path that it mentions.
    pub(super) fn put(&mut self, id: LayerId, tree: Cow<'a, TreeLayer>) {
        self.over.retain(|path, _| !decides(&tree, path));
        if tree.root.is_some() {
            self.over_root = None;
        }
        self.layers.push((id, tree));
    }

    /// The bytes of a file of this stack; `layer` and `path` are for errors.
    pub(super) fn read(
        &self,
        content: &Content,
        bytes: &ChunkBytes,
        at: (&TreePath, LayerId),
    ) -> Result<Vec<u8>, MergeError> {
        let (path, layer) = (at.0.clone(), at.1);
        if content.size() > MAX_MERGED_FILE_BYTES {
            return Err(MergeError::TooLarge { path, layer });
        }
        let mut file = Vec::with_capacity(content.size() as usize);
        for extent in content.extents() {
            match extent {
                Extent::Hole { len } => file.resize(file.len() + *len as usize, 0),
                Extent::Chunk { id, len } => {
                    let chunk = *id;
                    let missing = || MergeError::Missing {
                        chunk,
                        path: path.clone(),
                    };
                    let found = self.synthetic.get(id).or_else(|| bytes.get(id));
                    let found = found.filter(|found| found.len() == *len as usize);
                    file.extend_from_slice(found.ok_or_else(missing)?);
                }
            }
        }
        Ok(file)
    }

    /// The layer that goes on top of all others: what is in [`State::over`].
    pub(super) fn top(&self) -> Option<TreeLayer> {
        let mut dirs: BTreeMap<TreePath, Vec<Entry>> = BTreeMap::new();
        for (path, (_, entry)) in &self.over {
            if let Some((parent, _)) = path.split() {
                dirs.entry(parent).or_default().push(entry.clone());
            }
        }
        let root = self.over_root.as_ref().map(|(_, attrs)| RootEntry {
            attrs: attrs.clone(),
            opaque: false,
        });
        let dir = |(path, mut entries): (TreePath, Vec<Entry>)| {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            LayerDir { path, entries }
        };
        let dirs: Vec<_> = dirs.into_iter().map(dir).collect();
        (root.is_some() || !dirs.is_empty()).then_some(TreeLayer { root, dirs })
    }
}

/// Whether `tree` hides what layers below it hold in a directory, and if so, whether by something that is
/// not a directory. `ancestors` lead to it.
fn cut_of(tree: &TreeLayer, ancestors: &[(TreePath, Name)]) -> Option<bool> {
    if tree.root.as_ref().is_some_and(|root| root.opaque) {
        return Some(false);
    }
    ancestors.iter().find_map(|(parent, name)| {
        match find_name(find_dir(tree, parent)?, name)?.kind {
            Kind::Directory => None,
            Kind::Whiteout | Kind::OpaqueDirectory => Some(false),
            _ => Some(true),
        }
    })
}

/// Whether `tree` says what is at `path`.
fn decides(tree: &TreeLayer, path: &TreePath) -> bool {
    find_entry(tree, path).is_some()
        || path
            .split()
            .is_some_and(|(parent, _)| cut_of(tree, &ancestors(&parent)).is_some())
}

/// `attrs` with another time.
pub(super) fn with_time(attrs: &Attrs, mtime: Mtime) -> Attrs {
    Attrs {
        mtime,
        ..attrs.clone()
    }
}
