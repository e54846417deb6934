//! `shale keeper`: the process that holds open files for the host service, which starts it.

#![expect(
    unsafe_code,
    reason = "inherited files come by number, and are closed before this process has any of its own"
)]

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use clap::Args;
use tokio::runtime::Builder;

/// This program, also when its file was replaced by that of another version.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Standard error; what is below is the null device.
const LAST_STANDARD: RawFd = 2;

/// Hold open files for the host service, so that mounts outlive it
#[derive(Debug, Args)]
pub(crate) struct Keeper {
    /// Where the service finds it
    #[arg(long)]
    socket: PathBuf,
}

impl Keeper {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        close_inherited();
        // A session of its own: the end of a terminal does not reach it, nor what ends the service.
        nix::unistd::setsid().context("begin a session")?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let kept = runtime?.block_on(shale_hostd::keep(&self.socket));
        kept.with_context(|| format!("keep open files at `{}`", self.socket.display()))
    }
}

/// Closes what the service was started with and knows nothing of: whoever waits for the end of a pipe would wait for this
/// process, too.
fn close_inherited() {
    let entries = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // All of them before one is closed, the listing's own last.
    let numbers: Vec<RawFd> = numbers.filter(|number| *number > LAST_STANDARD).collect();
    for number in numbers {
        if fs::read_link(format!("/proc/self/fd/{number}")).is_ok() {
            // SAFETY: it is open, and nothing in this process owns it, which has opened nothing yet but that listing.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
}

/// Starts it in the background. Nothing of this process goes along but the program.
pub(crate) fn start(socket: &Path) -> io::Result<Child> {
    Command::new(THIS_PROGRAM)
        // What lists of processes show.
        .arg0("shale")
        .args([
            OsStr::new("keeper"),
            OsStr::new("--socket"),
            socket.as_os_str(),
        ])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
