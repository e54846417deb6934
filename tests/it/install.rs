//! What `make install` puts on a machine.

mod guest;
mod unit;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use harness::{Shale, repository, run, tool};

/// `dev/install` of the built program below `root`, whose paths are those of the installed system.
fn install(shale: &Shale, root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(repository().join("dev/install"));
    command
        .args(arguments)
        .env("PREFIX", root.join("usr"))
        .env("SYSCONFDIR", root.join("etc"))
        .env("DESTDIR", "")
        .env("PROGRAM", shale.command().get_program());
    command
}

/// The built program below the directory `tree`, which is made, as what is packed for a whole system has it.
fn install_into(tree: &Path, shale: &Shale) -> Result<()> {
    fs::create_dir(tree)?;
    let mut command = Command::new(repository().join("dev/install"));
    command
        .env("DESTDIR", tree)
        .env("PREFIX", "/usr/local")
        .env("SYSCONFDIR", "/etc")
        .env("PROGRAM", shale.command().get_program());
    run(&mut command).map(drop)
}

/// All files below a directory.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut dirs, mut found) = (vec![root.to_owned()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match path.is_dir() {
                true => dirs.push(path),
                false => found.push(path.strip_prefix(root)?.to_owned()),
            }
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn what_is_installed_is_whole_and_goes_again() -> Result<()> {
    let shale = Shale::new()?;
    let root = shale.home().join("system");
    fs::create_dir(&root)?;
    run(&mut install(&shale, &root, &[]))?;
    let units = root.join("usr/lib/systemd/system");
    let mut verify = tool("systemd-analyze")?;
    verify.args(["verify", "--man=no"]);
    for entry in fs::read_dir(&units)? {
        verify.arg(entry?.path());
    }
    let output = verify.output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success() && !said.contains("shale"), "{said}");
    let unit = fs::read_to_string(units.join("shale-host.service"))?;
    let names = format!(
        "SHALE_CONFIG={}",
        root.join("etc/shale/config.toml").display()
    );
    ensure!(unit.contains(&names), "{unit}");
    ensure!(
        !unit.contains("@BINDIR@") && !unit.contains("@ENVIRONMENT@"),
        "{unit}"
    );

    let installed = files(&root)?;
    for file in [
        "usr/share/man/man1/shale.1",
        "usr/share/man/man1/shale-vm-deploy.1",
        "usr/share/man/man1/shale-host-run.1",
        "usr/share/bash-completion/completions/shale",
        "usr/lib/sysusers.d/shale.conf",
        "usr/lib/tmpfiles.d/shale.conf",
    ] {
        ensure!(
            installed.iter().any(|path| path == Path::new(file)),
            "no {file}"
        );
    }
    let mut version = Command::new(root.join("usr/bin/shale"));
    ensure!(run(version.arg("--version"))?.starts_with("shale "));

    // The example is of use, and what somebody wrote there stays.
    let settings = root.join("etc/shale/config.toml");
    let mut show = shale.command();
    run(show.env("SHALE_CONFIG", &settings).args(["config", "show"]))?;
    fs::write(&settings, "# mine\n")?;
    run(&mut install(&shale, &root, &[]))?;
    ensure!(fs::read_to_string(&settings)? == "# mine\n");
    run(&mut install(&shale, &root, &["remove"]))?;
    ensure!(
        files(&root)? == [PathBuf::from("etc/shale/config.toml")],
        "{:?}",
        files(&root)?
    );
    Ok(())
}
