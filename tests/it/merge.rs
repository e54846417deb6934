//! Applications made apart from each other, on one base and then on a newer one: as trees, and in a virtual machine.

mod guest;
mod tree;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{App, Input, LoopMount, Shale, Vms, compare_trees, need_root, run, tool};

use crate::export::check_file_system;

use guest::check_deployed;
use tree::{check_together, inside};

/// The base, and the applications that were installed on it apart from each other.
struct Inputs {
    base: Input,
    nginx: Input,
    postgresql: Input,
    /// The base after an upgrade.
    updates: Input,
}

impl Inputs {
    fn new() -> Result<Self> {
        need_root()?;
        Ok(Self {
            base: Input::base()?,
            nginx: Input::with_app(App::Nginx)?,
            postgresql: Input::with_app(App::Postgresql)?,
            updates: Input::with_updates()?,
        })
    }

    /// Pushes all, and makes `test/web` of them; each application is pushed without knowing of the other.
    fn push(&self, shale: &Shale) -> Result<()> {
        run(shale
            .command()
            .arg("push")
            .arg(self.base.tree())
            .arg("test/base"))?;
        for (input, name) in [
            (&self.nginx, "test/nginx"),
            (&self.postgresql, "test/postgresql"),
        ] {
            let mut push = shale.command();
            push.args(["push", "--base", "test/base"])
                .arg(input.tree())
                .arg(name);
            run(&mut push)?;
        }
        let create = [
            "template",
            "create",
            "test/web",
            "test/base+test/nginx+test/postgresql",
        ];
        run(shale.command().args(create)).map(drop)
    }

    /// Pushes the base with updates, and puts the applications of `test/web` on it as `test/web:2`; what the
    /// command said.
    fn rebase(&self, shale: &Shale) -> Result<String> {
        let mut push = shale.command();
        run(push.arg("push").arg(self.updates.tree()).arg("test/base:2"))?;
        let rebase = [
            "template",
            "rebase",
            "test/web",
            "--onto",
            "test/base:2",
            "--as",
            "test/web:2",
        ];
        let output = shale.command().args(rebase).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{}: {said}", output.status);
        Ok(said)
    }
}

/// Exports `reference`, checks it, and mounts it.
fn export(shale: &Shale, reference: &str) -> Result<LoopMount> {
    let disk = shale.home().join("disk.raw");
    run(shale.command().args(["export", reference]).arg(&disk))?;
    check_file_system(&disk)?;
    let mount = LoopMount::new(&disk, "ro")?;
    // The loop device keeps it.
    fs::remove_file(disk)?;
    Ok(mount)
}

#[test]
fn privileged_applications_made_apart_live_together_and_move_to_a_base_with_updates() -> Result<()>
{
    let inputs = Inputs::new()?;
    let shale = Shale::new()?;
    inputs.push(&shale)?;
    let mount = export(&shale, "test/web")?;
    check_together(&mount.path(), &inputs.base.tree(), &inputs)?;
    for (app, path) in [
        (&inputs.nginx, "etc/nginx"),
        (&inputs.nginx, "usr/share/nginx"),
        (&inputs.postgresql, "usr/lib/postgresql"),
        (&inputs.postgresql, "var/lib/postgresql"),
    ] {
        compare_trees(&app.tree().join(path), &mount.path().join(path))?;
    }
    mount.unmount()?;

    let said = inputs.rebase(&shale)?;
    // The newcomer has the numbers that PostgreSQL had.
    for kind in ["user", "group"] {
        ensure!(
            said.contains(&format!("{kind} postgres of layer")),
            "not told: {said}"
        );
    }
    let mount = export(&shale, "test/web:2")?;
    let tree = mount.path();
    check_together(&tree, &inputs.updates.tree(), &inputs)?;
    let old = check_together(&tree, &inputs.base.tree(), &inputs);
    ensure!(old.is_err(), "the check does not see the updates");
    ensure!(inside(&tree, &["id", "newcomer"])?.starts_with("uid=102(newcomer) gid=108(newcomer)"));
    check_upgrade(&tree)?;
    mount.unmount()
}

/// Checks that the upgrade of `dev/upgrade-in` is there, in files and in databases.
fn check_upgrade(tree: &Path) -> Result<()> {
    let package = ["dpkg-query", "-W", "-f", "${Version}", "libzstd1"];
    let version = inside(tree, &package)?;
    ensure!(version.ends_with("+shale1"), "{version}");
    // Every file is the one that the new version brought, and the loader finds the new library, and those of both
    // applications.
    let wrong = inside(tree, &["dpkg", "--verify", "libzstd1"])?;
    ensure!(wrong.is_empty(), "{wrong}");
    let libraries = inside(tree, &["ldconfig", "-p"])?;
    for library in ["libshal.so.1", "libzstd.so.1", "libpq.so.5"] {
        ensure!(libraries.contains(library), "no {library} in {libraries}");
    }
    let doc = tree.join("usr/share/doc/libzstd1");
    ensure!(doc.join("NEWS").exists() && !doc.join("copyright").exists());
    let state = fs::read_to_string(tree.join("var/lib/newcomer/state"))?;
    ensure!(state == "of the newcomer\n", "{state}");
    // A program that is linked with it starts.
    inside(tree, &["dpkg-deb", "--version"]).map(drop)
}

#[test]
fn privileged_boot_base_nginx_postgresql_in_one_vm() -> Result<()> {
    let inputs = Inputs::new()?;
    let vms = Vms::new()?;
    inputs.push(&vms.shale)?;
    check_deployed(&vms, "test/web")?;
    inputs.rebase(&vms.shale)?;
    check_deployed(&vms, "test/web:2")
}

/// Pushes two layers onto a base that changed one file each in its own way.
fn push_disagreeing(shale: &Shale) -> Result<()> {
    let tree = shale.home().join("tree");
    fs::create_dir_all(tree.join("etc"))?;
    let push = |name: &str, base: Option<&str>, motd: &str| -> Result<()> {
        fs::write(tree.join("etc/motd"), motd)?;
        let mut command = shale.command();
        command
            .arg("push")
            .args(base.map(|base| ["--base", base]).into_iter().flatten());
        run(command.arg(&tree).arg(name)).map(drop)
    };
    push("test/base", None, "welcome")?;
    push("test/one", Some("test/base"), "welcome to one")?;
    push("test/two", Some("test/base"), "welcome to two")
}

/// The id of the layer on top of a template, as people see it.
fn top_layer(shale: &Shale, reference: &str) -> Result<String> {
    let shown = run(shale
        .command()
        .args(["template", "inspect", reference, "--format", "json"]))?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let layers = shown["template"]["layers"].as_array().context("layers")?;
    let id = layers
        .last()
        .and_then(|layer| layer["id"].as_str())
        .context("an id")?;
    Ok(id.to_owned())
}

#[test]
fn a_real_conflict_is_named_and_nothing_is_made() -> Result<()> {
    let shale = Shale::new()?;
    push_disagreeing(&shale)?;
    let create = [
        "template",
        "create",
        "test/both",
        "test/base+test/one+test/two",
    ];
    let output = shale.command().args(create).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    ensure!(said.contains("/etc/motd"), "{said}");
    for app in ["test/one", "test/two"] {
        let id = top_layer(&shale, app)?;
        let digits = id.trim_start_matches("blake3:");
        ensure!(said.contains(&digits[..8]), "{id} is not named: {said}");
    }
    let inspect = shale
        .command()
        .args(["template", "inspect", "test/both"])
        .output()?;
    assert_eq!(inspect.status.code(), Some(3), "nothing was made");

    run(shale
        .command()
        .args(create)
        .args(["--conflicts", "take-later"]))?;
    let disk = shale.home().join("disk.raw");
    run(shale.command().args(["export", "test/both"]).arg(&disk))?;
    let motd = run(tool("debugfs")?.args(["-R", "cat /etc/motd"]).arg(&disk))?;
    assert_eq!(motd, "welcome to two");
    Ok(())
}
