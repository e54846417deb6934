//! `shale doctor` on a machine as it is, and on ones that lack something.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::Shale;
use serde_json::Value;

/// Name, verdict and fix of a check.
type Check = (String, String, String);

/// Runs `shale doctor --format json`: exit code, checks, standard error.
fn doctor(command: &mut Command) -> Result<(Option<i32>, Vec<Check>, String)> {
    let output = command.args(["doctor", "--format", "json"]).output()?;
    let checks: Value = serde_json::from_slice(&output.stdout).context("read its JSON")?;
    let text = |check: &Value, field: &str| check[field].as_str().map(str::to_owned);
    let check = |check: &Value| {
        let fields = [
            text(check, "name"),
            text(check, "verdict"),
            text(check, "fix"),
        ];
        let [Some(name), Some(verdict), Some(fix)] = fields else {
            anyhow::bail!("{check}");
        };
        Ok((name, verdict, fix))
    };
    let checks = checks.as_array().context("a list")?.iter().map(check);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), checks.collect::<Result<_>>()?, said))
}

#[test]
fn a_machine_that_runs_these_tests_lacks_nothing() -> Result<()> {
    let shale = Shale::new()?;
    let (code, checks, said) = doctor(&mut shale.command())?;
    ensure!(code == Some(0) && said.is_empty(), "{code:?}: {said}");
    let names: Vec<_> = checks.iter().map(|(name, ..)| name.as_str()).collect();
    let expected = [
        "kernel",
        "qemu",
        "ssh",
        "/dev/kvm",
        "/dev/fuse",
        "state",
        "cache",
        "room",
    ];
    assert_eq!(names, expected);
    for (name, verdict, fix) in &checks {
        ensure!(
            (verdict == "ok") == fix.is_empty(),
            "{name}: {verdict}: {fix}"
        );
        let wanted = ["kernel", "qemu", "ssh", "state", "cache"].contains(&name.as_str());
        ensure!(!wanted || verdict == "ok", "{name}: {verdict}: {fix}");
    }
    let table = harness::run(shale.command().arg("doctor"))?;
    ensure!(
        table.starts_with("CHECK") && table.contains("/dev/kvm"),
        "{table}"
    );
    Ok(())
}

#[test]
fn what_is_missing_is_named_with_what_to_do() -> Result<()> {
    let shale = Shale::new()?;
    let file = shale.home().join("file");
    fs::write(&file, "")?;
    let mut command = shale.command();
    command
        .env("PATH", shale.home())
        .env("SHALE_STATE", file.join("state"));
    let (code, checks, said) = doctor(&mut command)?;
    ensure!(
        code == Some(1) && said.contains("missing on this machine: qemu, state"),
        "{code:?}: {said}"
    );
    for (name, verdict, what) in [
        ("qemu", "missing", "apt-get install qemu-system-x86"),
        ("ssh", "limited", "apt-get install openssh-client"),
        ("state", "missing", "--state"),
    ] {
        let found = checks.iter().find(|check| check.0 == name);
        let (_, found, fix) = found.context(name)?;
        ensure!(
            found == verdict && fix.contains(what),
            "{name}: {found}: {fix}"
        );
    }
    Ok(())
}
