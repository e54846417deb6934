//! The programs that are measured: `shale`, and its peers with the Debian packages that have them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{repository, run, tool};
use serde_json::Value;

/// Peers that only benches use; all are in `dev/packages bench`. The others are known to the tests' harness.
const PACKAGES: [(&str, &str); 8] = [
    ("borg", "borgbackup"),
    ("casync", "casync"),
    ("mkfs.erofs", "erofs-utils"),
    ("mksquashfs", "squashfs-tools"),
    ("qemu-nbd", "qemu-utils"),
    ("restic", "restic"),
    ("tar2sqfs", "squashfs-tools-ng"),
    ("zstd", "zstd"),
];

/// Peers that `dev/tools nydus` builds, as Debian has none.
const BUILT: [&str; 2] = ["nydus-image", "nydusd"];

/// How often a program that should come up, or that is watched, is looked at.
const POLL: Duration = Duration::from_millis(2);

/// How long a server may take until its socket is there.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// The command of a peer.
///
/// # Errors
///
/// It is not installed: a row never passes over a peer.
pub(crate) fn peer(name: &str) -> Result<Command> {
    if BUILT.contains(&name) {
        // It builds what is missing, and says where it lies.
        let mut tools = Command::new(repository().join("dev/tools"));
        let directory = run(tools.arg("nydus"))?;
        return Ok(Command::new(Path::new(directory.trim_end()).join(name)));
    }
    let Some((_, package)) = PACKAGES.iter().find(|(program, _)| *program == name) else {
        return tool(name);
    };
    let directories = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let mut paths = directories
        .iter()
        .map(|directory| Path::new(directory).join(name));
    let path = paths.find(|path| path.exists());
    let path = path.with_context(|| {
        format!("{name} is missing: install the Debian package {package} (dev/packages test bench installs all)")
    })?;
    Ok(Command::new(path))
}

/// `shale` on directories of its own.
#[derive(Debug, Clone)]
pub(crate) struct Shale {
    program: PathBuf,
    directory: PathBuf,
    registry: Option<String>,
    fills: bool,
}

impl Shale {
    /// The program beside this one, with state, cache and repository below `directory`.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        Ok(Self {
            program: built("shale")?,
            directory: directory.to_owned(),
            registry: None,
            fills: true,
        })
    }

    /// The same with a registry in place of the repository.
    pub(crate) fn of_registry(mut self, url: &str) -> Self {
        self.registry = Some(url.to_owned());
        self
    }

    /// The same, whose host service brings nothing that is not read.
    pub(crate) fn without_fills(self) -> Self {
        let fills = false;
        Self { fills, ..self }
    }

    /// File that the standard error of servers goes to.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("nbd.log")
    }

    /// `shale`, with nobody's settings from outside.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", &self.directory)
            .envs((!self.fills).then_some(("SHALE_FILL_RATE", "off")))
            .arg("--repository")
            .arg(
                self.registry
                    .as_ref()
                    .map_or_else(|| self.repository(), PathBuf::from),
            )
            .arg("--state")
            .arg(self.state())
            .arg("--cache")
            .arg(self.cache())
            .stdin(Stdio::null());
        command
    }

    /// Runs `shale --format json` with these arguments and reads what it prints.
    pub(crate) fn json(&self, arguments: &[&std::ffi::OsStr]) -> Result<Value> {
        let text = run(self.command().args(["--format", "json"]).args(arguments))?;
        serde_json::from_str(&text).with_context(|| format!("shale printed {text}"))
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.directory.join("repository")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.directory.join("cache")
    }
}

/// A program of this workspace, which lies where this one lies.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is not built: make bench does",
        path.display()
    );
    Ok(path)
}

/// A running program; ended when dropped, with the time to end in order.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self(child))
    }

    /// Starts a server and waits until `socket` is there.
    pub(crate) fn server(command: &mut Command, socket: &Path) -> Result<Self> {
        let mut server = Self::start(command)?;
        let deadline = Instant::now() + UP_WITHIN;
        while !socket.exists() {
            if let Some(status) = server.0.try_wait()? {
                bail!("{command:?} ended: {status}");
            }
            ensure!(Instant::now() < deadline, "{command:?} did not come up");
            std::thread::sleep(POLL);
        }
        Ok(server)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for the end of it and returns the most memory that was resident, in bytes, as seen every few
    /// milliseconds.
    pub(crate) fn peak_memory(mut self) -> Result<u64> {
        let mut peak = 0;
        loop {
            peak = resident_peak(self.id()).unwrap_or(peak);
            if let Some(status) = self.0.try_wait()? {
                ensure!(status.success(), "it ended: {status}");
                return Ok(peak);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits for the end of it.
    pub(crate) fn finish(mut self) -> Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "it ended: {status}");
        Ok(())
    }

    /// Its standard input.
    pub(crate) fn stdin(&mut self) -> Result<std::process::ChildStdin> {
        self.0.stdin.take().context("it has no standard input")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        // SIGTERM, so that servers remove their sockets.
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The most bytes that a process had resident so far; `None` when it is gone.
pub(crate) fn resident_peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().split(' ').next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Bytes of all files below `path`.
pub(crate) fn size_of(path: &Path) -> Result<u64> {
    let metadata =
        std::fs::symlink_metadata(path).with_context(|| format!("stat {}", path.display()))?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(path)? {
        sum += size_of(&entry?.path())?;
    }
    Ok(sum)
}

/// Removes what a run left, and waits until nothing is left to be written to disk, so that the next run does not
/// pay for this one.
pub(crate) fn clear(path: &Path) -> Result<()> {
    if path.is_dir() {
        std::fs::remove_dir_all(path)?;
    } else if path.exists() {
        std::fs::remove_file(path)?;
    }
    run(&mut Command::new("sync")).map(drop)
}
