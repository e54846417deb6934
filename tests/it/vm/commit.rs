//! `shale vm commit`: a template has what its machine's guest changed, and nothing that is the machine's own.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{
    Input, LoopMount, Random, Vms, build_nasty_tree, failure, need_root, run, tree_differences,
};
use serde_json::Value;

use crate::export::check_file_system;
use crate::mount::Mounted;

const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 5;

/// Bytes of files that a guest may move, or change in one place.
const LARGE: usize = 3 << 20;

/// A template of a base and two applications that each add a user, so that merging makes files that no layer has.
fn push_template(vms: &Vms) -> Result<()> {
    let tree = tempfile::tempdir_in("/var/tmp")?;
    let root = tree.path();
    for dir in ["boot", "etc", "root", "usr/share/gone/below", "srv"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy(Input::base()?.kernel()?, root.join("boot/vmlinuz"))?;
    let mut random = Random::printed("template of a commit");
    for name in ["moved", "patched", "cut", "stays"] {
        fs::write(root.join("usr/share").join(name), random.bytes(LARGE))?;
    }
    fs::write(root.join("usr/share/gone/below/file"), "gone")?;
    fs::write(root.join("usr/share/becomes-directory"), "file")?;
    let accounts = "root:x:0:0:root:/root:/bin/sh\n";
    fs::write(root.join("etc/passwd"), accounts)?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    let push = |base: Option<&str>, name: &str| {
        let mut push = vms.shale.command();
        push.arg("push");
        push.args(base.into_iter().flat_map(|base| ["--base", base]));
        run(push.arg(root).arg(name))
    };
    push(None, "test/base")?;
    for (number, name) in [(101, "one"), (102, "two")] {
        let user = format!("{accounts}{name}:x:{number}:{number}::/:/bin/false\n");
        fs::write(root.join("etc/passwd"), user)?;
        fs::write(
            root.join("etc/group"),
            format!("root:x:0:\n{name}:x:{number}:\n"),
        )?;
        push(Some("test/base"), &format!("test/{name}"))?;
    }
    let create = [
        "template",
        "create",
        "test/both",
        "test/base+test/one+test/two",
    ];
    run(vms.shale.command().args(create)).map(drop)
}

/// What a guest might do, done to its disk while it is stopped.
fn on_the_disk(vms: &Vms, change: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let overlay = vms.overlay("a").display().to_string();
    let mounted = Mounted::new(&vms.shale, "test/both", &["--disk", "--overlay", &overlay])?;
    let disk = LoopMount::new(&mounted.point.join("disk.raw"), "rw")?;
    change(&disk.path())?;
    disk.unmount()?;
    mounted.end()
}

/// Changes whose content is nearly all in the template already.
fn change_a_little(root: &Path) -> Result<()> {
    let share = root.join("usr/share");
    fs::rename(share.join("moved"), root.join("srv/moved"))?;
    fs::hard_link(root.join("srv/moved"), root.join("srv/linked"))?;
    let patched = OpenOptions::new().write(true).open(share.join("patched"))?;
    patched.write_all_at(b"patched", 1_500_000)?;
    File::options()
        .write(true)
        .open(share.join("cut"))?
        .set_len(1_000_000)?;
    fs::remove_dir_all(share.join("gone"))?;
    fs::remove_file(share.join("becomes-directory"))?;
    fs::create_dir(share.join("becomes-directory"))?;
    // What merging made: one file with other attributes, one with a line more.
    chown(root.join("etc/group"), Some(0), Some(101))?;
    let accounts = fs::read_to_string(root.join("etc/passwd"))?;
    fs::write(
        root.join("etc/passwd"),
        accounts + "new:x:2000:2000::/home/new:/bin/sh\n",
    )?;
    // What is the machine's own.
    fs::create_dir_all(root.join("etc/ssh"))?;
    fs::write(root.join("etc/ssh/ssh_host_rsa_key"), "secret")?;
    fs::create_dir_all(root.join("var/lib/systemd"))?;
    fs::write(root.join("var/lib/systemd/random-seed"), "seed")?;
    fs::write(root.join("home/ada/.ssh/id_ed25519"), "secret")?;
    // Under another name first, and once more where it is looked for.
    fs::create_dir(root.join("copy"))?;
    fs::hard_link(root.join("etc/ssh/ssh_host_rsa_key"), root.join("copy/key"))?;
    // In a directory that only the deployment made.
    fs::write(root.join("home/ada/note"), "kept")?;
    // A file of the guest gets the inode of a directory that is the layout's.
    fs::remove_dir(root.join("lost+found"))?;
    fs::write(root.join("etc/eleven"), "kept")?;
    fs::remove_file(root.join("etc/hostname"))?;
    let old = root.join("etc/ssh/ssh_host_ed25519_key");
    fs::remove_file(&old).context("the host key of the deployment")
}

/// Commits `a` and compares the template's disk with the machine's: all that differs is the machine's own.
fn commit(vms: &Vms, reference: &str) -> Result<Value> {
    let said = vms.run(&["commit", "a", reference, "--format", "json"])?;
    let disks = tempfile::tempdir_in("/var/tmp")?;
    let [machine, template] = ["machine.raw", "template.raw"].map(|name| disks.path().join(name));
    run(vms.command(&["export", "a"]).arg(&machine))?;
    run(vms
        .shale
        .command()
        .args(["export", reference])
        .arg(&template))?;
    check_file_system(&template)?;
    let (machine, template) = (
        LoopMount::new(&machine, "ro")?,
        LoopMount::new(&template, "ro")?,
    );
    let own = [
        "/etc/hostname",
        "/etc/machine-id",
        "/etc/hosts",
        "/etc/ssh/ssh_host_",
        "/home/ada/.ssh",
        "/etc/shadow",
        "/etc/gshadow",
        "/copy/key: links",
        "/var/lib/systemd/random-seed",
    ];
    let differences = tree_differences(&machine.path(), &template.path())?;
    for line in &differences {
        ensure!(own.iter().any(|path| line.starts_with(path)), "{line}");
    }
    for path in [
        "/etc/machine-id",
        "/etc/ssh/ssh_host_rsa_key",
        "/var/lib/systemd/random-seed",
    ] {
        ensure!(
            differences.iter().any(|line| line.starts_with(path)),
            "{path} is in both"
        );
    }
    run(vms.shale.command().args(["template", "lint", reference]))?;
    machine.unmount()?;
    template.unmount()?;
    Ok(serde_json::from_str(&said)?)
}

#[test]
fn privileged_what_a_guest_changed_becomes_a_layer() -> Result<()> {
    need_root()?;
    let vms = Vms::new()?;
    push_template(&vms)?;
    vms.run(&[
        "deploy",
        "test/both",
        "--name",
        "a",
        "--wait",
        "none",
        "--user",
        "ada",
    ])?;
    assert_eq!(
        failure(&mut vms.command(&["commit", "a", "test/new"]))?,
        CONFLICT
    );
    assert_eq!(
        failure(&mut vms.command(&["commit", "b", "test/new"]))?,
        NOT_FOUND
    );
    vms.run(&["stop", "a", "--force", "--timeout", "0"])?;
    let elsewhere = failure(&mut vms.command(&["commit", "a", "localhost:1/test/new"]))?;
    assert_eq!(elsewhere, USAGE);

    on_the_disk(&vms, change_a_little)?;
    let new = commit(&vms, "test/new")?;
    let bytes = |new: &Value, name: &str| new[name].as_u64().context("a number");
    // The file that moved is there; of those that were patched and cut, the chunks around that place.
    let sent = bytes(&new, "sent_chunk_bytes")?;
    ensure!(sent < LARGE as u64 / 2, "{sent} bytes were sent: {new}");
    ensure!(bytes(&new, "entries")? < 30, "{new}");

    // Everything that a file system can hold, and once more onto what the first commit saw.
    on_the_disk(&vms, |root| {
        let nasty = root.join("srv/nasty");
        fs::create_dir(&nasty)?;
        fs::set_permissions(&nasty, fs::Permissions::from_mode(0o1751))?;
        build_nasty_tree(&nasty, 300)
    })?;
    let again = commit(&vms, "test/new:2")?;
    ensure!(bytes(&again, "entries")? > 300, "{again}");

    // The template of the first is one like any other: a machine of it starts, and its own commit has nothing to tell.
    vms.run(&["deploy", "test/new", "--name", "b", "--wait", "none"])?;
    vms.run(&["stop", "b", "--force", "--timeout", "0"])?;
    let said = vms.run(&["commit", "b", "test/none", "--format", "json"])?;
    let none: Value = serde_json::from_str(&said)?;
    ensure!(bytes(&none, "entries")? == 0, "{none}");
    vms.run(&["rm", "a", "--yes"])?;
    vms.run(&["rm", "b", "--yes"])?;
    vms.nothing_left()
}
