//! A reader of a mounted tree, which forgets what it read so that it reads it again.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Load;

const CONFLICT: i32 = 5;

/// Files of the template in an order of its own. It runs on the host, whose program that is to serve the mount must not be
/// started by somebody who has a file of it open.
const SCRIPT: &str = r#"
cd "$1" || exit
sums=$(mktemp) && some=$(mktemp) && said=$(mktemp) || exit
trap 'rm -f "$sums" "$some" "$said"' EXIT
sed 's,  /,  ./,' > "$sums"
while :; do
    shuf -n 30 "$sums" > "$some"
    # Names with a backslash are written otherwise, and are read from memory.
    sed -n 's/^[0-9a-f]*  //p' "$some" | while read -r name; do
        dd if="$name" iflag=nocache count=0 2> /dev/null || echo "wrong: $name: it cannot be opened"
    done
    LC_ALL=C sha256sum -c --quiet "$some" > "$said" 2>&1 || sed 's/^/wrong: /' "$said"
    echo "checked 30"
    sleep 0.3
done
"#;

/// What it does, and what it is told before.
pub(super) fn work(load: &Load) -> Result<(Command, String)> {
    let point = mounted(load, &[])?;
    let mut command = load.vms.shale.command_of(Path::new("/bin/sh"));
    command.args(["-c", SCRIPT, "reader", &point]);
    command.env("TMPDIR", load.vms.shale.home());
    Ok((command, load.sums.to_string()))
}

/// Mounts the template for a load, if it is not; where.
pub(super) fn mounted(load: &Load, how: &[&str]) -> Result<String> {
    let point = load.vms.shale.home().join("mnt").join(&load.name);
    // A boot of the host may have taken it along.
    fs::create_dir_all(&point)?;
    let point = point.to_str().context("a path in UTF-8")?.to_owned();
    let mut mount = load.vms.shale.command();
    mount.args(["mount", "--quiet", &load.reference, &point]);
    let output = mount.args(how).output()?;
    // Something else may be in its way, too.
    let mounts = load.vms.shale.power()?.mounts()?;
    let is_there = mounts.iter().any(|line| line.contains(&point));
    match output.status.code() {
        Some(0 | CONFLICT) if is_there => Ok(point),
        _ => bail!("{output:?}"),
    }
}
