//! The difference to a base: on top of the base it is the tree.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use shale_ingest::{Difference, FileBytes, PushError, Source, Visitor};
use shale_model::*;

/// A layer that is told again.
struct Told<'a>(&'a TreeLayer);

impl Source for Told<'_> {
    fn visit(&mut self, visitor: &mut dyn Visitor) -> Result<(), PushError> {
        if let Some(root) = &self.0.root {
            visitor.root(root.clone())?;
        }
        for (dir, entry) in self.0.entries() {
            visitor.entry(dir, entry.clone())?;
        }
        Ok(())
    }
}

/// Collects what it is told, and checks the order.
#[derive(Default)]
struct Collect {
    layer: TreeLayer,
}

impl Visitor for Collect {
    fn root(&mut self, root: RootEntry) -> Result<(), PushError> {
        assert!(self.layer.root.is_none() && self.layer.dirs.is_empty());
        self.layer.root = Some(root);
        Ok(())
    }

    fn content(&mut self, _: &TreePath, _: &mut dyn FileBytes) -> Result<Content, PushError> {
        unreachable!("content is told with the entries")
    }

    fn entry(&mut self, dir: &TreePath, entry: Entry) -> Result<(), PushError> {
        match self.layer.dirs.last_mut() {
            Some(last) if last.path == *dir => {
                assert!(last.entries.last().unwrap().name < entry.name);
                last.entries.push(entry);
            }
            last => {
                assert!(last.is_none_or(|last| last.path < *dir));
                let (path, entries) = (dir.clone(), vec![entry]);
                self.layer.dirs.push(LayerDir { path, entries });
            }
        }
        Ok(())
    }
}

fn difference(new: &TreeLayer, base: &Tree) -> TreeLayer {
    let mut collect = Collect::default();
    let mut source = Told(new);
    Difference::new(&mut source, base)
        .visit(&mut collect)
        .unwrap();
    collect.layer
}

/// What a tree is to someone who looks at it: for each path the attributes, what it is, and the first
/// path of its node.
fn seen(tree: &Tree) -> BTreeMap<TreePath, (Attrs, NodeData, TreePath)> {
    let mut first = BTreeMap::new();
    let told = tree.walk().map(|(path, id, node)| {
        let data = match &node.data {
            NodeData::Directory(_) => NodeData::Directory(Vec::new()),
            other => other.clone(),
        };
        let first = first.entry(id).or_insert_with(|| path.clone());
        (path, (node.attrs.clone(), data, first.clone()))
    });
    told.collect()
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// One step that makes or changes a tree: where, what, with which attributes.
type Step = (Vec<usize>, u8, u8);

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    vec((vec(0..NAMES.len(), 1..4), any::<u8>(), 0u8..3), 0..most)
}

/// A complete tree as names and nodes.
#[derive(Debug, Clone, Default)]
struct Model {
    root: u8,
    names: BTreeMap<TreePath, usize>,
    nodes: Vec<(Kind, u8)>,
}

fn content(n: u8) -> Kind {
    let chunk = |n: u8| Extent::Chunk {
        id: ChunkId::of(&[n]),
        len: 1 + u32::from(n),
    };
    let hole = Extent::Hole { len: 65536 };
    let extents = match n % 3 {
        0 => vec![],
        1 => vec![chunk(n % 4)],
        _ => vec![chunk(n % 4), hole, chunk(0)],
    };
    Kind::File(Content::new(extents).unwrap())
}

impl Model {
    fn apply(&mut self, steps: &[Step]) {
        for (path, what, attrs) in steps {
            let names: Vec<_> = path.iter().map(|i| NAMES[*i].as_bytes()).collect();
            let path = TreePath::new(&names.join(&b'/')).unwrap();
            match what % 8 {
                0 => self.remove(&path),
                1 | 2 => self.put(&path, Kind::Directory, *attrs),
                3 => self.link(&path, *what),
                4 => self.put(&path, Kind::Symlink(vec![b'a' + what % 3].into()), *attrs),
                5 => self.root = *attrs,
                _ => self.put(&path, content(what / 8), *attrs),
            }
        }
    }

    fn below(&self, path: &TreePath) -> Vec<TreePath> {
        let prefix = [path.as_bytes(), b"/"].concat();
        let all = self.names.keys();
        all.filter(|name| *name == path || name.as_bytes().starts_with(&prefix))
            .cloned()
            .collect()
    }

    fn remove(&mut self, path: &TreePath) {
        for name in self.below(path) {
            self.names.remove(&name);
        }
    }

    /// Makes `path` and the directories above it; a directory over a directory keeps what it holds.
    fn put(&mut self, path: &TreePath, kind: Kind, attrs: u8) {
        let mut above = path.clone();
        while let Some((dir, _)) = above.split() {
            if !dir.is_root() && !self.is_dir(&dir) {
                self.remove(&dir);
                self.put(&dir, Kind::Directory, 0);
            }
            above = dir;
        }
        if !(kind == Kind::Directory && self.is_dir(path)) {
            self.remove(path);
        }
        self.nodes.push((kind, attrs));
        self.names.insert(path.clone(), self.nodes.len() - 1);
    }

    fn link(&mut self, path: &TreePath, choice: u8) {
        let files = self
            .names
            .iter()
            .filter(|(_, n)| self.nodes[**n].0 != Kind::Directory);
        let files: Vec<_> = files.map(|(name, node)| (name.clone(), *node)).collect();
        if files.is_empty() {
            return;
        }
        let (_, node) = files[usize::from(choice) % files.len()];
        self.put(path, Kind::Fifo, 0);
        self.names.insert(path.clone(), node);
    }

    fn is_dir(&self, path: &TreePath) -> bool {
        let node = self.names.get(path);
        node.is_some_and(|node| self.nodes[*node].0 == Kind::Directory)
    }

    fn layer(&self) -> TreeLayer {
        let mut dirs: BTreeMap<TreePath, BTreeMap<Name, Entry>> = BTreeMap::new();
        let mut first = BTreeMap::new();
        let in_layer_order = |path: &TreePath| path.split().unwrap();
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_by_key(|(path, _)| in_layer_order(path));
        for (path, node) in names {
            let (dir, name) = path.split().unwrap();
            let (kind, n) = &self.nodes[*node];
            let entry = match first.get(node) {
                Some(target) => Entry {
                    name: name.clone(),
                    attrs: Attrs::default(),
                    kind: Kind::HardLink(TreePath::clone(target)),
                },
                None => Entry {
                    name: name.clone(),
                    attrs: attrs(*n),
                    kind: kind.clone(),
                },
            };
            first.entry(node).or_insert_with(|| path.clone());
            dirs.entry(dir).or_default().insert(name, entry);
        }
        let dirs = dirs.into_iter().map(|(path, entries)| LayerDir {
            path,
            entries: entries.into_values().collect(),
        });
        TreeLayer {
            root: Some(RootEntry {
                attrs: attrs(self.root),
                opaque: false,
            }),
            dirs: dirs.collect(),
        }
    }
}

fn attrs(n: u8) -> Attrs {
    let pairs = (0..n / 2).map(|n| (vec![b'x', b'0' + n].into(), vec![n].into()));
    Attrs {
        mode: 0o750 + u16::from(n % 2),
        mtime: Mtime {
            seconds: 0,
            nanos: u32::from(n / 2),
        },
        xattrs: Xattrs::new(pairs.collect()).unwrap(),
        ..Attrs::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn base_and_difference_are_the_tree(first in steps(40), second in steps(15), third in steps(15)) {
        let mut model = Model::default();
        model.apply(&first);
        let base = model.layer();
        let mut layers = vec![base];
        // The second difference is to a tree of two layers.
        for steps in [second, third] {
            model.apply(&steps);
            let new = model.layer();
            let below = compose(&layers).unwrap();
            let change = difference(&new, &below);
            prop_assert!(change.entries().count() <= new.entries().count() + below.nodes().len());
            layers.push(change);
            let (is, should) = (compose(&layers).unwrap(), compose([&new]).unwrap());
            prop_assert_eq!(seen(&is), seen(&should));
            // And nothing is told twice.
            prop_assert_eq!(difference(&new, &is), TreeLayer::default());
        }
    }

    #[test]
    fn trees_that_have_nothing_in_common(first in steps(30), second in steps(30)) {
        let [base, new] = [first, second].map(|steps| {
            let mut model = Model::default();
            model.apply(&steps);
            model.layer()
        });
        let change = difference(&new, &compose([&base]).unwrap());
        let is = compose([&base, &change]).unwrap();
        prop_assert_eq!(seen(&is), seen(&compose([&new]).unwrap()));
    }
}

#[test]
fn one_changed_file_is_one_entry() {
    let path = |text: &str| TreePath::new(text.as_bytes()).unwrap();
    let mut model = Model::default();
    for (name, kind) in [
        ("a", content(1)),
        ("d/e", content(4)),
        ("d/b/c", content(1)),
    ] {
        model.put(&path(name), kind, 0);
    }
    let base = compose([&model.layer()]).unwrap();
    model.put(&path("d/b/c"), content(2), 0);
    let change = difference(&model.layer(), &base);
    assert_eq!((change.dirs.len(), change.dirs[0].entries.len()), (1, 1));
    assert_eq!(change.dirs[0].path, path("d/b"));
    assert_eq!(change.root, None);
}

#[test]
fn a_directory_that_nobody_described_replaces_a_file() {
    let mut model = Model::default();
    model.put(&TreePath::new(b"a").unwrap(), content(1), 0);
    let base = compose([&model.layer()]).unwrap();
    model.put(&TreePath::new(b"a/b").unwrap(), content(2), 0);
    let mut new = model.layer();
    // As an archive without members for directories tells it.
    new.dirs.remove(0);
    let change = difference(&new, &base);
    let both = compose([&compose_of(&base), &change]).unwrap();
    assert!(both.lookup(&TreePath::new(b"a/b").unwrap()).is_some());
}

/// A layer that composes to `tree`, of which only the root has entries.
fn compose_of(tree: &Tree) -> TreeLayer {
    let entries = tree.children(NodeId::ROOT).map(|child| Entry {
        name: child.name.clone(),
        attrs: tree.node(child.node).attrs.clone(),
        kind: content(1),
    });
    TreeLayer {
        root: None,
        dirs: vec![LayerDir {
            path: TreePath::root(),
            entries: entries.collect(),
        }],
    }
}

#[test]
fn a_tree_with_whiteouts_has_no_difference() {
    let entry = Entry {
        name: Name::new(b"x").unwrap(),
        attrs: Attrs::default(),
        kind: Kind::Whiteout,
    };
    let dirs = vec![LayerDir {
        path: TreePath::root(),
        entries: vec![entry],
    }];
    let layer = TreeLayer { root: None, dirs };
    let base = compose([&TreeLayer::default()]).unwrap();
    let mut source = Told(&layer);
    let result = Difference::new(&mut source, &base).visit(&mut Collect::default());
    assert!(matches!(result, Err(PushError::NotComplete { path }) if path.as_bytes() == b"x"));
}
