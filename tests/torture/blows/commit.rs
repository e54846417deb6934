//! What a guest wrote becomes a template.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use harness::run;

use crate::commands::may_fail;
use crate::loads::Load;
use crate::scene::Scene;

use super::go_on;

/// Commits a guest while it is paused, and reads in the template what it had acknowledged before.
pub(super) fn commit(scene: &mut Scene, guest: &Load) -> Result<()> {
    let list = guest.saved_below("./");
    let (name, reference) = (guest.name(), scene.named("committed"));
    let mut pause = scene.vm(&["pause", name]);
    let mut commit = scene.vm(&["commit", name, &reference]);
    let done =
        may_fail(&mut pause, &mut scene.account)? && may_fail(&mut commit, &mut scene.account)?;
    go_on(scene, name)?;
    if !done || list.is_empty() {
        return Ok(());
    }
    let point = scene.vms.shale.home().join("mnt/committed");
    fs::create_dir_all(&point)?;
    run(scene
        .shale()
        .args(["mount", "--quiet", &reference])
        .arg(&point))?;
    let mut check = scene.vms.shale.command_of(Path::new("/bin/sh"));
    let script = r#"cd "$1/torture" && LC_ALL=C sha256sum -c --quiet - 2>&1; echo done"#;
    check.args(["-c", script, "check"]).arg(&point);
    check.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut check = check.spawn().context("read it")?;
    check
        .stdin
        .take()
        .context("its input")?
        .write_all(list.as_bytes())?;
    let output = check.wait_with_output().context("wait for it")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<&str> = said.lines().collect();
    ensure!(lines.pop() == Some("done"), "{output:?}");
    let wrong = lines.iter().map(|line| format!("committed: {line}"));
    scene.account.wrong.extend(wrong);
    scene.account.checked += list.lines().count() as u64;
    scene.unmount(&point)
}
