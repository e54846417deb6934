//! A guest that checks what it reads, and knows what it wrote.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Load;

/// What the guest does. Each pass writes a file under a name that was never used, flushes it and tells its sum; and reads,
/// from the disk and not from memory, some of what it wrote earlier and some of the template. The sums of both come before
/// it, on standard input.
const SCRIPT: &str = r#"
mkdir -p /torture && cd /torture || exit
cat > /run/sums
number() { od -An -N4 -tu4 /dev/urandom | tr -d ' '; }
while :; do
    if [ "$(ls | wc -l)" -lt 500 ]; then
        name=f.$(date +%s%N).$$
        dd if=/dev/urandom of="$name" bs=64k count=$((1 + $(number) % 32)) conv=fsync 2> /dev/null \
            && sync . && sum=$(sha256sum < "$name" | cut -c1-64) \
            && echo "$sum  /torture/$name" >> /run/sums && echo "saved $name $sum" || echo "wrong write: $name"
    fi
    echo 3 > /proc/sys/vm/drop_caches
    lines=$(wc -l < /run/sums)
    { tail -n +$((1 + $(number) % lines)) /run/sums | head -n 35; tail -n 5 /run/sums; } > /run/some
    LC_ALL=C sha256sum -c --quiet /run/some > /run/said 2>&1 || sed "s/^/wrong: /" /run/said
    echo "checked $(wc -l < /run/some)"
done
"#;

/// What it does, and what it is told before.
pub(super) fn work(load: &Load) -> (Command, String) {
    let command = load.vms.command(&["ssh", &load.name, "--", SCRIPT]);
    let mut sums = load.sums.to_string();
    sums.push_str(&load.saved_below("/torture/"));
    (command, sums)
}

/// Reads all files that it acknowledged, and looks at what its kernel said.
pub(super) fn check_all(load: &Load) -> Result<()> {
    let list = load.saved_below("/torture/");
    let check = "echo 3 > /proc/sys/vm/drop_caches; \
        LC_ALL=C sha256sum -c --quiet - 2>&1; \
        dmesg | grep -iE 'i/o error|ext4-fs error'; true";
    let mut ssh = load.vms.command(&["ssh", &load.name, "--", check]);
    ssh.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut ssh = ssh.spawn().context("log in")?;
    let mut to = ssh.stdin.take().context("its input")?;
    to.write_all(list.as_bytes())?;
    drop(to);
    let output = ssh.wait_with_output().context("wait for it")?;
    ensure!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut heard = load.heard();
    heard.checked += heard.saved.len() as u64;
    let lines = said.lines().map(|line| format!("{}: {line}", load.name));
    heard.wrong.extend(lines);
    Ok(())
}
