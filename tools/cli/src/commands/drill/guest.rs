//! A guest that reads and writes a little, and tells how that went.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::scope;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use shale_hostd::api::Instance;

use super::watch::{LOOK_EVERY, Watch};
use crate::commands::vm::arguments;
use crate::failure::{Exit, Failure};

/// What the lines of the guest begin with that are for us.
const MARK: &str = "shale-drill ";

/// What the guest is told to do: one line for each operation. It writes, and reads that again; and it reads files that
/// nobody may have read yet.
const GUEST: &str = r#"f=/var/tmp/.shale-drill.$$; trap 'rm -f $f $f.list' EXIT
find /usr -xdev -type f -size -512k 2>/dev/null | head -n 3000 > $f.list
errors() { dmesg 2>/dev/null | grep -ci 'i/o error'; }
operation() {
    dd if=/dev/urandom of=$f bs=64k count=1 conv=fsync 2>/dev/null || { echo "shale-drill error"; return; }
    a=$(md5sum < $f) || { echo "shale-drill error"; return; }
    { echo 1 > /proc/sys/vm/drop_caches; } 2>/dev/null
    b=$(md5sum < $f) || { echo "shale-drill error"; return; }
    sed -n "$(($1 * 8 + 1)),$(($1 * 8 + 8))p" $f.list | while read -r name; do
        cat "$name" > /dev/null || echo failed
    done | grep -q failed && { echo "shale-drill error"; return; }
    [ "$a" = "$b" ] && echo "shale-drill ok" || echo "shale-drill wrong"
}
dmesg > /dev/null 2>&1 && echo "shale-drill errors $(errors)" || echo "shale-drill errors unknown"
"#;

/// What the guest saw.
#[derive(Debug, Default, Serialize)]
pub(super) struct GuestSaw {
    pub(super) operations: u32,
    /// Operations that failed.
    pub(super) errors: u32,
    /// Operations that read something else than was written.
    pub(super) wrong: u32,
    /// I/O errors that its kernel told of meanwhile; `None` if it does not say.
    pub(super) kernel_errors: Option<u64>,
    pub(super) longest_seconds: Longest,
}

/// The longest operation.
#[derive(Debug, Default, Serialize)]
pub(super) struct Longest {
    pub(super) before: f64,
    pub(super) during: f64,
    pub(super) after: f64,
}

impl GuestSaw {
    pub(super) fn is_unharmed(&self) -> bool {
        self.errors == 0 && self.wrong == 0 && self.kernel_errors.unwrap_or(0) == 0
    }
}

/// A shell in the guest.
pub(super) struct Login {
    ssh: Child,
}

/// What the shell is told, and what it says.
pub(super) struct Lines<'a> {
    to: &'a mut dyn Write,
    from: &'a Receiver<String>,
}

impl Login {
    /// Logs in, if that is possible.
    pub(super) fn open(instance: &Instance) -> anyhow::Result<Option<Self>> {
        let ssh = || {
            let mut ssh = Command::new("ssh");
            ssh.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]);
            // The first of each option counts: a guest that runs has its server by now.
            ssh.args(["-o", "ConnectionAttempts=1"]);
            ssh.args(arguments(&instance.ssh));
            ssh.stderr(Stdio::null());
            ssh
        };
        let tried = ssh().arg("true").stdin(Stdio::null()).status();
        if !tried.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let mut ssh = ssh();
        ssh.arg("sh").stdin(Stdio::piped()).stdout(Stdio::piped());
        let ssh = ssh.spawn().context("run `ssh`")?;
        Ok(Some(Self { ssh }))
    }

    /// Does `work` with the shell, and ends it.
    pub(super) fn during<T>(
        mut self,
        work: impl FnOnce(Lines<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let (stdin, stdout) = (self.ssh.stdin.take(), self.ssh.stdout.take());
        let mut to = stdin.context("the input of `ssh`")?;
        let said = BufReader::new(stdout.context("the output of `ssh`")?);
        let (sender, from) = channel();
        scope(|scope| {
            scope.spawn(move || {
                for line in said.lines().map_while(Result::ok) {
                    if let Some(line) = line.strip_prefix(MARK) {
                        // Nobody listens any more once the work has ended.
                        let _ = sender.send(line.to_owned());
                    }
                }
            });
            let from = &from;
            let done = work(Lines { to: &mut to, from });
            drop(to);
            // Where the guest hangs it would not end.
            let _ = self.ssh.kill();
            let _ = self.ssh.wait();
            done
        })
    }
}

/// A guest that operates.
pub(super) struct Guest<'a> {
    lines: Lines<'a>,
    pub(super) saw: GuestSaw,
    kernel_errors: Option<u64>,
    next: u32,
    /// Longest operation that is waited for.
    limit: Duration,
}

impl<'a> Guest<'a> {
    pub(super) fn new(lines: Lines<'a>, limit: Duration) -> Self {
        Self {
            lines,
            limit,
            saw: GuestSaw::default(),
            kernel_errors: None,
            next: 0,
        }
    }

    pub(super) fn begin(&mut self, watch: &mut Watch<'_>) -> anyhow::Result<()> {
        self.lines.to.write_all(GUEST.as_bytes())?;
        self.lines.to.flush()?;
        self.kernel_errors = self.errors(watch)?;
        Ok(())
    }

    /// One operation; how many seconds it took, of this host's.
    pub(super) fn operate(&mut self, watch: &mut Watch<'_>) -> anyhow::Result<f64> {
        let begun = Instant::now();
        writeln!(self.lines.to, "operation {}", self.next)?;
        self.lines.to.flush()?;
        self.next += 1;
        let said = self.hear(watch)?;
        self.saw.operations += 1;
        match said.as_str() {
            "ok" => {}
            "wrong" => self.saw.wrong += 1,
            _ => self.saw.errors += 1,
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    pub(super) fn end(&mut self, watch: &mut Watch<'_>) -> anyhow::Result<()> {
        writeln!(self.lines.to, "echo \"shale-drill errors $(errors)\"")?;
        self.lines.to.flush()?;
        let after = self.errors(watch)?;
        let both = after.zip(self.kernel_errors);
        self.saw.kernel_errors = both.map(|(after, before)| after.saturating_sub(before));
        Ok(())
    }

    /// The number of errors that its kernel has told of.
    pub(super) fn errors(&mut self, watch: &mut Watch<'_>) -> anyhow::Result<Option<u64>> {
        let said = self.hear(watch)?;
        let number = said.strip_prefix("errors ").unwrap_or(&said);
        Ok(number.trim().parse().ok())
    }

    /// The next line for us. Meanwhile the host is asked what the machine does.
    pub(super) fn hear(&self, watch: &mut Watch<'_>) -> anyhow::Result<String> {
        let until = Instant::now() + self.limit;
        loop {
            match self.lines.from.recv_timeout(LOOK_EVERY) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => drop(watch.look()),
                Err(_) => {
                    let text = format!("the guest of `{}` says nothing any more", watch.name());
                    return Err(Failure::new(Exit::Unavailable, text).into());
                }
            }
        }
    }
}
