//! The fold against a stupid model: a map of paths.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use shale_model::*;

use crate::generate::layers;

/// What the model knows of a path: an inode number of its own, attributes, kind.
type Model = BTreeMap<TreePath, (usize, Attrs, Kind)>;

fn remove_below(model: &mut Model, path: &TreePath) {
    let prefix = [path.as_bytes(), b"/"].concat();
    model.retain(|other, _| !path.is_root() && !other.as_bytes().starts_with(&prefix));
}

/// Applies one layer name by name; `false` where layers do not compose.
fn apply(model: &mut Model, layer: &TreeLayer, inodes: &mut usize) -> bool {
    if layer.root.as_ref().is_some_and(|root| root.opaque) {
        remove_below(model, &TreePath::root());
    }
    let mut own: BTreeMap<TreePath, (usize, Attrs, Kind)> = BTreeMap::new();
    for dir in &layer.dirs {
        let mut at = TreePath::root();
        for name in dir.path.components() {
            at = at.join(&Name::new(name).unwrap()).unwrap();
            *inodes += 1;
            let made = (
                *inodes,
                Attrs {
                    mode: 0o755,
                    ..Attrs::default()
                },
                Kind::Directory,
            );
            let (_, _, kind) = model.entry(at.clone()).or_insert(made);
            if !kind.is_directory() {
                return false;
            }
        }
        for entry in &dir.entries {
            let path = dir.path.join(&entry.name).unwrap();
            let below = model.get(&path).cloned();
            let merges = entry.kind.is_directory()
                && below
                    .as_ref()
                    .is_some_and(|(_, _, kind)| kind.is_directory());
            if !merges || entry.kind == Kind::OpaqueDirectory {
                remove_below(model, &path);
            }
            model.remove(&path);
            *inodes += 1;
            let new = match &entry.kind {
                Kind::Whiteout => continue,
                Kind::HardLink(target) => own[target].clone(),
                Kind::Directory | Kind::OpaqueDirectory => {
                    let inode = below
                        .filter(|_| merges)
                        .map_or(*inodes, |(inode, _, _)| inode);
                    (inode, entry.attrs.clone(), Kind::Directory)
                }
                kind => (*inodes, entry.attrs.clone(), kind.clone()),
            };
            own.insert(path.clone(), new.clone());
            model.insert(path, new);
        }
    }
    true
}

fn as_kind(data: &NodeData) -> Kind {
    match data {
        NodeData::File(content) => Kind::File(content.clone()),
        NodeData::Directory(_) => Kind::Directory,
        NodeData::Symlink(target) => Kind::Symlink(target.clone()),
        NodeData::CharDevice(rdev) => Kind::CharDevice(*rdev),
        NodeData::BlockDevice(rdev) => Kind::BlockDevice(*rdev),
        NodeData::Fifo => Kind::Fifo,
        NodeData::Socket => Kind::Socket,
    }
}

fn check(stack: &[TreeLayer]) {
    let mut model = Model::new();
    let mut inodes = 0;
    let composes = stack
        .iter()
        .all(|layer| apply(&mut model, layer, &mut inodes));
    let tree = match compose(stack) {
        Ok(tree) => tree,
        Err(ComposeError::NotDirectory { .. }) if !composes => return,
        Err(error) => panic!("{error}"),
    };
    assert!(composes, "the model refuses what compose accepts");
    let mut names_of: BTreeMap<usize, Vec<TreePath>> = BTreeMap::new();
    for (path, (inode, _, _)) in &model {
        names_of.entry(*inode).or_default().push(path.clone());
    }
    let mut walked = 0;
    for (path, id, node) in tree.walk() {
        assert_eq!(tree.lookup(&path), Some(id));
        if path.is_root() {
            continue;
        }
        walked += 1;
        let (inode, attrs, kind) = &model[&path];
        assert_eq!((&node.attrs, &as_kind(&node.data)), (attrs, kind), "{path}");
        let same: Vec<_> = names_of[inode]
            .iter()
            .filter_map(|p| tree.lookup(p))
            .collect();
        assert!(
            same.iter().all(|other| *other == id),
            "{path} has lost a hard link"
        );
        if !kind.is_directory() {
            assert_eq!(node.links as usize, same.len(), "links of {path}");
        }
    }
    assert_eq!(walked, model.len());
    let alive = tree
        .nodes()
        .iter()
        .skip(1)
        .filter(|node| node.links > 0)
        .count();
    assert_eq!(alive, names_of.len());
}

/// What a prefix of the stack holds can be read from the whole: places that layers give do not move.
fn check_history(stack: &[TreeLayer]) {
    let Ok(whole) = compose(stack) else { return };
    for len in 1..stack.len() {
        let prefix = compose(&stack[..len]).unwrap();
        let last = len as u16 - 1;
        let born_before = whole
            .nodes()
            .iter()
            .take_while(|node| node.born <= last)
            .count();
        assert_eq!(born_before, prefix.nodes().len());
        for (id, node) in prefix.ids() {
            let NodeData::Directory(_) = &node.data else {
                continue;
            };
            let NodeData::Directory(now) = &whole.node(id).data else {
                panic!()
            };
            let then: Vec<_> = prefix.children(id).map(|e| (&e.name, e.node)).collect();
            let read: Vec<_> = now
                .iter()
                .filter(|entry| entry.alive_at(last))
                .map(|e| (&e.name, e.node))
                .collect();
            assert_eq!(then, read);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn composing_equals_applying_layers_to_a_map(stack in vec(layers(24), 1..5)) {
        check(&stack);
        check_history(&stack);
    }
}

fn file(name: &str) -> Entry {
    Entry {
        name: Name::new(name.as_bytes()).unwrap(),
        attrs: Attrs::default(),
        kind: Kind::File(Content::default()),
    }
}

#[test]
fn a_hard_link_to_what_the_layer_does_not_hold_is_named() {
    let mut link = file("link");
    link.kind = Kind::HardLink(TreePath::new(b"other").unwrap());
    let dirs = vec![LayerDir {
        path: TreePath::root(),
        entries: vec![link],
    }];
    let error = compose(&[TreeLayer { root: None, dirs }]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "layer 0 has a hard link to /other, which it does not hold before it"
    );
}

#[test]
fn too_many_layers_are_refused() {
    let stack = vec![TreeLayer::default(); limits::MAX_LAYERS + 1];
    assert!(matches!(
        compose(&stack),
        Err(ComposeError::TooManyLayers(_))
    ));
}

#[test]
fn many_directories_that_no_layer_describes_are_composed_in_time() {
    // Sorting the directory that holds them for each of them would take 10^11 steps.
    let undescribed = |prefix: &str| {
        let dirs = (0..400_000).map(|n| LayerDir {
            path: TreePath::new(format!("{prefix}/{n:06}").as_bytes()).unwrap(),
            entries: vec![file("f")],
        });
        TreeLayer {
            root: None,
            dirs: dirs.collect(),
        }
    };
    let tree = compose(&[undescribed("a"), undescribed("a"), undescribed("b")]).unwrap();
    assert_eq!(tree.nodes()[0].links, 4);
    let below = |name: &[u8]| {
        tree.children(tree.child(NodeId::ROOT, name).unwrap())
            .count()
    };
    assert_eq!((below(b"a"), below(b"b")), (400_000, 400_000));
    let last = TreePath::new(b"b/399999/f").unwrap();
    assert!(tree.lookup(&last).is_some());
}

#[test]
fn layers_out_of_order_compose_all_the_same() {
    let dir = |path: &str, entries| LayerDir {
        path: TreePath::new(path.as_bytes()).unwrap(),
        entries,
    };
    let opaque = Entry {
        kind: Kind::OpaqueDirectory,
        ..file("b")
    };
    let layer = TreeLayer {
        root: None,
        dirs: vec![
            dir("a/b/c", vec![file("gone")]),
            dir("a", vec![file("aa"), opaque]),
            dir("a/b/d", vec![file("f")]),
            dir("a/b/d", vec![file("g")]),
        ],
    };
    let tree = compose(&[layer]).unwrap();
    let paths: Vec<String> = tree.walk().map(|(path, _, _)| path.to_string()).collect();
    let expected = ["/", "/a", "/a/aa", "/a/b", "/a/b/d", "/a/b/d/f", "/a/b/d/g"];
    assert_eq!(paths, expected);
}
