//! Input that no honest program makes, through the program: it ends in time and in bounded memory, with an error that
//! says what is wrong and the exit code of that, or with the right bytes; never with a panic or other bytes.

mod archives;
mod clients;
mod damage;
mod forged;
pub(crate) mod full;
mod places;
mod registries;

use std::io::{Seek, SeekFrom, Write};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use harness::Shale;

/// Address space that a command gets, in KiB: far below what hostile lengths ask for, and several times what
/// threads and RocksDB reserve.
const ADDRESS_SPACE_KIB: u32 = 2 << 20;

/// Seconds after which a command hangs. Each takes a fraction of one.
const DEADLINE_SECONDS: u32 = 60;

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    errors: String,
}

impl Ended {
    /// Checks the exit code, and that the last thing it said on standard error has `text` in it.
    fn expect(&self, code: i32, text: &str) -> Result<()> {
        ensure!(
            self.code == code && self.errors.contains(text),
            "expected {code}, {text}: {self:?}"
        );
        Ok(())
    }
}

/// Runs `shale` with these arguments, limits, and `input` as standard input.
fn limited(shale: &Shale, args: &[&str], input: &[u8]) -> Result<Ended> {
    let mut file = tempfile::tempfile()?;
    file.write_all(input)?;
    file.seek(SeekFrom::Start(0))?;
    ended(limited_command(shale, args).stdin(file))
}

/// `shale` with limits.
fn limited_command(shale: &Shale, args: &[&str]) -> Command {
    let inner = shale.command();
    let script = format!(
        "ulimit -v {ADDRESS_SPACE_KIB} && exec timeout --signal=KILL {DEADLINE_SECONDS} \"$0\" \"$@\""
    );
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(script)
        .arg(inner.get_program())
        .args(args)
        .env_clear();
    let variables = inner
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    command.envs(variables).current_dir(shale.home());
    command.stdin(Stdio::null());
    command
}

/// `shale` with the limit on its address space, in a process of its own number: for what a test ends itself.
fn limited_background(shale: &Shale, args: &[&str]) -> Command {
    let inner = shale.command();
    let script = format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$0\" \"$@\"");
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).arg(inner.get_program());
    command.args(args).env_clear();
    let variables = inner
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    command.envs(variables).current_dir(shale.home());
    command
}

/// The most memory that a process had so far, in KiB; 0 when it has ended.
fn peak_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.unwrap_or(0)
}

/// Most of it that hostile input may make a command take: far below what it sends, and several times what a command
/// takes without it.
const MOST_KIB: u64 = 150 << 10;

/// How it ended, which no command may in these ways: by a signal, at the deadline, in a panic, or silently.
fn ended(command: &mut Command) -> Result<Ended> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code();
    ensure!(
        code.is_some_and(|code| code < 100),
        "{command:?}: {}\n{errors}",
        output.status
    );
    ensure!(!errors.contains("panicked at"), "{command:?}\n{errors}");
    ensure!(
        code == Some(0) || errors.starts_with("shale: "),
        "{command:?}\n{errors}"
    );
    let code = code.unwrap_or(-1);
    Ok(Ended { code, errors })
}
