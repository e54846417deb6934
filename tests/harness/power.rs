//! A host that can lose its power: all that runs on it is gone at once, and of what it wrote only what was synced is there.
//!
//! Its processes are those of a PID namespace, whose first one is killed, in a mount namespace that goes with them, and
//! they see a boot id of their own. Its home lies on a file system that is shut down without being written back, as
//! xfstests do it; the journal is the kernel's to replay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::Background;
use crate::tools::{need_root, run, tool};

/// Where Linux shows the id of a boot, and a new id each time.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const NEW_ID: &str = "/proc/sys/kernel/random/uuid";

/// The first process: it takes note of processes that end whose parents are gone.
const INIT: &str = r#"mount --bind "$1" "$2" && echo up >&2 && while sleep 0.2; do :; done"#;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: from now on nothing is written, not even the journal. Perl is on
/// every Debian.
const SHUT_DOWN: &str = r#"open(my $dir, "<", $ARGV[0]) or die $!;
my $flags = pack("I", 2); defined(ioctl($dir, 0x8004587d, $flags)) or die $!"#;

/// How files of the home are mounted: nothing is written back without being asked for, for as long as the kernel allows.
const OPTIONS: &str = "noauto_da_alloc,commit=60";

/// How long processes, and the file system behind them, may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(60);

/// What becomes of what was written and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// It is lost, but for what the kernel happened to write back.
    Lost,
    /// It is there: the host was reset, and its disks have what the kernel had for them.
    Kept,
}

/// A host that is up or down.
#[derive(Debug)]
pub struct Power {
    home: PathBuf,
    device: String,
    /// nsenter(1), and setpriv(1), with which what runs on the host ends with who waits for it.
    enter: PathBuf,
    bind: PathBuf,
    up: Mutex<Option<Up>>,
    /// Image and boot id.
    own: TempDir,
}

/// A boot.
#[derive(Debug)]
struct Up {
    outside: Background,
    init: Pid,
}

impl Power {
    /// A host with the empty directory `home` on a file system of `bytes`, booted.
    ///
    /// # Errors
    ///
    /// Not root, or the kernel has no namespaces or loop devices for us.
    pub(crate) fn new(home: &Path, bytes: u64) -> Result<Self> {
        need_root()?;
        let own = tempfile::tempdir().context("make a directory")?;
        let image = own.path().join("image");
        fs::File::create(&image)?.set_len(bytes)?;
        let features = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
        let make = ["-q", "-F", "-t", "ext4", "-J", "size=64", "-E", features];
        run(tool("mke2fs")?.args(make).arg(&image))?;
        let device = run(tool("losetup")?.args(["--show", "--find"]).arg(&image))?;
        let power = Self {
            home: home.to_owned(),
            device: device.trim().to_owned(),
            enter: tool("nsenter")?.get_program().into(),
            // `unshare` is of the same package.
            bind: tool("setpriv")?.get_program().into(),
            up: Mutex::default(),
            own,
        };
        power.mount()?;
        power.boot()?;
        Ok(power)
    }

    /// The command of a program on the host, in its home. It ends when whoever started it kills what it started.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let init = self.up().as_ref().map(|up| up.init.as_raw_nonzero().get());
        let mut command = Command::new(&self.enter);
        // While it is down, that of a process which there is not: it fails.
        command.arg(format!("--target={}", init.unwrap_or(i32::MAX)));
        command.args(["--mount", "--pid"]);
        command.arg(format!("--wdns={}", self.home.display()));
        command.arg("--").arg(&self.bind);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    /// Cuts the power. What is in its home can be looked at, and changed, until it is booted.
    ///
    /// # Errors
    ///
    /// It is down, or something of it does not go.
    pub fn cut(&self, unsynced: Unsynced) -> Result<()> {
        let mut up = self.up().take().context("it is down")?;
        kill_process(up.init, Signal::KILL)?;
        let begun = Instant::now();
        while up.outside.ended()?.is_none() {
            ensure!(begun.elapsed() < GONE_WITHIN, "its processes do not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.unmount(unsynced)?;
        self.mount()
    }

    /// Boots it again.
    ///
    /// # Errors
    ///
    /// It is up, or does not boot.
    pub fn boot(&self) -> Result<()> {
        let mut up = self.up();
        ensure!(up.is_none(), "it is up");
        let id = self.own.path().join("boot-id");
        fs::write(&id, fs::read(NEW_ID)?)?;
        let mut outside = Command::new(&self.bind);
        outside.args(["--pdeathsig", "KILL", "--", "unshare"]);
        outside.args(["--mount", "--pid", "--fork", "--kill-child=KILL"]);
        outside.args(["--mount-proc", "sh", "-c", INIT, "host"]);
        let outside = Background::start_until(outside.arg(&id).arg(BOOT_ID), "up")?;
        let pid = outside.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let init = Pid::from_raw(children.trim().parse()?).context("its first process")?;
        *up = Some(Up { outside, init });
        Ok(())
    }

    /// What is mounted below its home, a line each, as its kernel lists it.
    ///
    /// # Errors
    ///
    /// It is down.
    pub fn mounts(&self) -> Result<Vec<String>> {
        let init = self.up().as_ref().map(|up| up.init);
        let init = init.context("it is down")?.as_raw_nonzero();
        let all = fs::read_to_string(format!("/proc/{init}/mounts"))?;
        let below = format!(" {}/", self.home.display());
        let ours = all.lines().filter(|line| line.contains(&below));
        Ok(ours.map(str::to_owned).collect())
    }

    fn up(&self) -> MutexGuard<'_, Option<Up>> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mount(&self) -> Result<()> {
        let mut mount = tool("mount")?;
        mount.args(["-o", OPTIONS, &self.device]);
        run(mount.arg(&self.home)).map(drop)
    }

    fn is_mounted(&self) -> bool {
        let name = self.device.trim_start_matches("/dev/");
        Path::new("/sys/fs/ext4").join(name).exists()
    }

    /// Unmounts the home, and waits until its file system is gone with all that knew it.
    fn unmount(&self, unsynced: Unsynced) -> Result<()> {
        if unsynced == Unsynced::Lost {
            run(tool("perl")?.args(["-e", SHUT_DOWN]).arg(&self.home))?;
        }
        // Lazily: somebody may look at a file of it.
        run(tool("umount")?.arg("--lazy").arg(&self.home))?;
        let begun = Instant::now();
        while self.is_mounted() {
            ensure!(begun.elapsed() < GONE_WITHIN, "its disk is still in use");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        // What fails here shows in what is left.
        drop(self.up().take());
        let _ = self.unmount(Unsynced::Kept);
        let _ = tool("losetup").and_then(|mut losetup| run(losetup.args(["-d", &self.device])));
    }
}
