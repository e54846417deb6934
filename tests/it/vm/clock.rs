//! A clock that jumps by years, and a template that is gone from its registry: machines run on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{Registry, Shale, Vms, need_root, run, tool};
use serde_json::Value;

/// Exit code of what is not there.
const NOT_FOUND: i32 = 3;

const SECONDS_A_YEAR: i64 = 365 * 24 * 60 * 60;

/// A library under a program that makes it see another time (Debian's `libfaketime`); `faketime` brings it.
fn library() -> Result<PathBuf> {
    tool("faketime")?;
    let library = Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1");
    ensure!(library.exists(), "no {}", library.display());
    Ok(library.to_owned())
}

/// A host whose commands and service see the time that a file says.
struct Jumping {
    vms: Vms,
    library: PathBuf,
    time: PathBuf,
}

impl Jumping {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.vms.command(arguments);
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.time)
            // Else it is seen a second later, or not at all after a jump back.
            .env("FAKETIME_NO_CACHE", "1")
            // What asks for the time all the time would do little else.
            .env("FAKETIME_SKIP_CMDS", "qemu-system-x86_64,qemu-system-x86")
            // A jump of the clock leaves the other one alone, which counts since the boot.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments))
    }

    fn jump(&self, by: &str) -> Result<()> {
        // Whole at once: it is read all the time.
        let new = self.time.with_extension("new");
        fs::write(&new, by)?;
        Ok(fs::rename(new, &self.time)?)
    }

    fn inspect(&self, name: &str) -> Result<Value> {
        let shown = self.run(&["inspect", name, "--format", "json"])?;
        Ok(serde_json::from_str(&shown)?)
    }
}

#[test]
fn privileged_boot_machines_run_on_when_the_clock_jumps_and_when_their_template_is_gone()
-> Result<()> {
    need_root()?;
    let home = Shale::new()?;
    let vms = Vms::with_kernel_only()?;
    let registry = Registry::start(&home, 0)?;
    let (port, reference) = (registry.port()?, registry.name("test/kernel"));
    let mut push = vms.shale.command();
    run(push
        .arg("push")
        .arg(vms.shale.home().join("kernel"))
        .arg(&reference))?;
    let time = vms.shale.home().join("time");
    let host = Jumping {
        vms,
        library: library()?,
        time,
    };
    host.jump("+0")?;
    host.run(&["deploy", &reference, "--name", "a", "--wait", "none"])?;
    let created = |name: &str| -> Result<u64> {
        let shown = host.inspect(name)?;
        shown["created"].as_u64().context("when it was made")
    };
    let born = created("a")?;

    for (by, years) in [("+11y", 11), ("-9y", -9), ("+0", 0)] {
        host.jump(by)?;
        host.run(&["pause", "a"])?;
        host.run(&["resume", "a"])?;
        host.run(&["snapshot", "create", "a", "s"])?;
        host.run(&["snapshot", "rm", "a", "s", "--yes"])?;
        host.run(&[
            "restart",
            "a",
            "--force",
            "--stop-timeout",
            "0",
            "--wait",
            "none",
        ])?;
        host.run(&["deploy", &reference, "--name", "b", "--wait", "none"])?;
        // The service does see another time.
        let later = created("b")?.cast_signed() - born.cast_signed();
        let difference = later - years * SECONDS_A_YEAR;
        ensure!(difference.abs() < SECONDS_A_YEAR / 2, "{by}: {later} s");
        host.run(&["rm", "b", "--yes"])?;
        ensure!(host.inspect("a")?["state"] == "running", "after {by}");
        // Another service finds what the one of another time has kept.
        host.vms.kill_service()?;
        ensure!(host.inspect("a")?["state"] == "running", "after {by}");
    }

    // All of it is here; then the registry forgets it.
    let mut cache = host.vms.shale.command();
    run(cache.args(["precache", &reference]))?;
    registry.server.terminate()?;
    fs::remove_dir_all(home.repository())?;
    let registry = Registry::start(&home, port)?;
    let deploy = host
        .command(&["deploy", &reference, "--name", "c", "--wait", "none"])
        .output()?;
    let said = String::from_utf8_lossy(&deploy.stderr).into_owned();
    ensure!(deploy.status.code() == Some(NOT_FOUND), "{deploy:?}");
    ensure!(said.contains("test/kernel"), "{said}");
    host.run(&["stop", "a", "--force", "--timeout", "0"])?;
    host.run(&["start", "a", "--wait", "none"])?;
    host.vms.kill_service()?;
    ensure!(host.inspect("a")?["state"] == "running");
    host.run(&["rm", "a", "--yes"])?;
    host.vms.nothing_left()?;
    registry.server.terminate()
}
