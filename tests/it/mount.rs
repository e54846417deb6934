//! Templates mounted by FUSE: the tree is the one that was pushed, the disk the one that is exported.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{
    Background, LoopMount, Random, Registry, Shale, build_nasty_tree, compare_trees, need_root,
    run, tool,
};
use rustix::fs::SeekFrom as Place;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::export::{check_file_system, push_and_export};

const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 5;

/// A directory with `shale mount` on it; unmounted when dropped, whatever became of the server.
pub(crate) struct Mounted {
    server: Option<Background>,
    pub(crate) point: PathBuf,
}

impl Mounted {
    pub(crate) fn new(shale: &Shale, reference: &str, args: &[&str]) -> Result<Self> {
        let point = shale.home().join("mnt");
        fs::create_dir_all(&point)?;
        let mut command = shale.command();
        command.args(["mount", "--foreground", reference]);
        command.arg(&point).args(args);
        let server = Background::start_until(&mut command, "serving")?;
        Ok(Self {
            server: Some(server),
            point,
        })
    }

    fn server(&mut self) -> Result<Background> {
        self.server.take().context("it was ended before")
    }

    /// Asks it to end, which unmounts.
    pub(crate) fn end(mut self) -> Result<()> {
        self.server()?.terminate()?;
        ensure!(!is_mounted(&self.point)?, "it is still mounted");
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.server.take());
        if is_mounted(&self.point).unwrap_or(true) {
            let _ = Command::new("umount").arg("-l").arg(&self.point).output();
        }
    }
}

fn is_mounted(point: &Path) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let point = point.to_str().context("a path that is text")?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(point)))
}

/// Exit code and messages of a command that is to fail.
fn failure(command: &mut Command) -> Result<(Option<i32>, String)> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), said))
}

fn push(shale: &Shale, source: &Path, name: &str) -> Result<String> {
    let args = ["push", "--quiet", "--format", "json"];
    run(shale.command().args(args).arg(source).arg(name))
}

#[test]
fn privileged_a_mounted_tree_is_the_pushed_tree() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    let source = tempfile::tempdir_in("/var/tmp")?;
    build_nasty_tree(source.path(), 2000)?;
    // Run, it is read through a map of its pages.
    fs::copy("/bin/true", source.path().join("program"))?;
    let pushed = push(&shale, source.path(), "test/tree")?;
    let mounted = Mounted::new(&shale, "test/tree", &[])?;
    compare_trees(source.path(), &mounted.point)?;
    run(&mut Command::new(mounted.point.join("program")))?;
    compare_holes(source.path(), &mounted.point)?;
    let refused = File::create(mounted.point.join("new"));
    ensure!(refused.is_err_and(|e| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem));
    // All of it again, by whoever walks trees and reads attributes: the same bytes make the same layer.
    assert_eq!(push(&shale, &mounted.point, "test/again")?, pushed);
    mounted.end()
}

#[test]
fn privileged_a_hundred_thousand_names_are_listed_and_found() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    let source = tempfile::tempdir_in("/var/tmp")?;
    let name = |n: u32| format!("name-{n}{}", "-".repeat(n as usize % 7));
    for n in 0..100_000 {
        // Links, as making a file takes longer.
        std::os::unix::fs::symlink("target", source.path().join(name(n)))?;
    }
    push(&shale, source.path(), "test/tree")?;
    let mounted = Mounted::new(&shale, "test/tree", &[])?;
    // Once from the server and once from what the kernel kept.
    for _ in 0..2 {
        let mut seen = vec![false; 100_000];
        for entry in fs::read_dir(&mounted.point)? {
            let entry = entry?;
            ensure!(entry.file_type()?.is_symlink());
            let text = entry.file_name().into_string().unwrap_or_default();
            let n = text
                .trim_start_matches("name-")
                .trim_end_matches('-')
                .parse::<usize>()?;
            ensure!(!std::mem::replace(&mut seen[n], true), "{text} comes twice");
        }
        ensure!(seen.iter().all(|seen| *seen), "a name is missing");
    }
    for n in (0..100_000).step_by(1001) {
        assert_eq!(
            fs::read_link(mounted.point.join(name(n)))?,
            Path::new("target")
        );
    }
    ensure!(fs::symlink_metadata(mounted.point.join("name-0-")).is_err());
    mounted.end()
}

/// Every file has its data where the source has it; holes of less than 64 KiB are not kept.
fn compare_holes(source: &Path, mounted: &Path) -> Result<()> {
    for entry in fs::read_dir(source.join("sparse"))? {
        let name = entry?.file_name();
        let (source, mounted) = (
            source.join("sparse").join(&name),
            mounted.join("sparse").join(&name),
        );
        let file = File::open(&mounted)?;
        let (mut at, size) = (0, file.metadata()?.len());
        let mut data = 0;
        while let Ok(start) = rustix::fs::seek(&file, Place::Data(at)) {
            let end = rustix::fs::seek(&file, Place::Hole(start))?;
            ensure!(start >= at && end > start && end <= size, "{name:?}");
            data += end - start;
            at = end;
        }
        ensure!(data < 400_000, "{name:?} has {data} bytes of data");
        let (left, right) = (source.metadata()?, mounted.metadata()?);
        ensure!(
            left.blocks().abs_diff(right.blocks()) < 800,
            "{name:?}: {right:?}"
        );
    }
    Ok(())
}

#[test]
fn privileged_users_see_what_their_rights_allow() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    fs::set_permissions(shale.home(), fs::Permissions::from_mode(0o755))?;
    let source = tempfile::tempdir()?;
    fs::set_permissions(source.path(), fs::Permissions::from_mode(0o755))?;
    for (name, mode) in [("open", 0o644), ("closed", 0o600), ("listed", 0o600)] {
        let path = source.path().join(name);
        fs::write(&path, name)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    run(tool("setfacl")?
        .args(["-m", "u:nobody:r"])
        .arg(source.path().join("listed")))?;
    push(&shale, source.path(), "test/tree")?;
    let mounted = Mounted::new(&shale, "test/tree", &[])?;
    let cat = |name: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--clear-groups", "cat"]);
        run(command.arg(mounted.point.join(name)))
    };
    assert_eq!(
        (cat("open")?, cat("listed")?),
        ("open".into(), "listed".into())
    );
    ensure!(cat("closed").is_err());
    mounted.end()
}

/// A host with a template `test/tree` that has one file.
fn with_one_file() -> Result<Shale> {
    let shale = Shale::new()?;
    let source = tempfile::tempdir()?;
    fs::write(source.path().join("file"), "content")?;
    push(&shale, source.path(), "test/tree")?;
    Ok(shale)
}

#[test]
fn privileged_a_mount_whose_server_was_killed_is_told_and_taken_away() -> Result<()> {
    need_root()?;
    let shale = with_one_file()?;
    let mut mounted = Mounted::new(&shale, "test/tree", &[])?;
    mounted.server()?.kill()?;
    // What the kernel has kept is still to be seen.
    fs::metadata(&mounted.point)?;
    ensure!(rustix::fs::statfs(&mounted.point).is_err_and(|e| e == Errno::NOTCONN));
    let again = failure(
        shale
            .command()
            .args(["mount", "test/tree"])
            .arg(&mounted.point),
    )?;
    ensure!(
        again.0 == Some(CONFLICT) && again.1.contains("shale umount"),
        "{again:?}"
    );
    run(shale.command().arg("umount").arg(&mounted.point))?;
    ensure!(!is_mounted(&mounted.point)?);
    let again = failure(shale.command().arg("umount").arg(&mounted.point))?;
    ensure!(
        again.0 == Some(NOT_FOUND) && again.1.contains("not a mount"),
        "{again:?}"
    );
    let mounted = Mounted::new(&shale, "test/tree", &[])?;
    assert_eq!(fs::read(mounted.point.join("file"))?, b"content");
    mounted.end()
}

#[test]
fn privileged_a_mount_in_use_stays_unless_it_is_told_to_go() -> Result<()> {
    need_root()?;
    let shale = with_one_file()?;
    let mut mounted = Mounted::new(&shale, "test/tree", &[])?;
    let mut file = File::open(mounted.point.join("file"))?;
    let umount = |args: &[&str]| {
        let mut command = shale.command();
        command.arg("umount").arg(&mounted.point).args(args);
        command
    };
    let busy = failure(&mut umount(&[]))?;
    ensure!(
        busy.0 == Some(CONFLICT) && busy.1.contains("--lazy"),
        "{busy:?}"
    );
    run(&mut umount(&["--lazy"]))?;
    ensure!(!is_mounted(&mounted.point)?);
    // Served until its last user ends.
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    assert_eq!(text, "content");
    drop(file);
    let begun = Instant::now();
    let server = mounted.server()?;
    while Path::new(&format!("/proc/{}/exe", server.id())).exists() {
        ensure!(
            begun.elapsed() < Duration::from_secs(5),
            "the server does not end"
        );
        std::thread::sleep(Duration::from_millis(10));
    }

    // Asked to end, it does not wait for whoever uses it.
    let mut mounted = Mounted::new(&shale, "test/tree", &[])?;
    let file = File::open(mounted.point.join("file"))?;
    mounted.server()?.terminate()?;
    ensure!(!is_mounted(&mounted.point)?);
    ensure!(file.read_at(&mut [0; 9], 0).is_err());
    Ok(())
}

#[test]
fn privileged_the_disk_as_a_file_is_the_exported_disk() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    let source = tempfile::tempdir_in("/var/tmp")?;
    build_nasty_tree(source.path(), 100)?;
    let exported = push_and_export(&shale, source.path())?;
    let mounted = Mounted::new(&shale, "test/tree", &["--disk"])?;
    let disk = mounted.point.join("disk.raw");
    same_bytes(&exported, &disk)?;
    // Holes are found: the copy is sparse, and the same.
    let copy = shale.home().join("copy.raw");
    run(tool("cp")?.arg("--sparse=auto").args([&disk, &copy]))?;
    same_bytes(&exported, &copy)?;
    let (size, taken) = (copy.metadata()?.len(), copy.metadata()?.blocks() * 512);
    ensure!(taken < size / 4, "{taken} of {size} bytes");
    let mut file = File::open(&disk)?;
    file.seek(SeekFrom::Start(size - 3))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    assert_eq!(end.len(), 3);
    assert_eq!(file.read_at(&mut [0; 9], size + 5)?, 0);
    let refused = OpenOptions::new().write(true).open(&disk);
    ensure!(refused.is_err_and(|e| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem));
    mounted.end()
}

#[test]
fn privileged_what_is_written_to_the_disk_is_there() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    let source = tempfile::tempdir()?;
    let mut random = Random::printed("written disk");
    for n in 0..20 {
        let len = 1 + random.below(300_000) as usize;
        fs::write(source.path().join(format!("file-{n}")), random.bytes(len))?;
    }
    push(&shale, source.path(), "test/tree")?;
    let args = ["--disk", "--overlay", "overlay", "--disk-size", "3G"];
    let mounted = Mounted::new(&shale, "test/tree", &args)?;
    let disk = mounted.point.join("disk.raw");
    assert_eq!(disk.metadata()?.len(), 3 << 30);
    // A file system that a kernel writes to, over a loop device that trims.
    let inner = LoopMount::new(&disk, "rw")?;
    for n in 0..5 {
        let len = 1 + random.below(2_000_000) as usize;
        fs::write(inner.path().join(format!("new-{n}")), random.bytes(len))?;
    }
    fs::remove_file(inner.path().join("new-3"))?;
    run(Command::new("fstrim").arg(inner.path()))?;
    inner.unmount()?;
    check_file_system(&disk)?;
    edges_of_the_disk(&disk)?;
    // Many at once, each of them checked; at 2.5 GiB, which the file system does not use.
    let log = run(tool("fio")?
        .args([
            "--name=verify",
            "--ioengine=libaio",
            "--iodepth=16",
            "--direct=1",
        ])
        .args([
            "--rw=randwrite",
            "--bsrange=512-256k",
            "--blockalign=512",
            "--size=24m",
        ])
        .args([
            "--offset=2560m",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--allow_file_create=0",
        ])
        .arg(format!("--filename={}", disk.display())))?;
    ensure!(log.contains("err= 0"), "{log}");
    let copy = shale.home().join("copy.raw");
    run(tool("cp")?.args([&disk, &copy]))?;
    mounted.end()?;
    // Found again by the next mount.
    let mounted = Mounted::new(&shale, "test/tree", &args[..3])?;
    same_bytes(&disk, &copy)?;
    mounted.end()
}

/// Fails where two files of one length differ. What is a hole in both is not read.
fn same_bytes(left: &Path, right: &Path) -> Result<()> {
    let (a, b) = (File::open(left)?, File::open(right)?);
    let size = a.metadata()?.len();
    ensure!(b.metadata()?.len() == size, "they differ in length");
    let next = |file: &File, at| match rustix::fs::seek(file, Place::Data(at)) {
        Err(Errno::NXIO) => Ok(size),
        found => found,
    };
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        at = next(&a, at)?.min(next(&b, at)?);
        if at >= size {
            return Ok(());
        }
        let len = (size - at).min(1 << 20) as usize;
        a.read_exact_at(&mut one[..len], at)?;
        b.read_exact_at(&mut other[..len], at)?;
        ensure!(one[..len] == other[..len], "they differ after byte {at}");
        at += len as u64;
    }
}

/// What is not a plain read or write, at the end of the disk and over it.
fn edges_of_the_disk(disk: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(disk)?;
    let size = file.metadata()?.len();
    file.write_all_at(&[7; 8192], size - 8192)?;
    assert_eq!(file.write_at(&[9; 100], size - 10)?, 10);
    let full = file.write_at(&[9; 100], size);
    ensure!(full.is_err_and(|e| e.kind() == std::io::ErrorKind::StorageFull));
    use rustix::fs::{FallocateFlags, fallocate};
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, size - 4096, 8192)?;
    fallocate(&file, FallocateFlags::ZERO_RANGE, size - 8000, 100)?;
    ensure!(fallocate(&file, FallocateFlags::ZERO_RANGE, size - 8, 100).is_err());
    ensure!(fallocate(&file, FallocateFlags::empty(), 0, 4096).is_err());
    let mut end = [0; 8192];
    file.read_exact_at(&mut end, size - 8192)?;
    let expected = |at: usize| {
        if at < 192 || (292..4096).contains(&at) {
            7
        } else {
            0
        }
    };
    ensure!(
        end.iter()
            .enumerate()
            .all(|(at, byte)| *byte == expected(at))
    );
    file.set_len(size)?;
    ensure!(file.set_len(size + 1).is_err() && file.set_len(0).is_err());
    file.sync_all()?;
    assert_eq!(file.metadata()?.len(), size);
    Ok(())
}

#[test]
fn privileged_a_reader_can_be_killed_while_the_registry_is_down() -> Result<()> {
    need_root()?;
    let (home, author, host) = (Shale::new()?, Shale::new()?, Shale::new()?);
    let registry = Registry::start(&home, 0)?;
    let source = tempfile::tempdir()?;
    let content = Random::printed("stalled reader").bytes(700_000);
    fs::write(source.path().join("file"), &content)?;
    let reference = registry.name("test/tree:1");
    push(&author, source.path(), &reference)?;
    let mounted = Mounted::new(&host, &reference, &[])?;
    let port = registry.port()?;
    registry.server.kill()?;
    let file = mounted.point.join("file");
    // Each reads in another way: ahead, and past the cache.
    for direct in [false, true] {
        let mut command = Command::new("dd");
        command.arg(format!("if={}", file.display())).args([
            "of=/dev/null",
            "bs=64k",
            "status=none",
        ]);
        command.args(direct.then_some("iflag=direct"));
        let reader = Background::start(command.stderr(Stdio::null()))?;
        std::thread::sleep(Duration::from_millis(300));
        // A signal that does not end a program does not end its read.
        reader.signal(Signal::CONT)?;
        std::thread::sleep(Duration::from_millis(200));
        let begun = Instant::now();
        let status = reader.end_by(Signal::TERM)?;
        ensure!(!status.success(), "it waits for the registry");
        ensure!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
    let _registry = Registry::start(&home, port)?;
    ensure!(fs::read(&file)? == content);
    mounted.end()
}
