//! Directories as sources.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use shale_ingest::{DirSource, FileBytes, PushError, Source, SourceError, Visitor};
use shale_model::*;

use crate::sink::{layer_of, push, text};
use crate::trees::{noise, run, set_times, socket, sparse, touch, varied, xattrs};

fn source(path: &Path) -> DirSource {
    DirSource::open(path).unwrap()
}

/// Compares a pushed layer with what the system says about the directory, name by name.
fn check_equal(root: &Path) {
    let (sink, pushed) = push(&mut source(root)).unwrap();
    let layer = sink.layer(&pushed.root);
    let mut found = 0;
    let mut inodes = HashMap::new();
    for (dir, entry) in layer.entries() {
        found += 1;
        let path = dir.join(&entry.name).unwrap();
        let real = root.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let meta = fs::symlink_metadata(&real).unwrap();
        if let Kind::HardLink(target) = &entry.kind {
            assert_eq!(inodes.get(target), Some(&meta.ino()), "{path}");
            continue;
        }
        inodes.insert(path.clone(), meta.ino());
        let attrs = &entry.attrs;
        assert_eq!(u32::from(attrs.mode), meta.mode() & 0o7777, "{path}");
        assert_eq!((attrs.uid, attrs.gid), (meta.uid(), meta.gid()), "{path}");
        let time = (attrs.mtime.seconds, i64::from(attrs.mtime.nanos));
        assert_eq!(time, (meta.mtime(), meta.mtime_nsec()), "{path}");
        check_xattrs(&real, &attrs.xattrs);
        let file_type = meta.file_type();
        match &entry.kind {
            Kind::File(content) => {
                assert!(sink.bytes(content) == fs::read(&real).unwrap(), "{path}")
            }
            Kind::Directory => assert!(file_type.is_dir(), "{path}"),
            Kind::Symlink(target) => {
                assert_eq!(
                    **target,
                    *fs::read_link(&real).unwrap().as_os_str().as_bytes()
                );
            }
            Kind::Fifo => assert!(file_type.is_fifo(), "{path}"),
            Kind::Socket => assert!(file_type.is_socket(), "{path}"),
            Kind::CharDevice(rdev) | Kind::BlockDevice(rdev) => {
                let device = rustix::fs::makedev(rdev.major, rdev.minor);
                assert_eq!(device, meta.rdev(), "{path}");
                let is_char = matches!(entry.kind, Kind::CharDevice(_));
                assert_eq!(file_type.is_char_device(), is_char, "{path}");
            }
            other => panic!("{path} is {other:?}"),
        }
    }
    let names = Command::new("find")
        .arg(root)
        .args(["-mindepth", "1", "-printf", "x"])
        .output();
    assert_eq!(found, names.unwrap().stdout.len());
    let meta = fs::metadata(root).unwrap();
    let described = pushed.root.root.unwrap();
    assert_eq!(u32::from(described.attrs.mode), meta.mode() & 0o7777);
    assert!(!described.opaque);
}

/// `getfattr` does not follow `-h`, and tells values in hexadecimal.
fn check_xattrs(path: &Path, xattrs: &Xattrs) {
    if xattrs.is_empty() {
        return;
    }
    let mut command = Command::new("getfattr");
    command
        .args(["-h", "-d", "-m", "-", "-e", "hex", "--absolute-names"])
        .arg(path);
    let output = command.output().expect("install attr");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    for (name, value) in xattrs.iter() {
        let hex: String = value.iter().map(|b| format!("{b:02x}")).collect();
        // getfattr escapes `=` in names.
        let name = String::from_utf8_lossy(name).replace('=', "\\075");
        assert!(
            told.contains(&format!("{name}=0x{hex}")),
            "{name} not in {told}"
        );
    }
}

#[test]
fn a_tree_arrives_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    varied(root.path());
    xattrs(root.path());
    socket(root.path());
    set_times(root.path(), 123_456_789);
    check_equal(root.path());
    let layer = layer_of(&mut source(root.path()));
    let links = layer
        .entries()
        .filter(|(_, e)| matches!(e.kind, Kind::HardLink(_)));
    assert_eq!(links.count(), 2);
    let with_xattrs = layer.entries().filter(|(_, e)| !e.attrs.xattrs.is_empty());
    assert_eq!(
        with_xattrs
            .map(|(_, e)| e.attrs.xattrs.iter().len())
            .sum::<usize>(),
        2
    );
}

#[test]
fn privileged_devices_owners_capabilities_and_acls_arrive() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let mknod = |name: &str, kind: &[&str]| {
        run(
            "coreutils",
            Command::new("mknod").arg(path(name)).args(kind),
        );
    };
    mknod("null", &["c", "1", "3"]);
    mknod("large", &["b", "4095", "1048575"]);
    File::create(path("capable")).unwrap();
    run(
        "libcap2-bin",
        Command::new("setcap")
            .arg("cap_net_raw+ep")
            .arg(path("capable")),
    );
    fs::create_dir(path("acl")).unwrap();
    run(
        "acl",
        Command::new("setfacl")
            .args(["-m", "u:1234:rwx,d:g:77:r"])
            .arg(path("acl")),
    );
    run(
        "acl",
        Command::new("setfacl")
            .args(["-m", "u:1234:r"])
            .arg(path("null")),
    );
    run(
        "attr",
        Command::new("setfattr")
            .args(["-n", "trusted.overlay.opaque", "-v", "y"])
            .arg(path("acl")),
    );
    std::os::unix::fs::lchown(path("capable"), Some(4_000_000_000), Some(5)).unwrap();
    // Changing the owner took the capabilities.
    run(
        "libcap2-bin",
        Command::new("setcap")
            .arg("cap_net_raw+ep")
            .arg(path("capable")),
    );
    symlink("nowhere", path("link")).unwrap();
    run(
        "attr",
        Command::new("setfattr")
            .args(["-h", "-n", "trusted.on-link", "-v", "y"])
            .arg(path("link")),
    );
    check_equal(root.path());
    let layer = layer_of(&mut source(root.path()));
    let names: Vec<_> = layer
        .entries()
        .flat_map(|(_, e)| {
            e.attrs
                .xattrs
                .iter()
                .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        })
        .collect();
    let expected = [
        "system.posix_acl_access",
        "system.posix_acl_default",
        "security.capability",
        "trusted.on-link",
        "system.posix_acl_access",
    ];
    assert_eq!(names, expected);
}

#[test]
fn holes_and_zeros_are_one_content() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    sparse(&a, 3 << 20);
    fs::write(&b, fs::read(&a).unwrap()).unwrap();
    assert!(fs::metadata(&a).unwrap().blocks() < fs::metadata(&b).unwrap().blocks());
    let layer = layer_of(&mut source(root.path()));
    let [a, b] = &layer.dirs[0].entries[..] else {
        panic!("two files");
    };
    assert_eq!(a.kind, b.kind);
    let Kind::File(content) = &a.kind else {
        panic!("a file");
    };
    let holes = content
        .extents()
        .iter()
        .filter(|e| matches!(e, Extent::Hole { .. }));
    assert_eq!(holes.count(), 3);
}

#[test]
fn a_large_sparse_file_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    sparse(&root.path().join("disk"), 9 << 30);
    let begun = Instant::now();
    let (_, pushed) = push(&mut source(root.path())).unwrap();
    assert_eq!(pushed.root.totals.bytes, 9 << 30);
    // Reading nine gigabytes of zeros takes longer.
    assert!(begun.elapsed().as_millis() < 900, "{:?}", begun.elapsed());
}

#[test]
fn a_hundred_thousand_names_in_one_directory() {
    let root = tempfile::tempdir().unwrap();
    for number in 0..100_000 {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join(format!("{number:x}")),
            rustix::fs::FileType::RegularFile,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
    }
    let layer = layer_of(&mut source(root.path()));
    assert_eq!(layer.dirs[0].entries.len(), 100_000);
}

/// A source that does something after the content of a file was read.
struct Meddle<'a, F> {
    inner: DirSource,
    then: &'a mut F,
}

struct MeddleVisitor<'a, F> {
    inner: &'a mut dyn Visitor,
    then: &'a mut F,
}

impl<F: FnMut(&TreePath)> Source for Meddle<'_, F> {
    fn visit(&mut self, visitor: &mut dyn Visitor) -> Result<(), PushError> {
        let (inner, then) = (visitor, &mut *self.then);
        self.inner.visit(&mut MeddleVisitor { inner, then })
    }
}

impl<F: FnMut(&TreePath)> Visitor for MeddleVisitor<'_, F> {
    fn root(&mut self, root: RootEntry) -> Result<(), PushError> {
        self.inner.root(root)
    }

    fn content(
        &mut self,
        path: &TreePath,
        bytes: &mut dyn FileBytes,
    ) -> Result<Content, PushError> {
        let content = self.inner.content(path, bytes)?;
        (self.then)(path);
        Ok(content)
    }

    fn entry(&mut self, dir: &TreePath, entry: Entry) -> Result<(), PushError> {
        self.inner.entry(dir, entry)
    }
}

/// Pushes `a`, `b` and `dir/c` while `meddle` is called after `a` was read; the error.
fn meddled(meddle: impl Fn(&Path)) -> (PathBuf, PushError) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    fs::write(path.join("a"), noise(1, 50_000)).unwrap();
    fs::write(path.join("b"), b"b").unwrap();
    fs::create_dir(path.join("dir")).unwrap();
    fs::write(path.join("dir/c"), b"c").unwrap();
    let mut then = |read: &TreePath| {
        if read.as_bytes() == b"a" {
            meddle(path);
        }
    };
    let inner = source(path);
    let then = &mut then;
    let error = push(&mut Meddle { inner, then })
        .map(drop)
        .expect_err("an error");
    (path.to_path_buf(), error)
}

#[test]
fn changes_while_reading_are_errors_that_name_the_file() {
    type Case = (fn(&Path), &'static str, &'static str);
    let cases: [Case; 5] = [
        (
            |p| fs::write(p.join("a"), b"shorter").unwrap(),
            "a",
            "changed",
        ),
        (|p| touch(&p.join("a")), "a", "changed"),
        (|p| fs::remove_file(p.join("b")).unwrap(), "b", "vanished"),
        (
            |p| {
                fs::rename(p.join("dir"), p.join("moved")).unwrap();
                symlink("/etc", p.join("dir")).unwrap();
            },
            "",
            "changed",
        ),
        (|p| fs::write(p.join("new"), b"").unwrap(), "", "changed"),
    ];
    for (number, (meddle, name, problem)) in cases.into_iter().enumerate() {
        let (root, error) = meddled(meddle);
        let message = text(&error);
        let path = root.join(name).display().to_string();
        assert!(
            message.contains(&path) && message.contains(problem),
            "{number}: {message}"
        );
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    fs::write(root.path().join("secret"), b"x").unwrap();
    fs::set_permissions(root.path().join("secret"), Permissions::from_mode(0o0)).unwrap();
    let error = std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                // Of this thread alone: root may read everything.
                let nobody = rustix::fs::Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            push(&mut source(root.path())).err()
        });
        pushing.join().unwrap().expect("an error")
    });
    let message = text(&error);
    assert!(message.contains("secret: Permission denied"), "{message}");
}

#[test]
fn what_is_no_directory_is_not_opened() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = DirSource::open(file.path())
        .map(drop)
        .expect_err("an error");
    assert!(matches!(error, SourceError::Io { action: "open", .. }));
}
