//! `shale vm console`.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use shale_hostd::api::InstanceState;
use shale_hvplug::OwnSocket;

use super::inspect_one;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;

/// What leaves the console: Ctrl-], as in telnet.
const LEAVE: u8 = 0x1d;

/// How long the guest may be quiet, after the end of an input that is no terminal, until the console is left.
const QUIET: Duration = Duration::from_secs(1);

/// Bytes that are copied at once.
const BUFFER: usize = 4096;

/// Attach to the serial console of a virtual machine
///
/// Ctrl-] leaves it. One at a time: a second one waits until the first has left. When the input is no
/// terminal, the console is left at its end, once the guest has been quiet for a second.
///
/// Examples:
///   shale vm console web
///   echo root | shale vm console web
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Console {
    /// The machine
    name: String,
}

impl Console {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let instance = inspect_one(context, &self.name)?;
        if instance.state == InstanceState::Stopped {
            let text = format!("`{}` does not run", self.name);
            let hint = format!("`shale vm logs {}` shows what it printed", self.name);
            return Err(Failure::new(Exit::Conflict, text).hint(hint).into());
        }
        let socket = &instance.console.socket;
        let own = OwnSocket::open(socket);
        let stream = own.and_then(|own| UnixStream::connect(own.path()));
        let stream = stream.with_context(|| format!("connect to `{}`", socket.display()))?;
        let _raw = match io::stdin().is_terminal() {
            true => {
                note!("attached to `{}`; Ctrl-] leaves", self.name);
                Some(Raw::new()?)
            }
            false => None,
        };
        copy(stream, io::stdin().is_terminal())
    }
}

/// Copies both ways until the guest's end or the user's.
fn copy(mut stream: UnixStream, terminal: bool) -> anyhow::Result<()> {
    let stdin = io::stdin();
    let mut stdout = io::stdout().lock();
    let mut buffer = [0; BUFFER];
    let mut input_ended = false;
    loop {
        let mut ready = vec![PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        let timeout = match input_ended {
            true => PollTimeout::try_from(QUIET)?,
            false => {
                ready.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
                PollTimeout::NONE
            }
        };
        match poll(&mut ready, timeout) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for the console"),
        }
        let any = |fd: Option<&PollFd<'_>>| fd.and_then(PollFd::any).unwrap_or(false);
        let (from_guest, from_user) = (any(ready.first()), any(ready.get(1)));
        if from_guest {
            let len = stream.read(&mut buffer).context("read the console")?;
            if len == 0 {
                return Ok(());
            }
            stdout.write_all(&buffer[..len])?;
            stdout.flush()?;
        }
        if from_user {
            // Not through the library's buffer, which poll(2) does not see.
            let len = rustix::io::read(&stdin, &mut buffer).context("read standard input")?;
            let typed = &buffer[..len];
            let leave = typed.iter().position(|byte| terminal && *byte == LEAVE);
            let typed = &typed[..leave.unwrap_or(len)];
            stream.write_all(typed).context("write to the console")?;
            if leave.is_some() {
                return Ok(());
            }
            input_ended = len == 0;
        }
    }
}

/// The terminal passes every key on, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn new() -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin()).context("read the terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).context("change the terminal's settings")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Best effort: there is nobody left to be told.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
        note!("\r");
    }
}
