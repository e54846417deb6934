//! A systemd of its own for a test: in namespaces of its own, with the programs of this machine and a root of its own.
//!
//! It is no virtual machine: what it starts runs on this machine's kernel, at its speed, and sees devices, network and files
//! that are not those of this machine's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::tools::{need_root, repository, run, tool};

/// How long it may take to start, or to end.
const WITHIN: Duration = Duration::from_secs(60);

/// How the names of cgroups begin that are made here; the number of the test's process follows.
const PREFIX: &str = "shale-test-";

/// A systemd that runs; all that it started ends with it, when this is dropped.
#[derive(Debug)]
pub struct Systemd {
    child: Child,
    cgroup: PathBuf,
    root: TempDir,
}

impl Systemd {
    /// Boots one. Each of `shown` is a directory that is seen there, read-only, at a path from its root.
    ///
    /// # Errors
    ///
    /// Not root, the system has no unified hierarchy of cgroups, or it does not come up.
    pub fn boot(shown: &[(&Path, &str)]) -> Result<Self> {
        need_root()?;
        let cgroups = cgroups()?;
        sweep(&cgroups)?;
        let cgroup = cgroups.join(format!("{PREFIX}{}", std::process::id()));
        let root = tempfile::tempdir().context("make a root directory")?;
        let log = fs::File::create(root.path().join("boot.log"))?;
        // Whoever kills the test ends it, too: the first process of its namespace dies with unshare, and with that all others.
        let mut command = tool("setpriv")?;
        command
            .args(["--pdeathsig", "KILL", "unshare", "--kill-child", "--fork"])
            .args([
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--uts",
                "--ipc",
                "--net",
            ])
            .arg(repository().join("dev/systemd-in"))
            .arg(root.path())
            .arg(&cgroup);
        for (directory, path) in shown {
            command.arg(directory).arg(path.trim_start_matches('/'));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start unshare")?;
        let mut this = Self {
            child,
            cgroup,
            root,
        };
        this.wait_until_up()?;
        Ok(this)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Ok(init) = self.init()
                && let Ok(state) = run(self.enter(init)?.args([
                    "sh",
                    "-c",
                    "systemctl is-system-running --wait || true",
                ]))
                && ["running", "degraded"].contains(&state.trim())
            {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || begun.elapsed() > WITHIN {
                let said = fs::read_to_string(self.root.path().join("boot.log"));
                bail!("systemd does not come up: {}", said.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its first process, as this machine numbers it.
    fn init(&self) -> Result<Pid> {
        let procs = fs::read_to_string(self.cgroup.join("init.scope/cgroup.procs"))?;
        let first = procs.lines().next().and_then(|pid| pid.parse().ok());
        first.and_then(Pid::from_raw).context("it has not begun")
    }

    fn enter(&self, init: Pid) -> Result<Command> {
        let mut command = tool("nsenter")?;
        command
            .args(["--all", "--target"])
            .arg(init.as_raw_nonzero().to_string())
            .args(["env", "-i", "HOME=/root"])
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
            .stdin(Stdio::null());
        Ok(command)
    }

    /// What a shell's command printed that ran there as root.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn run(&self, script: &str) -> Result<String> {
        let mut command = self.enter(self.init()?)?;
        run(command.args(["sh", "-c", script]))
    }

    /// Command lines of all its processes but its own and the journal's, with their numbers on this machine.
    ///
    /// # Errors
    ///
    /// They cannot be listed.
    pub fn processes(&self) -> Result<Vec<(u32, String)>> {
        let mut all = Vec::new();
        for directory in below(&self.cgroup)? {
            let is_own = |name: &str| directory.ends_with(name);
            if is_own("init.scope") || is_own("systemd-journald.service") {
                continue;
            }
            let procs = fs::read_to_string(directory.join("cgroup.procs"))?;
            for pid in procs.lines().filter_map(|pid| pid.parse().ok()) {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                all.push((pid, line.trim().to_owned()));
            }
        }
        Ok(all)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // Where the child has not begun yet, it ends with its parent.
        if let Ok(init) = self.init() {
            let _ = kill_process(init, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let begun = Instant::now();
        while remove(&self.cgroup).is_err() && begun.elapsed() < WITHIN {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The root of the unified hierarchy of cgroups (cgroups(7)).
fn cgroups() -> Result<PathBuf> {
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    let mut unified = places.into_iter();
    let found = unified.find(|place| place.join("cgroup.procs").exists());
    found.context("there is no unified hierarchy of cgroups at /sys/fs/cgroup")
}

/// Removes what tests left that were killed.
fn sweep(cgroups: &Path) -> Result<()> {
    for entry in fs::read_dir(cgroups)? {
        let entry = entry?;
        let name = entry.file_name();
        let test = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if test.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // One whose processes are about to end is swept by the next.
            let _ = remove(&entry.path());
        }
    }
    Ok(())
}

/// A cgroup and all below it, the innermost first.
fn below(cgroup: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.extend(below(&entry.path())?);
        }
    }
    all.push(cgroup.to_owned());
    Ok(all)
}

/// Removes a cgroup in which no process is left.
fn remove(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    for directory in below(cgroup)? {
        fs::remove_dir(directory)?;
    }
    ensure!(!cgroup.exists(), "{} is still there", cgroup.display());
    Ok(())
}
