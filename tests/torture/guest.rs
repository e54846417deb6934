//! A guest that checks what it reads, and knows what it wrote.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::Vms;

use crate::scene::vm;

/// Passes that a guest must make after the last blow.
const MORE: u64 = 2;

/// How long it may take to them: a boot, and a stall that is waited for.
const LONGEST: Duration = Duration::from_secs(420);

/// What the guest does. Each pass writes a file under a name that was never used, flushes it and tells its sum; and reads,
/// from the disk and not from memory, some of what it wrote earlier and some of the template. The sums of the template
/// come before it, on standard input.
const SCRIPT: &str = r#"
mkdir -p /torture && cd /torture || exit
cat > /run/sums
number() { od -An -N4 -tu4 /dev/urandom | tr -d ' '; }
lines=$(wc -l < /run/sums)
check() { # which file of sums, what it is
    LC_ALL=C sha256sum -c --quiet "$1" > /run/said 2>&1 || sed "s/^/wrong $2: /" /run/said
}
while :; do
    if [ "$(ls | wc -l)" -lt 1500 ]; then
        name=f.$(date +%s%N).$$
        dd if=/dev/urandom of="$name" bs=64k count=$((1 + $(number) % 32)) conv=fsync 2> /dev/null \
            && sync . && echo "saved $name $(sha256sum < "$name" | cut -c1-64)" || echo "wrong write: $name"
    fi
    echo 3 > /proc/sys/vm/drop_caches
    tail -n +$((1 + $(number) % lines)) /run/sums | head -n 40 > /run/some
    check /run/some template
    echo "checked $(wc -l < /run/some)"
done
"#;

/// A guest, and what it said.
#[derive(Debug)]
pub(crate) struct Guest {
    name: String,
    seen: Mutex<Seen>,
}

/// What a guest said.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Files that are on its disk whatever happens, with their sums.
    pub(crate) saved: BTreeMap<String, String>,
    pub(crate) checked: u64,
    pub(crate) wrong: Vec<String>,
    passes: u64,
    ended: bool,
}

impl Guest {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            seen: Mutex::default(),
        }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets it work until it is to end, logging in again whenever its machine was killed.
    pub(crate) fn work(&self, vms: &Vms, sums: &str) {
        while !self.seen().ended {
            // Its machine may not run, or not have booted yet: what counts is what it says.
            let _ = self.log_in(vms, sums);
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn log_in(&self, vms: &Vms, sums: &str) -> Result<()> {
        let mut ssh = vm(vms, &["ssh", &self.name, "--", SCRIPT]);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut ssh = ssh.stderr(Stdio::null()).spawn().context("log in")?;
        let (stdin, stdout) = (ssh.stdin.take(), ssh.stdout.take());
        let said = stdin
            .context("its input")
            .and_then(|mut to| Ok(to.write_all(sums.as_bytes())?))
            .and_then(|()| {
                let lines = BufReader::new(stdout.context("its output")?).lines();
                for line in lines {
                    if !self.hear(&line?) {
                        break;
                    }
                }
                Ok(())
            });
        let _ = ssh.kill();
        ssh.wait().context("wait for it")?;
        said
    }

    /// Whether it is to go on.
    fn hear(&self, line: &str) -> bool {
        let mut seen = self.seen();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["saved", name, sum] => {
                seen.saved.insert(name.to_owned(), sum.to_owned());
            }
            ["checked", count] => {
                seen.checked += count.parse::<u64>().unwrap_or(0);
                seen.passes += 1;
            }
            _ => seen.wrong.push(format!("{}: {line}", self.name)),
        }
        !seen.ended
    }

    pub(crate) fn end(&self) {
        self.seen().ended = true;
    }

    /// Waits until it has made some passes more.
    pub(crate) fn wait_for_more(&self, vms: &Vms) -> Result<()> {
        let (begun, before) = (Instant::now(), self.seen().passes);
        while self.seen().passes < before + MORE {
            let waited = begun.elapsed() < LONGEST;
            ensure!(
                waited,
                "the guest of {} does not go on: {}",
                self.name,
                vms.run(&["ls"])?
            );
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Reads all files that it acknowledged, and looks at what its kernel said.
    pub(crate) fn check_all(&self, vms: &Vms) -> Result<()> {
        let list: String = {
            let saved = &self.seen().saved;
            let line = |(name, sum): (&String, &String)| format!("{sum}  {name}\n");
            saved.iter().map(line).collect()
        };
        let check = "echo 3 > /proc/sys/vm/drop_caches; cd /torture; \
            LC_ALL=C sha256sum -c --quiet - 2>&1; \
            dmesg | grep -iE 'i/o error|ext4-fs error'; true";
        let mut ssh = vm(vms, &["ssh", &self.name, "--", check]);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut ssh = ssh.spawn().context("log in")?;
        let mut to = ssh.stdin.take().context("its input")?;
        to.write_all(list.as_bytes())?;
        drop(to);
        let output = ssh.wait_with_output().context("wait for it")?;
        ensure!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut seen = self.seen();
        seen.checked += seen.saved.len() as u64;
        let lines = said.lines().map(|line| format!("{}: {line}", self.name));
        seen.wrong.extend(lines);
        Ok(())
    }
}
