//! `shale keeper`: the process that holds open files for the host service, which starts it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use clap::Args;
use tokio::runtime::Builder;

/// This program, also when its file was replaced by that of another version.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Hold open files for the host service, so that mounts outlive it
#[derive(Debug, Args)]
pub(crate) struct Keeper {
    /// Where the service finds it
    #[arg(long)]
    socket: PathBuf,
}

impl Keeper {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        // A session of its own: the end of a terminal does not reach it, nor what ends the service.
        nix::unistd::setsid().context("begin a session")?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let kept = runtime?.block_on(shale_hostd::keep(&self.socket));
        kept.with_context(|| format!("keep open files at `{}`", self.socket.display()))
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
