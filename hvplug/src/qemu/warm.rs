//! Warm starts: a machine's memory is a file, and the state of its devices is what QEMU would send to another host in a
//! migration, told that the memory needs no sending (`x-ignore-shared`).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::json;

use crate::driver::{Driver, Stop, Vm};
use crate::error::{DriverError, DriverResult};
use crate::machine::{Machine, Memory};
use crate::warm::WarmStart;

use super::qmp::Qmp;
use super::{ANSWER_WITHIN, Awaited, Launch, PROGRAM, Qemu, missing, start_error, system};

/// The status of a machine that waits for the state that its guest goes on in.
pub(super) const WAITS_FOR_STATE: &str = "inmigrate";

/// The directory that a process has as its standard input, which QEMU reads nothing from: a file that is handed on without a
/// moment in which other processes could inherit it.
const INPUT: &str = "/proc/self/fd/0";

/// What QEMU calls the file that the state is in.
const FILE: &str = "state";

/// Longest state that is kept: half a megabyte is usual; memory that did not stay where it is would be more.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// How long keeping and taking up may take: a fraction of a second, on a busy machine more.
const WITHIN: Duration = Duration::from_secs(30);

/// How often QEMU is asked whether it is done.
const POLL: Duration = Duration::from_millis(1);

impl WarmStart for Qemu {
    fn version(&self) -> DriverResult<String> {
        let output = Command::new(self.program()).arg("--version").output();
        let output = output.map_err(|_| missing(PROGRAM, "qemu-system-x86"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().next().unwrap_or_default().trim();
        match output.status.success() && !line.is_empty() {
            true => Ok(line.to_owned()),
            false => Err(start_error("it does not tell its version".into())),
        }
    }

    fn keep(&self, vm: &Vm) -> DriverResult<Vec<u8>> {
        if !vm.process.runs() {
            return Err(DriverError::Ended);
        }
        let mut qmp = Qmp::connect(&vm.files.control, WITHIN)?;
        // Waits for what the disks are doing, too.
        qmp.execute("stop", json!({}))?;
        leave_memory(&mut qmp)?;
        let mut file = memory_file(&[])?;
        qmp.give(FILE, file.as_fd())?;
        qmp.execute("migrate", json!({ "uri": format!("fd:{FILE}") }))?;
        let deadline = Instant::now() + WITHIN;
        loop {
            let now = qmp.execute("query-migrate", json!({}))?;
            match now["status"].as_str().unwrap_or_default() {
                "completed" => break,
                "failed" | "cancelled" => {
                    let reason = now["error-desc"].as_str().unwrap_or("it does not say why");
                    return Err(refused("migrate", reason));
                }
                _ if Instant::now() > deadline => {
                    return Err(refused("migrate", "it does not come to an end"));
                }
                _ => sleep(POLL),
            }
        }
        let mut state = Vec::new();
        let whole = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.take(MAX_STATE_BYTES + 1).read_to_end(&mut state));
        whole.map_err(system("read", Path::new(FILE)))?;
        match state.len() as u64 <= MAX_STATE_BYTES {
            true => Ok(state),
            false => Err(refused("migrate", "its state is not small")),
        }
    }

    fn start_from(
        &self,
        machine: &Machine,
        state: &[u8],
        directory: BorrowedFd<'_>,
    ) -> DriverResult<Vm> {
        let input = directory.try_clone_to_owned();
        let launch = Launch {
            more: &["-incoming", "defer"],
            input: input.map_err(system("open", Path::new(INPUT)))?.into(),
            awaited: Awaited::State,
        };
        let vm = self.launch(&below(machine, Path::new(INPUT)), launch)?;
        let begun = take_up(&vm, state);
        if begun.is_err() {
            // It would wait for ever. What cannot be killed has ended.
            let _ = self.stop(&vm, Stop::PowerCut);
        }
        begun.map(|()| vm)
    }
}

/// A machine whose files that begin it are in this directory.
fn below(machine: &Machine, directory: &Path) -> Machine {
    let mut machine = machine.clone();
    if let Memory::Private(memory) = &mut machine.memory {
        *memory = directory.join(&memory);
    }
    if let Some(boot) = &mut machine.boot {
        boot.kernel = directory.join(&boot.kernel);
        boot.initrd = boot.initrd.as_ref().map(|initrd| directory.join(initrd));
    }
    machine
}

/// Gives a machine that waits for it a state.
fn take_up(vm: &Vm, state: &[u8]) -> DriverResult<()> {
    let mut qmp = Qmp::connect(&vm.files.control, WITHIN)?;
    leave_memory(&mut qmp)?;
    let file = memory_file(state)?;
    qmp.give(FILE, file.as_fd())?;
    qmp.execute("migrate-incoming", json!({ "uri": format!("fd:{FILE}") }))?;
    let deadline = Instant::now() + WITHIN;
    loop {
        let now = match qmp.execute("query-status", json!({})) {
            Ok(now) => now,
            // A state that it cannot read ends it, with a word in its log.
            Err(_) if !vm.process.runs() || vm.process.wait(ANSWER_WITHIN) => {
                return Err(refused("migrate-incoming", &super::said(&vm.files.log, 0)));
            }
            Err(error) => return Err(error),
        };
        match now["status"].as_str().unwrap_or_default() {
            WAITS_FOR_STATE if Instant::now() > deadline => {
                return Err(refused("migrate-incoming", "it does not come to an end"));
            }
            WAITS_FOR_STATE => sleep(POLL),
            // It was kept standing still.
            _ => return Ok(()),
        }
    }
}

/// Says that the memory is in its file already.
fn leave_memory(qmp: &mut Qmp) -> DriverResult<()> {
    let capability = json!({ "capability": "x-ignore-shared", "state": true });
    let capabilities = json!({ "capabilities": [capability] });
    qmp.execute("migrate-set-capabilities", capabilities)
        .map(drop)
}

/// A file without a name with these bytes, which is read from its beginning.
fn memory_file(bytes: &[u8]) -> DriverResult<File> {
    let made = memfd_create("state", MemfdFlags::CLOEXEC).map_err(Into::into);
    let filled = made.and_then(|fd| {
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    });
    filled.map_err(system("make", Path::new(FILE)))
}

fn refused(command: &str, reason: &str) -> DriverError {
    DriverError::Refused {
        command: command.to_owned(),
        reason: reason.to_owned(),
    }
}
