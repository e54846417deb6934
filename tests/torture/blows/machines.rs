//! What users do with machines.

use std::io::Write;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::Random;
use serde_json::Value;

use crate::commands::{may_fail, remove};
use crate::scene::Scene;

use super::{go_on, remove_machine};

/// Files of the template that are read in a machine that began warm.
const READ_WARM: usize = 40;

pub(super) fn pause(scene: &mut Scene, name: &str, random: &mut Random) -> Result<()> {
    let mut pause = scene.vm(&["pause", name]);
    may_fail(&mut pause, &mut scene.account)?;
    sleep(Duration::from_millis(random.below(3000)));
    go_on(scene, name)
}

pub(super) fn restart(scene: &mut Scene, name: &str) -> Result<()> {
    let mut restart = scene.vm(&["restart", name, "--stop-timeout", "20", "--force"]);
    may_fail(restart.args(["--wait", "none"]), &mut scene.account)?;
    go_on(scene, name)
}

pub(super) fn snapshot(scene: &mut Scene, name: &str, random: &mut Random) -> Result<()> {
    let mut create = scene.vm(&["snapshot", "create", name, "s"]);
    may_fail(&mut create, &mut scene.account)?;
    sleep(Duration::from_millis(random.below(1000)));
    let mut rm = scene.vm(&["snapshot", "rm", name, "s"]);
    remove(&mut rm, &mut scene.account).map(drop)
}

pub(super) fn come_and_go(scene: &mut Scene, random: &mut Random) -> Result<()> {
    let mut deploy = scene.vm(&["deploy", &scene.reference, "--name", "guest"]);
    let came = may_fail(deploy.args(["--wait", "none"]), &mut scene.account)?;
    scene.account.came += u32::from(came);
    sleep(Duration::from_millis(random.below(4000)));
    remove_machine(scene, "guest").map(drop)
}

/// A machine goes on where the template's snapshot was made, and has the template's files, in memory and on disk.
pub(super) fn warm(scene: &mut Scene, random: &mut Random) -> Result<()> {
    let mut deploy = scene.vm(&["deploy", &scene.reference, "--name", "warm", "--warm"]);
    deploy.args(["--timeout", "240", "--format", "json"]);
    let output = deploy.output()?;
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if !output.status.success() {
        // Its registry, or the time: a machine that is translated beside others may take longer.
        scene.account.refused += 1;
    } else {
        scene.account.came += 1;
        let began = !said["warm"]["from"].is_null();
        scene.account.warm += u32::from(began);
        if !began {
            println_reason(&said["warm"]["cold"]["reason"]);
        }
        // Its SSH server may come a moment after its prompt.
        match scene.vms.ssh("warm", "true") {
            Ok(_) => check(scene, random)?,
            Err(error) => scene.account.wrong.push(format!("warm: {error:#}")),
        }
    }
    remove_machine(scene, "warm").map(drop)
}

#[expect(clippy::print_stdout, reason = "this is a program")]
fn println_reason(reason: &Value) {
    println!("          it boots: {reason}");
}

fn check(scene: &mut Scene, random: &mut Random) -> Result<()> {
    let all: Vec<&str> = scene.sums.lines().collect();
    let from = random.below((all.len() - READ_WARM) as u64) as usize;
    let list = all[from..from + READ_WARM].join("\n") + "\n";
    let script = "cat > /run/sums; LC_ALL=C sha256sum -c --quiet /run/sums 2>&1; sync; \
        echo 3 > /proc/sys/vm/drop_caches; LC_ALL=C sha256sum -c --quiet /run/sums 2>&1; \
        dmesg | grep -iE 'i/o error|ext4-fs error'; echo done";
    let mut ssh = scene.vm(&["ssh", "warm", "--", script]);
    ssh.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut ssh = ssh.spawn().context("log in")?;
    ssh.stdin
        .take()
        .context("its input")?
        .write_all(list.as_bytes())?;
    let output = ssh.wait_with_output().context("wait for it")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<&str> = said.lines().collect();
    if lines.pop() != Some("done") {
        scene.account.wrong.push(format!("warm: {output:?}"));
        return Ok(());
    }
    let wrong = lines.iter().map(|line| format!("warm: {line}"));
    scene.account.wrong.extend(wrong);
    scene.account.checked += 2 * READ_WARM as u64;
    Ok(())
}
