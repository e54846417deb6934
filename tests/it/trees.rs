//! That the harness's comparison of trees sees what it must, and its mounts go away.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use anyhow::Result;
use harness::{LoopMount, build_nasty_tree, compare_trees, need_root, run, tool, tree_differences};

/// One change to a copied tree, and a part of what the comparison must say about it.
type Case = (&'static str, fn(&Path) -> Result<()>, &'static str);

const CASES: &[Case] = &[
    (
        "contents/text",
        |path| {
            let (mut bytes, time) = (fs::read(path)?, fs::metadata(path)?.modified()?);
            bytes[1_234_567] ^= 1;
            fs::write(path, bytes)?;
            Ok(fs::File::open(path)?.set_modified(time)?)
        },
        "/contents/text: content differs at byte 1234567",
    ),
    (
        "times/0.000000001",
        |path| Ok(fs::File::open(path)?.set_modified(std::time::UNIX_EPOCH)?),
        "/times/0.000000001: time is",
    ),
    (
        "owners/file-0-0-4755",
        |path| Ok(fs::set_permissions(path, PermissionsExt::from_mode(0o755))?),
        "/owners/file-0-0-4755: mode is",
    ),
    (
        "owners/symlink-1000-100",
        |path| Ok(lchown(path, Some(1000), Some(101))?),
        "/owners/symlink-1000-100: owner is",
    ),
    (
        "attributes/capabilities",
        |path| Ok(xattr::remove(path, "security.capability")?),
        "/attributes/capabilities: attribute security.capability is",
    ),
    (
        "attributes/default-acl",
        |path| run(tool("setfacl")?.arg("-k").arg(path)).map(drop),
        "/attributes/default-acl: attribute system.posix_acl_default is",
    ),
    (
        "attributes/fifo",
        |path| Ok(xattr::set(path, "trusted.more", b"")?),
        "/attributes/fifo: attribute trusted.more is None on the left",
    ),
    (
        "special/socket",
        |path| Ok(fs::remove_file(path)?),
        "/special/socket: missing on the right",
    ),
    (
        "names/more",
        |path| Ok(fs::write(path, "")?),
        "/names/more: only on the right",
    ),
    (
        "links/far/file",
        |path| {
            fs::remove_file(path)?;
            run(tool("cp")?
                .args(["-a"])
                .arg(path.with_file_name("../near/file"))
                .arg(path))
            .map(drop)
        },
        "/links/far/file: links is 3 on the left, 1 on the right",
    ),
    (
        "links/near/file-again",
        |path| {
            // The counts stay as they are; who is linked with whom changes.
            fs::remove_file(path)?;
            Ok(fs::hard_link(path.with_file_name("../far/symlink"), path)?)
        },
        "/links/near/file-again: kind is",
    ),
    (
        "links/dangling",
        |path| {
            fs::remove_file(path)?;
            Ok(std::os::unix::fs::symlink("anywhere", path)?)
        },
        "/links/dangling: target is \"nowhere\" on the left, \"anywhere\" on the right",
    ),
    (
        "sparse/beyond-4-gib",
        |path| {
            let file = fs::OpenOptions::new().write(true).open(path)?;
            Ok(std::os::unix::fs::FileExt::write_all_at(
                &file,
                b"!",
                3 << 30,
            )?)
        },
        "/sparse/beyond-4-gib: content differs at byte 3221225472",
    ),
];

#[test]
fn privileged_a_copy_is_equal_and_every_change_of_it_is_seen() -> Result<()> {
    need_root()?;
    let directory = tempfile::tempdir()?;
    let (left, right) = (
        directory.path().join("left"),
        directory.path().join("right"),
    );
    fs::create_dir(&left)?;
    build_nasty_tree(&left, 1000)?;
    run(tool("cp")?.arg("-a").arg(&left).arg(&right))?;
    compare_trees(&left, &right)?;

    for (path, change, _) in CASES {
        change(&right.join(path))?;
    }
    let report = tree_differences(&left, &right)?.join("\n");
    for (path, _, expected) in CASES {
        assert!(
            report.contains(expected),
            "{path}: {expected:?} is not in\n{report}"
        );
    }
    Ok(())
}

#[test]
fn privileged_a_loop_mount_goes_with_its_guard() -> Result<()> {
    need_root()?;
    let directory = tempfile::tempdir()?;
    let image = directory.path().join("image");
    run(tool("mke2fs")?
        .args(["-q", "-t", "ext4"])
        .arg(&image)
        .arg("16M"))?;

    let mount = LoopMount::new(&image, "rw")?;
    let path = mount.path();
    fs::write(path.join("file"), "kept")?;
    mount.unmount()?;
    run(tool("e2fsck")?.arg("-fn").arg(&image))?;

    let mount = LoopMount::new(&image, "ro")?;
    assert_eq!(fs::read_to_string(mount.path().join("file"))?, "kept");
    let (path, open) = (mount.path(), fs::File::open(mount.path().join("file"))?);
    drop(mount);
    assert!(!path.exists(), "a file open in it keeps {path:?} mounted");
    drop(open);
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    assert!(
        !mounts.contains(&*path.to_string_lossy()),
        "still mounted: {path:?}"
    );
    Ok(())
}
