//! Commands that may fail while things are killed around them, and how.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::account::Account;

/// Exit codes that a command may end with while things fail: what it is about is not there, is in use, or cannot be had
/// now.
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 5;
const UNAVAILABLE: i32 = 6;

/// Runs a command that must be done; what it printed.
pub(crate) fn must(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => fail(command, &output),
    }
}

/// Runs a command that may fail where something else is in its way or is away, and no other way. Whether it was done.
pub(crate) fn may_fail(command: &mut Command, account: &mut Account) -> Result<bool> {
    run_with(command, &[CONFLICT, UNAVAILABLE], account)
}

/// Removes what may not have been made.
pub(crate) fn remove(command: &mut Command, account: &mut Account) -> Result<bool> {
    let may = [CONFLICT, UNAVAILABLE, NOT_FOUND];
    run_with(command.arg("--yes"), &may, account)
}

fn run_with(command: &mut Command, may: &[i32], account: &mut Account) -> Result<bool> {
    let output = output(command)?;
    match output.status.code() {
        Some(0) => Ok(true),
        Some(code) if may.contains(&code) => {
            account.refused += 1;
            Ok(false)
        }
        _ => fail(command, &output),
    }
}

fn output(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output();
    output.with_context(|| format!("start {command:?}"))
}

fn fail<T>(command: &Command, output: &Output) -> Result<T> {
    bail!(
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
}
