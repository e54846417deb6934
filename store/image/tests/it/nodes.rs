//! Attributes of inodes at their limits, and errors that name what is beyond.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use shale_image::{LayoutError, NodeProblem, lay_out};
use shale_model::{
    Attrs, Content, Extent, Filesystem, Kind, Mtime, Rdev, TreeLayer, TreePath, compose,
};
use tempfile::TempDir;

use crate::mount::{Mount, compare};
use crate::support::{
    LayerBuilder, PROFILES, Store, acl, attrs, check, options, plan, write_disk, xattrs,
};

fn with_xattrs(pairs: &[(&[u8], &[u8])]) -> Attrs {
    Attrs {
        xattrs: xattrs(pairs),
        ..attrs(0o755)
    }
}

fn at(seconds: i64, nanos: u32) -> Attrs {
    Attrs {
        mtime: Mtime { seconds, nanos },
        ..attrs(0o644)
    }
}

/// Lays out and checks under both profiles, then compares what the kernel sees.
fn round_trip(layers: &[TreeLayer], store: &Store) {
    let temp = TempDir::new().unwrap();
    for filesystem in PROFILES {
        let disk = temp.path().join("disk");
        let (tree, parts) = plan(layers, filesystem, 0);
        write_disk(&parts, store, &disk);
        check(&disk);
        for options in ["ro", "rw"] {
            let mount = Mount::new(&disk, options);
            compare(&tree, store, mount.path());
            mount.close();
        }
        check(&disk);
    }
}

#[test]
fn privileged_extended_attributes_of_any_size_on_any_kind() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    let kinds = [
        ("file", store.file(b"content")),
        ("dir", Kind::Directory),
        ("fast", Kind::symlink(b"target").unwrap()),
        ("slow", Kind::symlink(&[b'x'; 60]).unwrap()),
        ("char", Kind::CharDevice(Rdev { major: 1, minor: 3 })),
        (
            "block",
            Kind::BlockDevice(Rdev {
                major: 259,
                minor: 70_000,
            }),
        ),
        ("fifo", Kind::Fifo),
        ("socket", Kind::Socket),
    ];
    for (name, kind) in kinds {
        for len in [0, 1, 3, 4, 56, 60, 61, 64, 68, 100, 1000, 3000, 4000] {
            let value = vec![len as u8; len];
            let pairs: [(&[u8], &[u8]); 3] = [
                (b"security.selinux", b"system_u:object_r:bin_t:s0\0"),
                (b"trusted.empty", b""),
                (b"trusted.large", &value),
            ];
            let path = format!("{name}-{len}");
            layer.add(path.as_bytes(), kind.clone(), with_xattrs(&pairs));
        }
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let many: Vec<(Vec<u8>, Vec<u8>)> = (0..90)
        .map(|at| (format!("user.n{at}").into_bytes(), vec![at; 17]))
        .collect();
    let many: Vec<(&[u8], &[u8])> = many.iter().map(|(n, v)| (&n[..], &v[..])).collect();
    let ping = store.file(b"ping");
    layer
        .add(
            b"ping",
            ping.clone(),
            with_xattrs(&[(b"security.capability", &capability)]),
        )
        .add(b"many", ping.clone(), with_xattrs(&many))
        .add(
            b"odd",
            ping,
            with_xattrs(&[(b"user.\xff\xfe\x80", &[0xFF; 200])]),
        );
    round_trip(&[layer.build()], &store);
}

#[test]
fn privileged_acls_read_back_as_they_were() {
    let mut store = Store::default();
    let none = u32::MAX;
    let plain = [(1, 7, none), (4, 5, none), (0x20, 5, none)];
    let named = [
        (1, 7, none),
        (2, 6, 1000),
        (2, 4, 4_000_000_000),
        (4, 5, none),
        (8, 5, 50),
        (0x10, 7, none),
        (0x20, 5, none),
    ];
    let mut layer = LayerBuilder::default();
    let file = store.file(b"content");
    let mut mode = with_xattrs(&[(b"system.posix_acl_access", &acl(&named))]);
    mode.mode = 0o775;
    layer
        .add(b"file", file, mode)
        .add(
            b"dir",
            Kind::Directory,
            with_xattrs(&[
                (b"system.posix_acl_default", &acl(&named)),
                (b"user.more", &[1; 70]),
            ]),
        )
        .add(
            b"plain",
            Kind::Directory,
            with_xattrs(&[(b"system.posix_acl_default", &acl(&plain))]),
        );
    round_trip(&[layer.build()], &store);
}

#[test]
fn privileged_times_owners_and_devices_at_their_limits() {
    let mut layer = LayerBuilder::default();
    let nanos = 999_999_999;
    let seconds = [
        -(1 << 31),
        -1,
        0,
        (1 << 31) - 1,
        1 << 31,
        (1 << 32) - 1,
        1 << 32,
        10_737_418_239,
    ];
    for (index, seconds) in seconds.into_iter().enumerate() {
        let path = format!("time-{index}");
        layer.add(path.as_bytes(), Kind::Fifo, at(seconds, nanos));
    }
    let devices = [
        (0, 0),
        (0, 1),
        (255, 255),
        (256, 0),
        (0, 256),
        (4095, 0xF_FFFF),
    ];
    for (index, (major, minor)) in devices.into_iter().enumerate() {
        let rdev = Rdev { major, minor };
        let path = format!("device-{index}");
        layer.add(path.as_bytes(), Kind::CharDevice(rdev), attrs(0o7777));
    }
    let mut owned = attrs(0);
    (owned.uid, owned.gid) = (u32::MAX - 1, 65_536);
    layer.root(owned.clone()).add(b"owned", Kind::Socket, owned);
    for len in [1, 58, 59, 60, 61, 4095] {
        let target = Kind::symlink(&vec![b't'; len]).unwrap();
        layer.add(format!("link-{len}").as_bytes(), target, attrs(0o777));
    }
    round_trip(&[layer.build()], &Store::default());
}

#[test]
fn privileged_as_many_names_and_subdirectories_as_ext4_has() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    let file = store.file(b"once");
    layer
        .dir("links")
        .dir("many")
        .add(b"first", file, attrs(0o644));
    let target = TreePath::new(b"first").unwrap();
    for at in 0..64_999 {
        let link = Kind::HardLink(target.clone());
        layer.add(format!("links/{at}").as_bytes(), link, attrs(0));
    }
    for at in 0..64_997 {
        layer.dir(&format!("many/{at}"));
    }
    let temp = TempDir::new().unwrap();
    let disk = temp.path().join("disk");
    for (more, links) in [("one", 65_000), ("two", 1)] {
        layer.dir(&format!("many/{more}"));
        let (_, parts) = plan(&[layer.build()], Filesystem::Ext4V1, 0);
        write_disk(&parts, &store, &disk);
        check(&disk);
        let mount = Mount::new(&disk, "ro");
        let links_of = |name| fs::metadata(mount.path().join(name)).unwrap().nlink();
        assert_eq!(links_of("first"), 65_000);
        assert_eq!(links_of("many"), links);
        mount.close();
    }
    layer.add(b"more", Kind::HardLink(target), attrs(0));
    let problem = refused(&layer);
    assert_eq!(problem.1, NodeProblem::Links(65_001));
}

#[test]
fn privileged_a_tree_may_have_its_own_lost_found() {
    let mut store = Store::default();
    let mut base = LayerBuilder::default();
    base.dir("lost+found");
    let file = store.file(b"found");
    let mut upper = LayerBuilder::default();
    upper.add(b"lost+found/#12", file, attrs(0o600));
    let mut gone = LayerBuilder::default();
    gone.add(b"lost+found", Kind::Whiteout, attrs(0));
    let layers = [base.build(), upper.build(), gone.build()];
    for count in 1..=3 {
        round_trip(&layers[..count], &store);
    }
}

/// The path and the problem that an error names.
fn refused(layer: &LayerBuilder) -> (String, NodeProblem) {
    let tree = compose(&[layer.build()]).unwrap();
    let result = lay_out(&tree, &options(Filesystem::Ext4V1, 0), &BTreeMap::new());
    match result {
        Err(LayoutError::Node { path, problem }) => (path.to_string(), problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_ext4_cannot_hold_is_refused_by_name() {
    let mut store = Store::default();
    let chunk = store.chunk(vec![1; 100]);
    let hole = |len| Extent::Hole { len };
    let file = |extents: &[Extent]| Kind::File(Content::new(extents.to_vec()).unwrap());
    let device = Kind::CharDevice(Rdev {
        major: 4096,
        minor: 0,
    });
    let (tib, far) = (1u64 << 40, 10_737_418_240);
    let none = u32::MAX;
    let short = acl(&[(1, 7, none)]);
    let cases: [(Kind, Attrs, NodeProblem); 9] = [
        (
            file(&[hole(16 * tib)]),
            attrs(0),
            NodeProblem::FileSize(16 * tib),
        ),
        (
            file(&[hole(100), chunk]),
            attrs(0),
            NodeProblem::HoleAlignment,
        ),
        (
            Kind::Fifo,
            at(far, 5),
            NodeProblem::Time {
                seconds: far,
                nanos: 5,
            },
        ),
        (
            Kind::Fifo,
            at(0, 1_000_000_000),
            NodeProblem::Time {
                seconds: 0,
                nanos: 1_000_000_000,
            },
        ),
        (
            device,
            attrs(0),
            NodeProblem::Device {
                major: 4096,
                minor: 0,
            },
        ),
        (
            Kind::Fifo,
            with_xattrs(&[(b"user.large", &[0; 4041])]),
            NodeProblem::XattrSize(4104),
        ),
        (
            Kind::Fifo,
            with_xattrs(&[(b"system.data", b"1")]),
            NodeProblem::XattrName,
        ),
        (
            Kind::Fifo,
            with_xattrs(&[(b"user.", b"1")]),
            NodeProblem::XattrName,
        ),
        (
            Kind::Fifo,
            with_xattrs(&[(b"system.posix_acl_access", &short)]),
            NodeProblem::Acl,
        ),
    ];
    for (kind, attrs, problem) in cases {
        let mut layer = LayerBuilder::default();
        layer.dir("a").dir("a/b").add(b"a/b/\xc3c", kind, attrs);
        assert_eq!(refused(&layer), ("/a/b/\\xc3c".to_owned(), problem));
    }
    let mut layer = LayerBuilder::default();
    layer.add(b"lost+found", Kind::Fifo, attrs(0));
    assert_eq!(
        refused(&layer),
        ("/lost+found".to_owned(), NodeProblem::LostFound)
    );
}
