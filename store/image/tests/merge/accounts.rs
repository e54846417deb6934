//! Users and groups of applications made apart.

use shale_image::merge::{IdKind, MergeError, MergeNote};

use crate::helper::{Item, Layer, World, file, gone};

const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nssh:x:101:\n";
const SHADOW: &str = "root:*:1:0:99999:7:::\nsshd:!:1::::::\n";

fn base(world: &mut World) -> Layer {
    world.layer(
        "base",
        [
            ("etc/passwd", file(PASSWD)),
            ("etc/group", file(GROUP)),
            ("etc/shadow", file(SHADOW).mode(0o640).owner(0, 42)),
            ("bin/sh", file("sh")),
        ],
    )
}

/// An application that adds a user and a group of its name.
fn app(world: &mut World, name: &str, (uid, gid): (u32, u32), more: Vec<(String, Item)>) -> Layer {
    let items = [
        (
            "etc/passwd".into(),
            file(format!("{PASSWD}{name}:x:{uid}:{gid}::/:/bin/false\n")),
        ),
        (
            "etc/group".into(),
            file(format!("{GROUP}{name}:x:{gid}:\n")),
        ),
        (
            "etc/shadow".into(),
            file(format!("{SHADOW}{name}:!:2::::::\n"))
                .mode(0o640)
                .owner(0, 42),
        ),
        (format!("var/lib/{name}/data"), file(name).owner(uid, gid)),
    ];
    world.layer(name, items.into_iter().chain(more))
}

/// Two named users, a named group: as `setfacl -m u:101:r,u:0:r,g:102:r` writes it.
fn acl(users: [u32; 2], group: u32) -> Vec<u8> {
    let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[4, 0], &id.to_le_bytes()].concat();
    let any = u32::MAX;
    let entries = [
        entry(0x01, any),
        entry(0x02, users[0]),
        entry(0x02, users[1]),
        entry(0x04, any),
        entry(0x08, group),
        entry(0x10, any),
        entry(0x20, any),
    ];
    [&[2, 0, 0, 0][..], &entries.concat()].concat()
}

#[test]
fn two_applications_with_one_number_get_two() {
    let mut world = World::default();
    let base = base(&mut world);
    let one = app(&mut world, "one", (101, 102), vec![]);
    let shared = file("x")
        .owner(0, 102)
        .xattr("system.posix_acl_access", &acl([101, 500], 102));
    let two = app(
        &mut world,
        "two",
        (101, 102),
        vec![("srv/two".into(), shared)],
    );
    let stack = [base.on(&[]), one.on(&[&base]), two.on(&[&base])];
    let merged = world.merge(&stack);
    assert_eq!(merged.conflicts, []);
    let tree = world.tree(&merged);
    assert_eq!(
        tree.text("etc/passwd").unwrap(),
        format!("{PASSWD}one:x:101:102::/:/bin/false\ntwo:x:102:100::/:/bin/false\n")
    );
    assert_eq!(
        tree.text("etc/group").unwrap(),
        format!("{GROUP}one:x:102:\ntwo:x:100:\n")
    );
    assert_eq!(
        tree.text("etc/shadow").unwrap(),
        format!("{SHADOW}one:!:2::::::\ntwo:!:2::::::\n")
    );
    assert_eq!(tree.node("etc/shadow").unwrap().attrs.mode, 0o640);
    assert_eq!(tree.owner("etc/shadow"), (0, 42));
    assert_eq!(tree.owner("var/lib/one/data"), (101, 102));
    assert_eq!(tree.owner("var/lib/two/data"), (102, 100));
    assert_eq!(tree.owner("srv/two"), (0, 100));
    let xattrs = &tree.node("srv/two").unwrap().attrs.xattrs;
    assert_eq!(
        xattrs.get(b"system.posix_acl_access").unwrap(),
        acl([102, 500], 100)
    );
    let remapped = |kind, from, to| MergeNote::Remapped {
        layer: two.id,
        kind,
        name: "two".into(),
        from,
        to,
    };
    for note in [
        remapped(IdKind::User, 101, 102),
        remapped(IdKind::Group, 102, 100),
    ] {
        assert!(merged.notes.contains(&note), "{:?}", merged.notes);
    }
}

#[test]
fn a_group_that_both_added_is_one_group() {
    let mut world = World::default();
    let base = base(&mut world);
    let add = |id: &str, gid: u32, member: &str| {
        [
            (
                "etc/group",
                file(format!(
                    "{GROUP}{id}:x:{}:\nssl:x:{gid}:{member}\n",
                    gid - 1
                )),
            ),
            ("etc/key", file("key").owner(0, gid)),
        ]
    };
    let one = world.layer("one", add("one", 103, "a"));
    let two = world.layer("two", add("two", 104, "b"));
    let stack = [base.on(&[]), one.on(&[&base]), two.on(&[&base])];
    let merged = world.merge(&stack);
    assert_eq!(merged.conflicts, []);
    let tree = world.tree(&merged);
    assert_eq!(
        tree.text("etc/group").unwrap(),
        format!("{GROUP}one:x:102:\nssl:x:103:a,b\ntwo:x:100:\n")
    );
    assert_eq!(tree.owner("etc/key"), (0, 103));
}

#[test]
fn a_group_number_also_changes_where_only_the_users_refer_to_it() {
    let mut world = World::default();
    let base = base(&mut world);
    let one = world.layer("one", [("etc/group", file(format!("{GROUP}one:x:102:\n")))]);
    let two = app(&mut world, "two", (101, 102), vec![]);
    let merged = world.merge(&[base.on(&[]), one.on(&[&base]), two.on(&[&base])]);
    let tree = world.tree(&merged);
    assert!(
        tree.text("etc/passwd")
            .unwrap()
            .ends_with("two:x:101:100::/:/bin/false\n")
    );
    assert_eq!(tree.owner("var/lib/two/data"), (101, 100));
}

#[test]
fn on_a_rebuilt_base_names_keep_their_meaning() {
    let mut world = World::default();
    let old = base(&mut world);
    let own = file("x").owner(100, 101);
    let app = app(
        &mut world,
        "app",
        (101, 102),
        vec![("run/x".into(), own.clone()), ("srv/x".into(), own)],
    );
    let new = world.layer(
        "new base",
        [
            (
                "etc/passwd",
                file(PASSWD.replace("100", "105") + "bus:x:101:106::/:/x\n"),
            ),
            (
                "etc/group",
                file(GROUP.replace("101", "104") + "bus:x:106:\n"),
            ),
        ],
    );
    let merged = world.merge(&[new.on(&[]), app.on(&[&old])]);
    let tree = world.tree(&merged);
    assert_eq!(tree.owner("srv/x"), (105, 104));
    assert_eq!(tree.owner("var/lib/app/data"), (102, 102));
    let passwd = tree.text("etc/passwd").unwrap();
    assert!(passwd.contains("sshd:x:105:"), "{passwd}");
    assert!(passwd.contains("bus:x:101:106:"), "{passwd}");
    assert!(passwd.contains("app:x:102:102:"), "{passwd}");
}

#[test]
fn a_layer_made_on_a_merged_template_fits_on_it_and_on_another_order() {
    let mut world = World::default();
    let base = base(&mut world);
    let one = app(&mut world, "one", (101, 102), vec![]);
    let two = app(&mut world, "two", (101, 102), vec![]);
    let below = [base.on(&[]), one.on(&[&base]), two.on(&[&base])];
    // What its author saw: two is user 102, group 100 there.
    let merged = world.merge(&below);
    let passwd = world.tree(&merged).text("etc/passwd").unwrap();
    let custom = world.layer(
        "custom",
        [
            (
                "etc/passwd",
                file(passwd.clone() + "me:x:1000:1000::/:/bin/sh\n"),
            ),
            ("srv/two", file("two").owner(102, 100)),
        ],
    );
    let on_it = custom.on(&[&base, &one, &two]);
    let whole = world.merge(&[
        below[0].clone(),
        below[1].clone(),
        below[2].clone(),
        on_it.clone(),
    ]);
    assert_eq!(whole.conflicts, []);
    let tree = world.tree(&whole);
    assert_eq!(
        tree.text("etc/passwd").unwrap(),
        passwd + "me:x:1000:1000::/:/bin/sh\n"
    );
    assert_eq!(tree.owner("srv/two"), (102, 100));

    let [base_layer, one_layer, two_layer] = below;
    let turned = world.merge(&[base_layer, two_layer, one_layer, on_it]);
    assert_eq!(turned.conflicts, []);
    let tree = world.tree(&turned);
    assert_eq!(tree.owner("srv/two"), (101, 102));
    assert_eq!(tree.owner("var/lib/two/data"), (101, 102));
    assert_eq!(tree.owner("var/lib/one/data"), (102, 100));
    let passwd = tree.text("etc/passwd").unwrap();
    assert!(
        passwd.contains("two:x:101:102:") && passwd.contains("me:x:1000:1000:"),
        "{passwd}"
    );
}

#[test]
fn the_lower_part_does_not_depend_on_what_comes_above() {
    let mut world = World::default();
    let base = base(&mut world);
    let apps: Vec<_> = ["one", "two", "three"]
        .map(|name| app(&mut world, name, (101, 102), vec![]))
        .into();
    let stack: Vec<_> = std::iter::once(base.on(&[]))
        .chain(apps.iter().map(|app| app.on(&[&base])))
        .collect();
    let (two, three) = (world.merge(&stack[..3]), world.merge(&stack));
    assert_eq!(two.layers[..], three.layers[..3]);
    let tree = world.tree(&three);
    let owners = ["one", "two", "three"].map(|name| tree.owner(&format!("var/lib/{name}/data")));
    assert_eq!(owners, [(101, 102), (102, 100), (103, 103)]);
}

#[test]
fn ranges_of_subordinate_ids_do_not_overlap() {
    let mut world = World::default();
    let base = world.layer("base", [("etc/subuid", file(""))]);
    let range = |name: &str, first: u32| [("etc/subuid", file(format!("{name}:{first}:65536\n")))];
    let one = world.layer("one", range("a", 100_000));
    let two = world.layer("two", range("b", 100_000));
    let same = world.layer("same", range("a", 300_000));
    let merged = world.merge(&[
        base.on(&[]),
        one.on(&[&base]),
        two.on(&[&base]),
        same.on(&[&base]),
    ]);
    assert_eq!(merged.conflicts, []);
    assert_eq!(
        world.tree(&merged).text("etc/subuid").unwrap(),
        "a:100000:65536\nb:165536:65536\n"
    );
    let moved = MergeNote::MovedRange {
        layer: two.id,
        path: crate::helper::path("etc/subuid"),
        name: "b".into(),
        from: 100_000,
        to: 165_536,
    };
    assert!(merged.notes.contains(&moved), "{:?}", merged.notes);
}

#[test]
fn garbage_names_file_and_layer() {
    let mut world = World::default();
    let base = base(&mut world);
    let one = app(&mut world, "one", (101, 102), vec![]);
    let bad = |world: &mut World, bytes: &[u8]| world.layer("bad", [("etc/passwd", file(bytes))]);
    let cases: [&[u8]; 4] = [
        b"\xff\xfe\0",
        b"root:x:0:0:root:/root:/bin/bash\nx:x:99999999999:0:::\n",
        &b"x".repeat(2 << 20),
        b"x:x:1:1:only:six\n",
    ];
    for bytes in cases {
        let bad = bad(&mut world, bytes);
        let error = world.try_merge(&[base.on(&[]), one.on(&[&base]), bad.on(&[&base])]);
        match error.unwrap_err() {
            MergeError::Malformed { path, layer, .. } => {
                assert_eq!((path, layer), (crate::helper::path("etc/passwd"), bad.id));
            }
            other => panic!("{other}"),
        }
    }
    let huge = bad(&mut world, &b"#\n".repeat(33 << 20));
    let error = world.try_merge(&[base.on(&[]), one.on(&[&base]), huge.on(&[&base])]);
    assert!(matches!(error, Err(MergeError::TooLarge { layer, .. }) if layer == huge.id));
}

#[test]
fn a_template_that_was_made_on_itself_is_an_error() {
    let mut world = World::default();
    let base = base(&mut world);
    let one = app(&mut world, "one", (101, 102), vec![]);
    let two = app(
        &mut world,
        "two",
        (101, 102),
        vec![("etc/shells".into(), gone())],
    );
    let stack = [base.on(&[]), one.on(&[&two]), two.on(&[&one])];
    assert!(matches!(
        world.try_merge(&stack),
        Err(MergeError::Cycle { .. })
    ));
}
