//! From a directory to a disk: what is pushed is what a kernel finds on the exported disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{
    Disk, Input, LoopMount, Machine, Qemu, Shale, build_nasty_tree, need_root, run, tool,
};

/// Pushes `source` and exports it; the disk's file.
pub(crate) fn push_and_export(shale: &Shale, source: &Path) -> Result<PathBuf> {
    let disk = shale.home().join("disk.raw");
    run(shale.command().arg("push").arg(source).arg("test/tree"))?;
    run(shale.command().args(["export", "test/tree"]).arg(&disk))?;
    Ok(disk)
}

pub(crate) fn check_file_system(disk: &Path) -> Result<()> {
    run(tool("e2fsck")?.arg("-fn").arg(disk)).map(|_| ())
}

#[test]
fn privileged_an_exported_disk_holds_the_pushed_tree() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    let source = tempfile::tempdir_in("/var/tmp")?;
    build_nasty_tree(source.path(), 100_000)?;
    let disk = push_and_export(&shale, source.path())?;
    check_file_system(&disk)?;
    // Every ext4 has one, and the source does not.
    let found = |mount: &LoopMount| -> Result<()> {
        let differences = harness::tree_differences(source.path(), &mount.path())?;
        let other: Vec<_> = differences
            .iter()
            .filter(|d| !d.contains("lost+found"))
            .collect();
        ensure!(other.is_empty(), "{other:#?}");
        Ok(())
    };
    let mount = LoopMount::new(&disk, "ro")?;
    found(&mount)?;
    mount.unmount()?;

    let mount = LoopMount::new(&disk, "rw")?;
    for directory in fs::read_dir(mount.path())? {
        let directory = directory?.path();
        fs::write(directory.join("written by the kernel"), "more")?;
    }
    mount.unmount()?;
    check_file_system(&disk)?;
    Ok(())
}

#[test]
fn privileged_the_same_tree_as_directory_and_as_archive_is_the_same_layer() -> Result<()> {
    need_root()?;
    let base = Input::base()?;
    let shale = Shale::new()?;
    let push = |source: &Path, name: &str| -> Result<String> {
        let args = ["push", "--quiet", "--format", "json"];
        run(shale.command().args(args).arg(source).arg(name))
    };
    let from_directory = push(&base.tree(), "test/directory")?;
    let from_archive = push(&base.tar(), "test/archive")?;
    assert_eq!(from_directory, from_archive);
    Ok(())
}

#[test]
fn privileged_a_difference_on_its_base_is_the_tree() -> Result<()> {
    need_root()?;
    let shale = Shale::new()?;
    let (base, app) = (Input::base()?, Input::with_app(harness::App::Nginx)?);
    run(shale
        .command()
        .arg("push")
        .arg(base.tree())
        .arg("test/base"))?;
    let mut push = shale.command();
    run(push
        .args(["push", "--base", "test/base"])
        .arg(app.tree())
        .arg("test/app"))?;
    let disk = shale.home().join("app.raw");
    run(shale.command().args(["export", "test/app"]).arg(&disk))?;
    check_file_system(&disk)?;
    let mount = LoopMount::new(&disk, "ro")?;
    let differences = harness::tree_differences(&app.tree(), &mount.path())?;
    let other: Vec<_> = differences
        .iter()
        .filter(|d| !d.contains("lost+found"))
        .collect();
    ensure!(other.is_empty(), "{other:#?}");
    Ok(())
}

/// What a guest's shell says when it is done with what it was told.
const DONE: &str = "shell-is-done";
const BOOT_WITHIN: Duration = Duration::from_secs(180);

/// A machine that runs nothing but a shell on its console.
pub(crate) fn shell_machine(base: &Input, disk: Disk) -> Result<Machine> {
    let mut machine = Machine::new(base.kernel()?, base.initrd()?, disk);
    machine.command_line.push_str(" init=/bin/sh");
    Ok(machine)
}

/// Waits for the shell of such a machine, and mounts what it needs.
pub(crate) fn wait_for_shell(vm: &mut Qemu) -> Result<()> {
    vm.wait_for("# ", BOOT_WITHIN)?;
    tell(
        vm,
        "mount -t proc proc /proc; mount -o remount,rw /",
        BOOT_WITHIN,
    )
}

/// Has the shell do something, and waits until it is done.
pub(crate) fn tell(vm: &mut Qemu, command: &str, limit: Duration) -> Result<()> {
    // What is typed is echoed: the marker is put together only by the shell.
    let (head, tail) = DONE.split_at(5);
    vm.send(&format!("{command}; echo {head}''{tail}\n"))?;
    vm.wait_for(DONE, limit)
}

#[test]
fn privileged_boot_a_guest_killed_while_it_writes_boots_again() -> Result<()> {
    need_root()?;
    let base = Input::base()?;
    let shale = Shale::new()?;
    let disk = push_and_export(&shale, &base.tree())?;
    let machine = shell_machine(&base, Disk::Raw(disk.clone()))?;
    let mut vm = Qemu::start(&machine)?;
    wait_for_shell(&mut vm)?;
    tell(&mut vm, "echo kept > /root/kept; sync", BOOT_WITHIN)?;
    // Enough for several journal transactions; killed in the midst of them.
    vm.send("i=0; while cp -r /usr/share/doc /root/copy-$i; do i=$((i+1)); echo round''-$i; sync; done\n")?;
    vm.wait_for("round-2", BOOT_WITHIN)?;
    std::thread::sleep(Duration::from_millis(700));
    vm.kill()?;
    let features = run(tool("dumpe2fs")?.arg("-h").arg(&disk))?;
    ensure!(
        features.contains("needs_recovery"),
        "nothing to replay: {features}"
    );

    let machine = Machine::new(base.kernel()?, base.initrd()?, Disk::Raw(disk.clone()));
    let mut vm = Qemu::start(&machine)?;
    vm.wait_for("login:", BOOT_WITHIN)?;
    // Said by the kernel, or by the e2fsck of the initial RAM disk, whichever comes first.
    let console = vm.console()?;
    ensure!(
        console.contains("recovery complete") || console.contains("recovering journal"),
        "no journal was replayed: {console}"
    );
    vm.power_down(Duration::from_secs(120))?;
    check_file_system(&disk)?;
    let kept = run(tool("debugfs")?.args(["-R", "cat /root/kept"]).arg(&disk))?;
    ensure!(kept.contains("kept"), "what was synced is there: {kept}");
    Ok(())
}

#[test]
fn an_export_does_not_overwrite() -> Result<()> {
    let shale = Shale::new()?;
    let source = tempfile::tempdir()?;
    fs::write(source.path().join("file"), "content")?;
    push_and_export(&shale, source.path())?;
    let disk = shale.home().join("disk.raw");
    let again = shale
        .command()
        .args(["export", "test/tree"])
        .arg(&disk)
        .output()?;
    assert_eq!(again.status.code(), Some(1));
    let text = String::from_utf8_lossy(&again.stderr);
    ensure!(text.contains("File exists"), "{text}");
    home_holds_only_the_disk(&shale)
}

/// The home of a user who pushed and exported holds what was asked for and nothing else.
fn home_holds_only_the_disk(shale: &Shale) -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(shale.home())?
        .map(|entry| entry.map(|e| e.file_name()))
        .collect::<Result<_, _>>()?;
    names.retain(|name| !name.to_string_lossy().starts_with('.'));
    assert_eq!(names, ["disk.raw"]);
    Ok(())
}
