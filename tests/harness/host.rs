//! A host of its own for a test, with everything that it starts.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::idle::idle_initrd;
use crate::{Input, Shale, run};

/// The socket of the process that keeps open what a killed service must not lose.
const KEEPER_SOCKET: &str = "keep.sock";

/// A host whose service and machines end when this is dropped.
#[derive(Debug)]
pub struct Vms {
    /// The program, with the home directory that holds the host's state.
    pub shale: Shale,
}

impl Vms {
    /// A host that has nothing.
    ///
    /// # Errors
    ///
    /// As [`Shale::new`].
    pub fn new() -> Result<Self> {
        let shale = Shale::new()?;
        Ok(Self { shale })
    }

    /// A host with a template `test/kernel`, made of the directory `kernel` in its home, that has a kernel and
    /// nothing that it could start: machines of it run, and cost nothing once they have booted.
    ///
    /// # Errors
    ///
    /// The base cannot be made, or not be pushed.
    pub fn with_kernel_only() -> Result<Self> {
        Self::new()?.having_kernel()
    }

    /// The same as [`Self::with_kernel_only`], of a host that can lose its power.
    ///
    /// # Errors
    ///
    /// As there, and those of [`Shale::with_power`].
    pub fn with_kernel_and_power() -> Result<Self> {
        let shale = Shale::with_power(4 << 30)?;
        Self { shale }.having_kernel()
    }

    fn having_kernel(self) -> Result<Self> {
        let vms = self;
        let tree = vms.shale.home().join("kernel");
        fs::create_dir_all(tree.join("boot"))?;
        fs::create_dir(tree.join("etc"))?;
        fs::copy(Input::base()?.kernel()?, tree.join("boot/vmlinuz"))?;
        fs::write(tree.join("boot/initrd.img"), idle_initrd())?;
        run(vms
            .shale
            .command()
            .arg("push")
            .arg(&tree)
            .arg("test/kernel"))?;
        Ok(vms)
    }

    /// `shale vm` with these arguments.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.shale.command();
        command
            .arg("vm")
            .args(arguments)
            .stdin(std::process::Stdio::null());
        command
    }

    /// What `shale vm` with these arguments prints.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments))
    }

    /// What a command in the guest printed. The SSH server may come a moment after the login prompt.
    ///
    /// # Errors
    ///
    /// It fails for a minute.
    pub fn ssh(&self, name: &str, command: &str) -> Result<String> {
        let begun = Instant::now();
        loop {
            let done = run(&mut self.command(&["ssh", name, "--", command]));
            if done.is_ok() || begun.elapsed() > Duration::from_secs(60) {
                return done;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// The state of a machine, as `inspect` names it.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn state(&self, name: &str) -> Result<String> {
        let shown = self.run(&["inspect", name, "--format", "json"])?;
        let shown: Value = serde_json::from_str(&shown)?;
        Ok(shown["state"].as_str().unwrap_or_default().to_owned())
    }

    /// Below the state directory.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.shale.home().join(".state").join(below)
    }

    /// Where a machine keeps what it wrote.
    #[must_use]
    pub fn overlay(&self, name: &str) -> PathBuf {
        self.path("instances").join(name).join("overlay")
    }

    /// The number of the process that listens on the service's socket.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn service_pid(&self) -> Result<Pid> {
        let stream = UnixStream::connect(self.path("run/host.sock"))?;
        Ok(rustix::net::sockopt::socket_peercred(&stream)?.pid)
    }

    /// Kills the service; who it was.
    ///
    /// # Errors
    ///
    /// There is none, or it does not end.
    pub fn kill_service(&self) -> Result<Pid> {
        let pid = self.service_pid()?;
        kill_process(pid, Signal::KILL)?;
        wait_for_end(pid)?;
        // The last of its threads may close the socket a moment later.
        let begun = Instant::now();
        while self.service_pid().is_ok() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(pid)
    }

    /// Empties the directory of sockets, as it is after a boot where it lies in memory; nobody may run.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub fn empty_run(&self) -> Result<()> {
        match fs::remove_dir_all(self.path("run")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The process that keeps open what a killed service must not lose, if there is one.
    #[must_use]
    pub fn keeper(&self) -> Option<Pid> {
        let socket = self.path("run").join(KEEPER_SOCKET);
        let socket = socket.as_os_str().as_encoded_bytes();
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut keepers = processes.filter_map(|process| {
            let pid = Pid::from_raw(process.file_name().to_str()?.parse().ok()?)?;
            let line = fs::read(process.path().join("cmdline")).ok()?;
            let mut arguments = line.split(|byte| *byte == 0);
            arguments.any(|part| part == socket).then_some(pid)
        });
        keepers.next()
    }

    /// Kills it, and waits until the service has given what it held to another.
    ///
    /// # Errors
    ///
    /// There is none, or no other comes.
    pub fn kill_keeper(&self) -> Result<()> {
        let first = self.keeper().context("a keeper")?;
        kill_process(first, Signal::KILL)?;
        let begun = Instant::now();
        while self.keeper().is_none_or(|keeper| keeper == first) {
            let waited = begun.elapsed() < Duration::from_secs(20);
            ensure!(waited, "no other keeper comes");
            std::thread::sleep(Duration::from_millis(5));
        }
        // It is there before it has everything.
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    fn machine_pids(&self) -> Vec<(String, Pid)> {
        let entries = fs::read_dir(self.path("run"))
            .into_iter()
            .flatten()
            .flatten();
        // By its own host; one with a power of its own has its own numbers.
        let number = |dir: &Path| {
            let text = fs::read_to_string(dir.join("pid")).ok()?;
            text.trim().parse().ok()
        };
        let processes = self.hypervisors();
        entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let number: i32 = number(&entry.path())?;
                // One that was left behind may mean another process by now.
                let mut ours = processes.iter();
                let (pid, _) = ours.find(|(_, inside)| *inside == number)?;
                Some((name, *pid))
            })
            .collect()
    }

    /// The hypervisors that name this host's directory, with the numbers that they have on it.
    fn hypervisors(&self) -> Vec<(Pid, i32)> {
        let home = self.shale.home().as_os_str().as_encoded_bytes();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|process| {
                let pid = Pid::from_raw(process.file_name().to_str()?.parse().ok()?)?;
                let line = fs::read(process.path().join("cmdline")).ok()?;
                let names = |what: &[u8]| line.windows(what.len()).any(|part| part == what);
                if !names(home) || !names(b"qemu") {
                    return None;
                }
                let status = fs::read_to_string(process.path().join("status")).ok()?;
                let numbers = status.lines().find(|line| line.starts_with("NSpid:"))?;
                let inside = numbers.split_whitespace().last()?.parse().ok()?;
                Some((pid, inside))
            })
            .collect()
    }

    /// The process of a machine.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn machine_pid(&self, name: &str) -> Result<Pid> {
        let pids = self.machine_pids();
        let found = pids.iter().find(|(of, _)| of == name);
        let (_, pid) = found.with_context(|| format!("the process of {name}"))?;
        Ok(*pid)
    }

    /// Kills the process of a machine.
    ///
    /// # Errors
    ///
    /// It does not run, or does not end.
    pub fn kill_machine(&self, name: &str) -> Result<()> {
        let pid = self.machine_pid(name)?;
        kill_process(pid, Signal::KILL)?;
        wait_for_end(pid)
    }

    /// Fails if there is an instance, a machine, or a file of one.
    ///
    /// # Errors
    ///
    /// What is left.
    pub fn nothing_left(&self) -> Result<()> {
        let names = |below: &str| -> Result<Vec<String>> {
            let entries = fs::read_dir(self.path(below))?;
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            names.collect()
        };
        ensure!(
            names("instances")? == ["host.lock"],
            "{:?}",
            names("instances")?
        );
        // The keeper of open files is there as long as the service that needed one.
        let mut sockets = names("run")?;
        sockets.retain(|name| name != KEEPER_SOCKET);
        ensure!(sockets == ["host.sock"], "{sockets:?}");
        let mut mine = self.processes()?;
        mine.retain(|line| !line.contains(KEEPER_SOCKET));
        ensure!(mine.len() == 1, "only the service is there: {mine:?}");
        Ok(())
    }

    /// Command lines of all processes that name this host's directory.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<String>> {
        let home = self.shale.home().display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&home) {
                found.push(line);
            }
        }
        Ok(found)
    }

    /// Ends who keeps open what the service did.
    fn end_keeper(&self) {
        if let Some(keeper) = self.keeper() {
            let _ = kill_process(keeper, Signal::KILL);
            let _ = wait_for_end(keeper);
        }
    }

    /// Fails if others than the owner may read anything of an instance.
    ///
    /// # Errors
    ///
    /// What they may.
    pub fn everything_is_private(&self) -> Result<()> {
        for below in ["instances", "run", "ssh"] {
            let mode = fs::metadata(self.path(below))?.mode();
            ensure!(mode & 0o077 == 0, "{below} has mode {mode:o}");
        }
        let key = fs::metadata(self.path("ssh/id_ed25519"))?.mode();
        ensure!(key & 0o777 == 0o600, "the key has mode {key:o}");
        Ok(())
    }
}

impl Drop for Vms {
    fn drop(&mut self) {
        // What fails here has ended already, or shows in what the next test finds.
        if let Ok(pid) = self.service_pid() {
            let _ = kill_process(pid, Signal::KILL);
            let _ = wait_for_end(pid);
        }
        for (_, pid) in self.machine_pids() {
            let _ = kill_process(pid, Signal::KILL);
            let _ = wait_for_end(pid);
        }
        self.end_keeper();
    }
}

/// Waits until a process is gone, or a zombie that somebody else is to take note of.
fn wait_for_end(pid: Pid) -> Result<()> {
    let begun = Instant::now();
    let runs = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    while runs() {
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "{pid:?} does not end"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The exit code of a command that must fail, and say why.
///
/// # Errors
///
/// It succeeds, or says nothing.
pub fn failure(command: &mut Command) -> Result<i32> {
    let output = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(!output.status.success(), "{command:?} succeeded");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!said.trim().is_empty(), "{command:?} says nothing");
    output
        .status
        .code()
        .with_context(|| format!("{command:?}: {}", output.status))
}
