//! Files other than the account databases.

use shale_image::merge::{Conflict, MergeNote, need};

use crate::helper::{Item, Layer, World, dir, file, gone, link, path};

/// Merges `one` and `two`, both made on `base`; the files, and the paths of conflicts.
struct Both {
    world: World,
    base: Layer,
    one: Layer,
    two: Layer,
}

type Items = Vec<(&'static str, Item)>;

impl Both {
    fn new(base: Items, one: Items, two: Items) -> Self {
        let mut world = World::default();
        let base = world.layer("base", base);
        let one = world.layer("one", one);
        let two = world.layer("two", two);
        Both {
            world,
            base,
            one,
            two,
        }
    }

    fn check(&self, expected: &[(&str, Option<&str>)], conflicts: &[&str]) -> Vec<MergeNote> {
        let (base, one, two) = (&self.base, &self.one, &self.two);
        let merged = self
            .world
            .merge(&[base.on(&[]), one.on(&[base]), two.on(&[base])]);
        let named: Vec<_> = conflicts
            .iter()
            .map(|text| {
                let (at, record) = match text.split_once(' ') {
                    Some((at, record)) => (at, Some(record.to_string())),
                    None => (*text, None),
                };
                let (path, layers) = (path(at), [one.id, two.id]);
                Conflict {
                    path,
                    layers,
                    record,
                }
            })
            .collect();
        assert_eq!(merged.conflicts, named);
        if conflicts.is_empty() {
            let tree = self.world.tree(&merged);
            for (at, text) in expected {
                assert_eq!(tree.text(at).as_deref(), *text, "{at}");
            }
        }
        merged.notes
    }
}

#[test]
fn databases_of_packages_hold_both_applications() {
    let package = |name: &str| {
        format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\n\n")
    };
    let [base, a, b] = ["base", "a", "b"].map(package);
    let status = |own: &str| file([&base, own].concat());
    let triggers = "var/lib/dpkg/triggers/File";
    let shells = "# /etc/shells\n/bin/sh\n";
    let both = Both::new(
        vec![
            ("var/lib/dpkg/status", status("")),
            (triggers, file("/x base/noawait\n")),
            ("etc/shells", file(shells)),
        ],
        vec![
            ("var/lib/dpkg/status", status(&a)),
            ("var/lib/dpkg/status-old", status("")),
            (triggers, file("/a a\n/x base/noawait\n")),
            ("etc/shells", file([shells, "/bin/a\n"].concat())),
            ("var/lib/dpkg/info/a.list", file("/.\n")),
        ],
        vec![
            ("var/lib/dpkg/status", status(&b)),
            ("var/lib/dpkg/status-old", status(&b)),
            (triggers, file("/x base/noawait\n/b b\n")),
            ("etc/shells", file([shells, "/bin/b\n"].concat())),
            ("var/lib/dpkg/info/b.list", file("/.\n")),
        ],
    );
    let expected = [&base[..], &a, &b].concat();
    let notes = both.check(
        &[
            ("var/lib/dpkg/status", Some(&expected)),
            (triggers, Some("/a a\n/x base/noawait\n/b b\n")),
            (
                "etc/shells",
                Some("# /etc/shells\n/bin/sh\n/bin/a\n/bin/b\n"),
            ),
            ("var/lib/dpkg/info/a.list", Some("/.\n")),
            ("var/lib/dpkg/info/b.list", Some("/.\n")),
            ("var/lib/dpkg/status-old", Some(&[&base[..], &b].concat())),
        ],
        &[],
    );
    let won = |note: &&MergeNote| matches!(note, MergeNote::LastWon { .. });
    assert_eq!(notes.iter().filter(won).count(), 1, "{notes:?}");
}

#[test]
fn one_package_in_two_versions_is_a_conflict_of_that_record() {
    let version = |v: u8| file(format!("Package: a\nArchitecture: all\nVersion: {v}\n\n"));
    let at = "var/lib/dpkg/status";
    Both::new(
        vec![(at, version(1))],
        vec![(at, version(2))],
        vec![(at, version(3))],
    )
    .check(&[], &["var/lib/dpkg/status a all"]);
}

#[test]
fn a_file_that_both_changed_differently_is_a_conflict() {
    let cases: [(Item, Item); 5] = [
        (file("one"), file("two")),
        (file("one"), link("two")),
        (file("base").mode(0o600), file("base").owner(1, 1)),
        (gone(), file("two")),
        (file("one"), gone()),
    ];
    for (one, two) in cases {
        Both::new(
            vec![("a/f", file("base"))],
            vec![("a/f", one)],
            vec![("a/f", two)],
        )
        .check(&[], &["a/f"]);
    }
    // Alternatives are links that one of both must lose.
    Both::new(
        vec![("etc/alternatives/editor", link("/bin/nano"))],
        vec![("etc/alternatives/editor", link("/usr/bin/vim"))],
        vec![("etc/alternatives/editor", link("/usr/bin/emacs"))],
    )
    .check(&[], &["etc/alternatives/editor"]);
    // Added by both.
    Both::new(vec![], vec![("f", file("one"))], vec![("f", file("two"))]).check(&[], &["f"]);
}

#[test]
fn the_same_change_and_mere_times_are_no_conflict() {
    Both::new(
        vec![("f", file("base")), ("g", file("g")), ("h", file("h"))],
        vec![
            ("f", file("new").time(1)),
            ("g", gone()),
            ("h", file("h").time(5)),
        ],
        vec![
            ("f", file("new").time(2)),
            ("g", gone()),
            ("h", file("h").time(6)),
        ],
    )
    .check(&[("f", Some("new")), ("g", None), ("h", Some("h"))], &[]);
}

#[test]
fn what_a_layer_repeats_unchanged_does_not_undo_a_change_below() {
    let both = Both::new(
        vec![
            ("f", file("base")),
            ("g", file("base")),
            ("d", dir()),
            ("d/x", file("x")),
        ],
        vec![
            ("f", file("one")),
            ("g", gone()),
            ("d", dir().mode(0o700).time(1)),
        ],
        vec![
            ("f", file("base").time(9)),
            ("g", file("base").time(9)),
            ("d", dir().time(9)),
            ("d/y", file("y")),
        ],
    );
    let notes = both.check(&[("f", Some("one")), ("g", None), ("d/y", Some("y"))], &[]);
    assert_eq!(notes.len(), 3, "{notes:?}");
    let (base, one, two) = (&both.base, &both.one, &both.two);
    let merged = both
        .world
        .merge(&[base.on(&[]), one.on(&[base]), two.on(&[base])]);
    let tree = both.world.tree(&merged);
    let attrs = &tree.node("d").unwrap().attrs;
    assert_eq!((attrs.mode, attrs.mtime.seconds), (0o700, 9));
}

#[test]
fn directories_conflict_only_in_more_than_their_time() {
    Both::new(
        vec![("d", dir())],
        vec![("d", dir().time(1)), ("d/a", file("a"))],
        vec![("d", dir().time(2)), ("d/b", file("b"))],
    )
    .check(&[("d/a", Some("a")), ("d/b", Some("b"))], &[]);
    Both::new(
        vec![("d", dir())],
        vec![("d", dir().mode(0o700))],
        vec![("d", dir().mode(0o750))],
    )
    .check(&[], &["d"]);
}

#[test]
fn a_removed_or_replaced_directory_with_changes_is_a_conflict() {
    let base = || vec![("d", dir()), ("d/a", file("a")), ("d/b", file("b"))];
    let changed = || vec![("d/a", file("new"))];
    for lost in [gone(), file("d"), link("e")] {
        Both::new(base(), changed(), vec![("d", lost.clone())]).check(&[], &["d/a"]);
        let kind_only = Both::new(base(), vec![("d/c", gone())], vec![("d", lost)]);
        kind_only.check(&[("d/a", None), ("d/b", None)], &[]);
    }
    // The other way round: the change comes above the removal.
    Both::new(base(), vec![("d", gone())], changed()).check(&[], &["d/a"]);
    // Something new in a directory that somebody replaced has no place.
    Both::new(base(), vec![("d", link("e"))], vec![("d/c", file("c"))]).check(&[], &["d"]);
    Both::new(
        base(),
        vec![("d", link("e"))],
        vec![("d", dir().time(1)), ("d/c", file("c"))],
    )
    .check(&[], &["d"]);
}

#[test]
fn a_layer_made_on_all_below_is_taken_as_it_is() {
    let mut world = World::default();
    let base = world.layer("base", [("etc/shells", file("a\n"))]);
    let one = world.layer("one", [("etc/shells", file("b\n"))]);
    let two = world.layer("two", [("etc/shells", gone())]);
    let stack = [base.on(&[]), one.on(&[&base]), two.on(&[&base, &one])];
    assert_eq!(need(&stack), []);
    let merged = world.merge(&stack);
    assert_eq!((merged.top.as_ref(), merged.notes.len()), (None, 0));
    let trees: Vec<_> = merged.trees().collect();
    assert_eq!(trees, [&base.tree, &one.tree, &two.tree]);
}

#[test]
fn a_later_layer_decides_over_a_merged_file() {
    let mut world = World::default();
    let base = world.layer("base", [("etc/shells", file("a\n"))]);
    let one = world.layer("one", [("etc/shells", file("a\nb\n"))]);
    let two = world.layer("two", [("etc/shells", file("a\nc\n"))]);
    let below = [base.on(&[]), one.on(&[&base]), two.on(&[&base])];
    for (last, expected) in [(file("z\n"), Some("z\n")), (gone(), None)] {
        let custom = world.layer("custom", [("etc/shells", last)]);
        let mut stack = below.to_vec();
        stack.push(custom.on(&[&base, &one, &two]));
        let merged = world.merge(&stack);
        assert!(merged.top.is_none() && merged.synthetic.is_empty());
        assert_eq!(world.tree(&merged).text("etc/shells").as_deref(), expected);
    }
    // Removing the directory removes the merged file too.
    let custom = world.layer("custom", [("etc", gone())]);
    let mut stack = below.to_vec();
    stack.push(custom.on(&[&base, &one, &two]));
    assert!(world.merge(&stack).top.is_none());
}

#[test]
fn three_applications_merge_and_no_more_is_read_than_needed() {
    let mut world = World::default();
    let base = world.layer("base", [("etc/shells", file("a\n")), ("f", file("f"))]);
    let apps: Vec<_> = ["b", "c", "d"]
        .map(|name| {
            let big = file(format!("{name} {}", "x".repeat(1000)));
            world.layer(
                name,
                [("etc/shells", file(format!("a\n{name}\n"))), (name, big)],
            )
        })
        .into();
    let mut stack = vec![base.on(&[])];
    stack.extend(apps.iter().map(|app| app.on(&[&base])));
    assert_eq!(need(&stack).len(), 4);
    let merged = world.merge(&stack);
    assert_eq!(
        world.tree(&merged).text("etc/shells").unwrap(),
        "a\nb\nc\nd\n"
    );
    // Only the last state is needed, not those on the way to it.
    assert_eq!(merged.synthetic.len(), 1);
    assert_eq!(merged, world.merge(&stack));
}

#[test]
fn the_registries_of_ucf_are_merged_by_file() {
    let line = |pkg: &str, at: &str| format!("{pkg} \t {at}\n");
    let base = line("ssh", "/etc/ssh/sshd_config");
    let [one, two] = ["a", "b"].map(|n| [&base[..], &line(n, &format!("/etc/{n}"))].concat());
    let at = "var/lib/ucf/registry";
    let expected = [&one[..], &line("b", "/etc/b")].concat();
    Both::new(
        vec![(at, file(&base))],
        vec![(at, file(&one))],
        vec![(at, file(&two))],
    )
    .check(&[(at, Some(&expected))], &[]);
}
