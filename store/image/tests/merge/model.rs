//! Merging compared with a stupid model: whole trees as maps, merged path by path.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::helper::{Item, Layer, World, dir, file, gone};

/// Regular files by path; directories are there where files are in them.
type Files = BTreeMap<String, u8>;

fn files() -> impl Strategy<Value = Files> {
    let name = proptest::sample::select(vec!["a", "a/x", "a/y", "b", "b/x", "b/y/z", "c"]);
    proptest::collection::btree_map(name.prop_map(String::from), 0..3u8, 0..6).prop_map(possible)
}

/// Leaves out files that are in files.
fn possible(files: Files) -> Files {
    let blocked = |at: &str| parents(at).iter().any(|parent| files.contains_key(parent));
    let keep = |(at, text): (&String, &u8)| (!blocked(at)).then(|| (at.clone(), *text));
    files.iter().filter_map(keep).collect()
}

fn parents(at: &str) -> Vec<String> {
    let ends = at.match_indices('/').map(|(end, _)| at[..end].to_string());
    ends.collect()
}

fn directories(files: &Files) -> BTreeSet<String> {
    files.keys().flat_map(|at| parents(at)).collect()
}

/// The layer that makes `new` out of `old`: what a push finds.
fn difference(world: &mut World, id: &str, old: &Files, new: &Files) -> Layer {
    let mut items: BTreeMap<String, Item> = BTreeMap::new();
    let (old_dirs, new_dirs) = (directories(old), directories(new));
    let changed = |at: &&String| old.get(*at) != new.get(*at);
    for at in new.keys().filter(changed) {
        items.insert(at.clone(), file([b'0' + new[at]]));
    }
    let exists = |at: &String| new.contains_key(at) || new_dirs.contains(at);
    for at in old.keys().chain(&old_dirs).filter(|at| !exists(at)) {
        // What holds it may be gone, or something else by now.
        if parents(at).iter().all(|parent| new_dirs.contains(parent)) {
            items.insert(at.clone(), gone());
        }
    }
    // A directory's time changes with what is in it.
    let touched: BTreeSet<_> = items.keys().flat_map(|at| parents(at)).collect();
    for at in touched.into_iter().filter(|at| new_dirs.contains(at)) {
        items.insert(at, dir().time(i64::from(id.as_bytes()[0])));
    }
    world.layer(id, items)
}

/// What is at a path: nothing, a directory, a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Nothing,
    Directory,
    File(u8),
}

fn at(files: &Files, path: &str) -> At {
    let inside = |other: &String| parents(other).iter().any(|parent| parent == path);
    match files.get(path) {
        Some(text) => At::File(*text),
        None if files.keys().any(inside) => At::Directory,
        None => At::Nothing,
    }
}

/// The merged tree; `None` for a conflict.
fn expected(base: &Files, ours: &Files, theirs: &Files) -> Option<Files> {
    let sides = [base, ours, theirs];
    let mut paths: BTreeSet<_> = sides.iter().flat_map(|side| side.keys().cloned()).collect();
    paths.extend(sides.iter().flat_map(|side| directories(side)));
    let mut merged = Files::new();
    for path in paths {
        let [base_at, ours_at, theirs_at] = sides.map(|side| at(side, &path));
        let merged_at = if ours_at == base_at || ours_at == theirs_at {
            theirs_at
        } else if theirs_at == base_at {
            ours_at
        } else {
            return None;
        };
        // What is new in a directory that the upper side removes would be lost with it, and a change in a
        // directory that the lower side replaced has no place.
        let is_directory = |side, path: &str| at(side, path) == At::Directory;
        let gone = |dir: &String| is_directory(base, dir) && !is_directory(theirs, dir);
        let replaced = |dir: &String| {
            let [base, ours, theirs] = sides.map(|side| at(side, dir));
            base == At::Directory && theirs == base && matches!(ours, At::File(_))
        };
        let new = matches!(ours_at, At::File(_)) && ours_at != base_at;
        let lost = new && parents(&path).iter().any(gone);
        let placeless = theirs_at != base_at && parents(&path).iter().any(replaced);
        if lost || placeless {
            return None;
        }
        if let At::File(text) = merged_at {
            merged.insert(path, text);
        }
    }
    (possible(merged.clone()) == merged).then_some(merged)
}

fn texts(files: &Files) -> BTreeMap<String, String> {
    let text = |(at, text): (&String, &u8)| (at.clone(), text.to_string());
    files.iter().map(text).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn merging_is_that_of_the_model(base in files(), ours in files(), theirs in files()) {
        let mut world = World::default();
        let lowest = difference(&mut world, "base", &Files::new(), &base);
        let one = difference(&mut world, "one", &base, &ours);
        let two = difference(&mut world, "two", &base, &theirs);
        let merged = world.merge(&[lowest.on(&[]), one.on(&[&lowest]), two.on(&[&lowest])]);
        match expected(&base, &ours, &theirs) {
            Some(files) => {
                prop_assert_eq!(&merged.conflicts, &vec![]);
                prop_assert_eq!(world.tree(&merged).files(), texts(&files));
            }
            None => prop_assert!(!merged.conflicts.is_empty()),
        }
    }

    #[test]
    fn on_another_base_merging_is_that_of_the_model(
        base in files(),
        new_base in files(),
        theirs in files(),
    ) {
        let mut world = World::default();
        let old = difference(&mut world, "old", &Files::new(), &base);
        let new = difference(&mut world, "new", &Files::new(), &new_base);
        let app = difference(&mut world, "app", &base, &theirs);
        let merged = world.merge(&[new.on(&[]), app.on(&[&old])]);
        match expected(&base, &new_base, &theirs) {
            Some(files) => {
                prop_assert_eq!(&merged.conflicts, &vec![]);
                prop_assert_eq!(world.tree(&merged).files(), texts(&files));
            }
            None => prop_assert!(!merged.conflicts.is_empty()),
        }
    }

    #[test]
    fn the_order_of_disjoint_applications_only_orders_records(
        ids in proptest::collection::btree_set(101..120u32, 2..6),
    ) {
        let mut world = World::default();
        let base = world.layer("base", [("etc/passwd", file("root:x:0:0:::\n")), ("etc/shells", file(""))]);
        let apps: Vec<_> = ids
            .iter()
            .map(|id| {
                let passwd = file(format!("root:x:0:0:::\nu{id}:x:{id}:0:::\n"));
                let shells = file(format!("/bin/s{id}\n"));
                let own = (format!("srv/{id}"), file("x").owner(*id, 0));
                let items = [("etc/passwd".into(), passwd), ("etc/shells".into(), shells), own];
                world.layer(&format!("app {id}"), items)
            })
            .collect();
        let mut forth = vec![base.on(&[])];
        forth.extend(apps.iter().map(|app| app.on(&[&base])));
        let mut back = forth.clone();
        back[1..].reverse();
        let sorted = |merged| -> BTreeMap<String, Vec<String>> {
            let lines = |text: String| {
                let mut lines: Vec<_> = text.lines().map(String::from).collect();
                lines.sort();
                lines
            };
            let files = world.tree(&merged).files().into_iter();
            files.map(|(at, text)| (at, lines(text))).collect()
        };
        let (forth, back) = (world.merge(&forth), world.merge(&back));
        prop_assert!(forth.conflicts.is_empty() && back.conflicts.is_empty());
        let files = sorted(forth);
        prop_assert_eq!(files["etc/passwd"].len(), ids.len() + 1);
        prop_assert_eq!(files, sorted(back));
    }

    #[test]
    fn the_same_layer_twice_is_the_layer_once(base in files(), ours in files()) {
        let mut world = World::default();
        let lowest = difference(&mut world, "base", &Files::new(), &base);
        let one = difference(&mut world, "one", &base, &ours);
        let again = difference(&mut world, "two", &base, &ours);
        let merged = world.merge(&[lowest.on(&[]), one.on(&[&lowest]), again.on(&[&lowest])]);
        prop_assert_eq!(&merged.conflicts, &vec![]);
        prop_assert_eq!(world.tree(&merged).files(), texts(&ours));
    }

    #[test]
    fn garbage_is_an_error_or_a_file(
        at in proptest::sample::select(vec![
            "etc/passwd", "etc/group", "etc/shadow", "etc/subuid", "etc/shells", "etc/ld.so.cache",
            "var/lib/dpkg/status", "var/lib/dpkg/diversions", "var/lib/dpkg/statoverride",
            "var/cache/debconf/config.dat", "var/lib/ucf/registry",
        ]),
        sides in proptest::array::uniform3("([a-b:,=\\n \\x00#+0-9-]|Name: |Package: |Owners: |glibc-ld.so.cache1.1){0,30}"),
    ) {
        let mut world = World::default();
        let [base, one, two] = [0, 1, 2].map(|side: usize| {
            let id = side.to_string();
            world.layer(&id, [(at, file(&sides[side]))])
        });
        let stack = [base.on(&[]), one.on(&[&base]), two.on(&[&base])];
        if let Ok(merged) = world.try_merge(&stack) {
            // What was merged can be merged again, and then nothing is new.
            let text = world.tree(&merged).text(at).unwrap();
            let again = world.layer("again", [(at, file(&text))]);
            let twice = world.try_merge(&[base.on(&[]), again.on(&[&base]), again.on(&[&base])]);
            // Bytes that only one layer changed were taken without being read; now they are read.
            if let Ok(twice) = twice {
                prop_assert_eq!(world.tree(&twice).text(at).unwrap(), text);
            }
        }
    }
}
