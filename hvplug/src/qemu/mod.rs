//! QEMU: a process per machine, in a session of its own.
//!
//! Nothing is kept in memory: the process is found again by the number in its pid file and by the control
//! socket among its arguments, and every command opens the control socket anew.

mod account;
mod command;
mod moving;
mod qmp;
mod warm;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::driver::{Capabilities, Driver, Stop, Vm, VmState};
use crate::error::{DriverError, DriverResult};
use crate::machine::{Acceleration, DiskOffer, Machine, VmFiles};
use crate::mover::DiskMover;
use crate::process::ProcessId;
use crate::warm::WarmStart;

pub use account::Account;
use account::SETPRIV;
use command::arguments;
use qmp::Qmp;

const PROGRAM: &str = "qemu-system-x86_64";

/// Makes a session and becomes the program; part of the essential package util-linux.
const SETSID: &str = "setsid";

/// How long QEMU may take until it answers: a second, on a machine that is busy with other guests more.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How often a starting QEMU is looked at.
const POLL: Duration = Duration::from_millis(5);

/// How long a command may take: they answer at once, also while the guest waits for its disk.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long a question about the state may take before the machine counts as silent.
const STATE_WITHIN: Duration = Duration::from_secs(2);

/// How long the system may take to end a process that was killed.
const KILL_WITHIN: Duration = Duration::from_secs(20);

/// Longest number of a process, and the end of its line.
const MAX_PID_BYTES: u64 = 16;

/// Bytes of QEMU's log that an error shows.
const SAID_BYTES: usize = 2000;

/// Machines of `qemu-system-x86_64`.
#[derive(Debug, Clone, Default)]
pub struct Qemu {
    /// The program; found by its name when it is started.
    program: Option<PathBuf>,
    /// Who machines run as; the caller, if nobody is named.
    account: Option<Account>,
}

impl Qemu {
    /// The driver for the `qemu-system-x86_64` on the search path.
    pub fn new() -> Self {
        Self::default()
    }

    /// The driver for another program.
    pub fn with_program(program: PathBuf) -> Self {
        Self {
            program: Some(program),
            account: None,
        }
    }

    /// Runs machines that are started from now on as this user, which only root can. Those that run are found all the
    /// same.
    #[must_use]
    pub fn run_as(self, account: Account) -> Self {
        Self {
            account: Some(account),
            ..self
        }
    }

    /// What starts a machine, short of its own arguments.
    fn command(&self, machine: &Machine) -> DriverResult<(Command, &'static str)> {
        let (mut command, name) = match &self.account {
            Some(account) => {
                account.admit(machine)?;
                let mut command = account.command(machine);
                command.arg(SETSID);
                (command, SETPRIV)
            }
            None => (Command::new(SETSID), SETSID),
        };
        command.arg(self.program());
        Ok((command, name))
    }

    fn program(&self) -> &Path {
        self.program.as_deref().unwrap_or(Path::new(PROGRAM))
    }

    /// Starts the machine's process, and returns when it is what is awaited.
    fn launch(&self, machine: &Machine, launch: Launch<'_>) -> DriverResult<Vm> {
        let files = &machine.files;
        for socket in [&files.control, &files.console, &files.channel] {
            if socket.as_os_str().len() > VmFiles::MAX_SOCKET_PATH {
                return Err(DriverError::LongPath(socket.clone()));
            }
        }
        remove_stale(files)?;
        let mut log = open_log(&files.log)?;
        let buffered = without_direct_io(machine);
        for path in &buffered {
            let path = path.display();
            // Whoever reads the log is told; the machine runs as well.
            let _ = writeln!(log, "{path}: its file system has no direct I/O");
        }
        let before = log.metadata().map_or(0, |metadata| metadata.len());
        let (mut command, name) = self.command(machine)?;
        command
            .args(arguments(machine, &buffered))
            .args(launch.more)
            .stdin(launch.input)
            .stdout(Stdio::null())
            .stderr(log)
            .current_dir("/");
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(name, "util-linux"),
            _ => system("start", Path::new(name))(error),
        })?;
        let process = wait_until_ready(child, files, before, launch.awaited)?;
        Ok(Vm {
            process,
            files: files.clone(),
        })
    }

    fn execute(&self, vm: &Vm, command: &str, limit: Duration) -> DriverResult<Value> {
        if !vm.process.runs() {
            return Err(DriverError::Ended);
        }
        let mut qmp = Qmp::connect(&vm.files.control, limit)?;
        qmp.execute(command, json!({}))
    }
}

impl Driver for Qemu {
    fn capabilities(&self) -> Capabilities {
        let version = Command::new(self.program()).arg("--version").output();
        let missing = match version {
            Ok(output) if output.status.success() => None,
            _ => Some(missing(PROGRAM, "qemu-system-x86").to_string()),
        };
        let mut accelerations = vec![Acceleration::Tcg];
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        if kvm.is_ok() {
            accelerations.push(Acceleration::Kvm);
        }
        Capabilities {
            driver: "qemu",
            missing,
            accelerations,
        }
    }

    fn start(&self, machine: &Machine) -> DriverResult<Vm> {
        let launch = Launch {
            more: &[],
            input: Stdio::null(),
            awaited: Awaited::Running,
        };
        self.launch(machine, launch)
    }

    fn attach(&self, files: &VmFiles) -> DriverResult<Option<Vm>> {
        let pid = match read_pid(&files.pid) {
            Ok(pid) => pid,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(system("read", &files.pid)(error)),
        };
        let process = pid.trim().parse().ok().and_then(ProcessId::of);
        let control = command::control_argument(files);
        let ours = process.filter(|process| process.has_argument(control.as_encoded_bytes()));
        let files = files.clone();
        Ok(ours.map(|process| Vm { process, files }))
    }

    fn state(&self, vm: &Vm) -> DriverResult<VmState> {
        let status = match self.execute(vm, "query-status", STATE_WITHIN) {
            Ok(answer) => answer,
            Err(DriverError::Ended) => return Ok(VmState::Ended),
            Err(_) if !vm.process.runs() => return Ok(VmState::Ended),
            Err(DriverError::NoAnswer { .. }) => return Ok(VmState::Silent),
            Err(error) => return Err(error),
        };
        Ok(match status["status"].as_str().unwrap_or_default() {
            "running" => VmState::Running,
            "io-error" => VmState::DiskFailed,
            other => VmState::Paused(other.to_owned()),
        })
    }

    fn stop(&self, vm: &Vm, stop: Stop) -> DriverResult<()> {
        match stop {
            Stop::PowerButton => match self.execute(vm, "system_powerdown", ANSWER_WITHIN) {
                Ok(_) | Err(DriverError::Ended) => Ok(()),
                Err(_) if !vm.process.runs() => Ok(()),
                Err(error) => Err(error),
            },
            Stop::PowerCut => match vm.process.kill(KILL_WITHIN) {
                true => Ok(()),
                false => Err(DriverError::NoAnswer {
                    command: "SIGKILL".into(),
                    source: io::ErrorKind::TimedOut.into(),
                }),
            },
        }
    }

    fn pause(&self, vm: &Vm) -> DriverResult<()> {
        self.execute(vm, "stop", ANSWER_WITHIN).map(drop)
    }

    fn resume(&self, vm: &Vm) -> DriverResult<()> {
        self.execute(vm, "cont", ANSWER_WITHIN).map(drop)
    }

    fn console(&self, vm: &Vm) -> PathBuf {
        vm.files.console.clone()
    }

    fn mover(&self) -> Option<&dyn DiskMover> {
        Some(self)
    }

    fn warm_start(&self) -> Option<&dyn WarmStart> {
        Some(self)
    }
}

/// The disk files of a machine that cannot be opened for direct I/O: their file systems refuse the flag (open(2)). What
/// else is wrong with a file QEMU says itself.
fn without_direct_io(machine: &Machine) -> Vec<&Path> {
    let disks = machine.disks.iter().chain(&machine.data_disks);
    let files = disks.filter_map(|disk| match disk {
        DiskOffer::Block(path) => Some(path.as_path()),
        DiskOffer::Nbd(_) => None,
    });
    files.filter(|path| refuses_direct_io(path)).collect()
}

fn refuses_direct_io(path: &Path) -> bool {
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).err() == Some(Errno::INVAL)
}

/// How the process of a machine is started.
struct Launch<'a> {
    /// Arguments besides those of its machine.
    more: &'a [&'a str],
    /// Its standard input.
    input: Stdio,
    awaited: Awaited,
}

/// What a process that starts is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// Its guest runs.
    Running,
    /// It waits for the state that its guest goes on in.
    State,
}

/// Waits until the machine is what is awaited; one that does not come so far is ended.
fn wait_until_ready(
    mut child: Child,
    files: &VmFiles,
    log_start: u64,
    awaited: Awaited,
) -> DriverResult<ProcessId> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let ended = child.try_wait();
        if let Ok(Some(status)) = ended {
            let said = said(&files.log, log_start);
            return Err(match status.code() {
                // setsid(1) could not find the program.
                Some(127) => missing(PROGRAM, "qemu-system-x86"),
                _ if said.is_empty() => start_error(status.to_string()),
                _ => start_error(said),
            });
        }
        let error = match ready(child.id(), files, awaited) {
            Ok(Some(process)) => return Ok(process),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() > deadline {
            // What cannot be killed has ended.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error.unwrap_or(DriverError::NotReady {
                program: PROGRAM,
                limit: READY_WITHIN,
            }));
        }
        sleep(POLL);
    }
}

/// The process, once it has written its number and is what is awaited.
fn ready(pid: u32, files: &VmFiles, awaited: Awaited) -> DriverResult<Option<ProcessId>> {
    let written = read_pid(&files.pid).unwrap_or_default();
    if written.trim() != pid.to_string() || !files.control.exists() {
        return Ok(None);
    }
    let mut qmp = Qmp::connect(&files.control, ANSWER_WITHIN)?;
    let status = qmp.execute("query-status", json!({}))?;
    let is_there = match awaited {
        Awaited::Running => status["running"] == true,
        Awaited::State => status["status"] == warm::WAITS_FOR_STATE,
    };
    Ok(ProcessId::of(pid).filter(|_| is_there))
}

/// What QEMU wrote as its number. It may have been made to put anything there.
fn read_pid(path: &Path) -> io::Result<String> {
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    io::read_to_string(file.take(MAX_PID_BYTES))
}

/// The end of what QEMU wrote to its log since `start`.
fn said(log: &Path, start: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let new = bytes.get(start as usize..).unwrap_or_default();
    let end = &new[new.len().saturating_sub(SAID_BYTES)..];
    String::from_utf8_lossy(end).trim().to_owned()
}

/// Sockets of a machine that has ended would be taken for those of the new one. The pid file stays: QEMU
/// holds a lock on it and refuses to start while another does.
fn remove_stale(files: &VmFiles) -> DriverResult<()> {
    for path in [&files.control, &files.console, &files.channel] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(system("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn open_log(path: &Path) -> DriverResult<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options.open(path).map_err(system("open", path))
}

fn missing(program: &'static str, package: &'static str) -> DriverError {
    DriverError::Missing { program, package }
}

fn start_error(said: String) -> DriverError {
    let program = PROGRAM;
    DriverError::Start { program, said }
}

fn system(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DriverError {
    let path = path.to_owned();
    move |source| DriverError::System {
        action,
        path,
        source,
    }
}
