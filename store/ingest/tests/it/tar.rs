//! Archives as sources: an archive of a directory is the layer that the directory is.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use shale_ingest::{DirSource, TarSource};
use shale_model::*;

use crate::hostile_tar::{Archive, directory, file, link};
use crate::sink::{layer_of, push};
use crate::trees::{run, set_times, varied, xattrs};

/// Pushes `root` as a directory and as the archive that GNU tar makes with `options`.
fn check_same(root: &Path, options: &[&str]) {
    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("tree.tar");
    let mut tar = Command::new("tar");
    tar.arg("--create")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(root);
    run("tar", tar.args(options));
    let (_, of_dir) = push(&mut DirSource::open(root).unwrap()).unwrap();
    let (_, of_tar) = push(&mut TarSource::new(File::open(&archive).unwrap())).unwrap();
    assert_eq!(of_tar.layer, of_dir.layer, "{options:?}");
}

#[test]
fn each_format_of_gnu_tar_is_the_same_layer() {
    let root = tempfile::tempdir().unwrap();
    varied(root.path());
    set_times(root.path(), 0);
    check_same(root.path(), &["--format=gnu", "."]);
    check_same(root.path(), &["--format=gnu", "--sparse", "."]);
    check_same(root.path(), &["--format=pax", "--sort=name", "."]);
    check_same(root.path(), &["--format=pax", "--one-file-system", "./"]);
    set_times(root.path(), 123_456_789);
    xattrs(root.path());
    for version in ["0.0", "0.1", "1.0"] {
        let sparse = format!("--sparse-version={version}");
        let pax = ["--format=pax", "--xattrs", "--sparse", &sparse, "."];
        check_same(root.path(), &pax);
    }
}

#[test]
fn the_order_of_members_does_not_matter() {
    let root = tempfile::tempdir().unwrap();
    varied(root.path());
    // The hard links of this tree would change places.
    fs::remove_file(root.path().join("another")).unwrap();
    fs::remove_file(root.path().join("dir/sub/linked")).unwrap();
    set_times(root.path(), 0);
    let list = tempfile::NamedTempFile::new().unwrap();
    let found = Command::new("find")
        .args([".", "-print0"])
        .current_dir(root.path())
        .output();
    let mut names: Vec<_> = found
        .unwrap()
        .stdout
        .split_inclusive(|b| *b == 0)
        .map(<[u8]>::to_vec)
        .collect();
    names.reverse();
    fs::write(list.path(), names.concat()).unwrap();
    let from = format!("--files-from={}", list.path().display());
    check_same(
        root.path(),
        &["--format=gnu", "--no-recursion", "--null", &from],
    );
}

#[test]
fn privileged_acls_and_capabilities_arrive_by_text_and_by_attribute() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"x").unwrap();
    fs::create_dir(root.path().join("dir")).unwrap();
    // Ids that no machine has a name for: tar writes names where there are some.
    let acl = "u:1234321:rwx,g:4321234:r,u:99999:w,d:u:77777:rx";
    run(
        "acl",
        Command::new("setfacl")
            .args(["-m", "u:1234321:rw,g:4321234:r"])
            .arg(&file),
    );
    run(
        "acl",
        Command::new("setfacl")
            .args(["-m", acl])
            .arg(root.path().join("dir")),
    );
    run(
        "libcap2-bin",
        Command::new("setcap").arg("cap_net_raw+ep").arg(&file),
    );
    let caps = "--xattrs-include=security.capability";
    check_same(
        root.path(),
        &["--format=pax", "--acls", "--xattrs", caps, "."],
    );
    check_same(
        root.path(),
        &["--format=pax", "--xattrs", "--xattrs-include=*", "."],
    );
    run(
        "acl",
        Command::new("setfacl").args(["-m", "g:adm:r"]).arg(&file),
    );
    run(
        "libcap2-bin",
        Command::new("setcap").arg("cap_net_raw+ep").arg(&file),
    );
    check_same(root.path(), &["--format=pax", "--acls", "--xattrs", "."]);
}

fn entries(archive: &Archive) -> Vec<(String, Kind)> {
    let layer = layer_of(&mut TarSource::new(&archive.bytes()[..]));
    let told = |(dir, entry): (&TreePath, &Entry)| {
        let path = dir.join(&entry.name).unwrap();
        (path.to_string(), entry.kind.clone())
    };
    layer.entries().map(told).collect()
}

fn content(bytes: &[u8]) -> Kind {
    let (id, len) = (ChunkId::of(bytes), bytes.len() as u32);
    Kind::File(Content::new(vec![Extent::Chunk { id, len }]).unwrap())
}

fn linked(target: &str) -> Kind {
    Kind::HardLink(TreePath::new(target.as_bytes()).unwrap())
}

#[test]
fn whiteouts_of_oci_layers() {
    let archive = Archive::new(&[
        directory("a"),
        file("a/.wh.gone", b""),
        directory("b"),
        file("b/.wh..wh..opq", b""),
        file("b/new", b"1"),
        file(".wh.c", b""),
        directory("c"),
        file(".wh.d", b""),
        file("d", b"2"),
        file("not-described/.wh.x", b""),
    ]);
    let expected = [
        ("/a", Kind::Directory),
        ("/b", Kind::OpaqueDirectory),
        ("/c", Kind::OpaqueDirectory),
        ("/d", content(b"2")),
        ("/a/gone", Kind::Whiteout),
        ("/b/new", content(b"1")),
        ("/not-described/x", Kind::Whiteout),
    ];
    assert_eq!(
        entries(&archive),
        expected.map(|(path, kind)| (path.to_owned(), kind))
    );
}

#[test]
fn the_last_member_of_a_name_wins_and_links_keep_what_they_named() {
    let archive = Archive::new(&[
        file("a", b"old"),
        link("b", "a"),
        file("a", b"new"),
        link("c", "./a"),
        directory("x"),
        file("x/y", b"1"),
        directory("./x/"),
        file("z", b"was a file"),
        directory("z"),
        file("z/in", b"2"),
    ]);
    let expected = [
        ("/a", content(b"new")),
        ("/b", content(b"old")),
        ("/c", linked("a")),
        ("/x", Kind::Directory),
        ("/z", Kind::Directory),
        ("/x/y", content(b"1")),
        ("/z/in", content(b"2")),
    ];
    assert_eq!(
        entries(&archive),
        expected.map(|(path, kind)| (path.to_owned(), kind))
    );
}

#[test]
fn global_records_apply_until_a_member_says_otherwise() {
    let archive = Archive::new(&[
        crate::hostile_tar::pax(
            b'g',
            &[("comment", b"x"), ("uid", b"70000"), ("mtime", b"-1.5")],
        ),
        file("a", b""),
        crate::hostile_tar::pax(b'x', &[("uid", b"5")]),
        file("b", b""),
    ]);
    let layer = layer_of(&mut TarSource::new(&archive.bytes()[..]));
    let told = layer
        .entries()
        .map(|(_, e)| (e.attrs.uid, e.attrs.mtime.seconds, e.attrs.mtime.nanos));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [(70000, -2, 500_000_000), (5, -2, 500_000_000)]
    );
}
