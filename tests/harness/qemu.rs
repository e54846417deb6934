//! Virtual machines for tests: QEMU without acceleration, started on a kernel directly, watched on its console.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tempfile::TempDir;

use crate::qmp::Qmp;
use crate::tools::tool;

/// How often the console and the child are looked at: the precision of every time measured here.
const POLL: Duration = Duration::from_millis(10);

/// How long QEMU may take to open its control socket.
const START_WITHIN: Duration = Duration::from_secs(20);

/// How many lines of the console a failure shows.
const TAIL_LINES: usize = 40;

/// What a virtual machine is made of.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The kernel to start.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: PathBuf,
    /// The kernel's command line; [`Machine::new`] gives one that suits the base.
    pub command_line: String,
    /// `/dev/vda` and so on.
    pub disks: Vec<Disk>,
    /// Memory in MiB.
    pub memory: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// Ports of this machine that lead into the guest.
    pub forwards: Vec<Forward>,
}

/// Where the bytes of a virtual disk are.
#[derive(Debug, Clone)]
pub enum Disk {
    /// In a raw file, which the guest writes.
    Raw(PathBuf),
    /// Behind an NBD server on a unix socket. A connection that breaks is opened again for a minute, while the
    /// guest's requests wait.
    Nbd {
        /// The server's socket.
        socket: PathBuf,
        /// The name of the export; empty for the server's default.
        export: String,
    },
}

/// A TCP port on the loopback of this machine that leads to a port of the guest.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Here.
    pub host: u16,
    /// In the guest.
    pub guest: u16,
}

/// A TCP port of the loopback that nobody listens on at this moment.
///
/// # Errors
///
/// There is no free port.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Machine {
    /// A machine with two processors, 512 MiB and a root file system, without partitions, on the first disk.
    pub fn new(kernel: PathBuf, initrd: PathBuf, root: Disk) -> Self {
        Self {
            kernel,
            initrd,
            command_line: "root=/dev/vda rw console=ttyS0".to_owned(),
            disks: vec![root],
            memory: 512,
            cpus: 2,
            forwards: Vec::new(),
        }
    }

    fn command(&self, qmp: &Path) -> Result<Command> {
        let mut command = tool("qemu-system-x86_64")?;
        command
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-machine", "q35", "-accel", "tcg,thread=multi"])
            // As the driver of `shale vm`, so that times can be compared.
            .args(["-cpu", "max"])
            .args([
                "-m",
                &self.memory.to_string(),
                "-smp",
                &self.cpus.to_string(),
            ])
            // Guests wait for randomness to make keys.
            .args(["-device", "virtio-rng-pci"])
            .args([
                "-chardev",
                "stdio,id=console,signal=off",
                "-serial",
                "chardev:console",
            ])
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", qmp.display()),
            ])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .args(["-append", &self.command_line]);
        for (number, disk) in self.disks.iter().enumerate() {
            command
                .args(["-blockdev", &disk.options(number).to_string()])
                .args(["-device", &format!("virtio-blk-pci,drive=disk{number}")]);
        }
        let forwards = self.forwards.iter();
        let forwards = forwards.map(|f| format!(",hostfwd=tcp:127.0.0.1:{}-:{}", f.host, f.guest));
        let network = format!("user,id=net0{}", forwards.collect::<String>());
        command
            .args(["-netdev", &network])
            .args(["-device", "virtio-net-pci,netdev=net0,romfile="]);
        Ok(command)
    }
}

impl Disk {
    fn options(&self, number: usize) -> serde_json::Value {
        let node = format!("disk{number}");
        match self {
            Disk::Raw(path) => json!({
                "driver": "raw", "node-name": node, "discard": "unmap",
                "file": { "driver": "file", "filename": path, "discard": "unmap" },
            }),
            Disk::Nbd { socket, export } => json!({
                "driver": "raw", "node-name": node, "discard": "unmap",
                "file": {
                    "driver": "nbd", "export": export, "reconnect-delay": 60,
                    "server": { "type": "unix", "path": socket }, "discard": "unmap",
                },
            }),
        }
    }
}

/// A running virtual machine; killed when dropped.
#[derive(Debug)]
pub struct Qemu {
    child: Process,
    qmp: Qmp,
    directory: TempDir,
    /// How much of the console [`Qemu::wait_for`] has passed.
    seen: usize,
}

impl Qemu {
    /// Starts `machine` and returns when QEMU answers on its control socket, a moment after the guest began.
    ///
    /// # Errors
    ///
    /// QEMU is missing or refuses the machine; the message holds what it said.
    pub fn start(machine: &Machine) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a directory for QEMU")?;
        let socket = directory.path().join("qmp");
        let mut command = machine.command(&socket)?;
        command
            .stdin(Stdio::piped())
            .stdout(File::create(directory.path().join("console"))?)
            .stderr(File::create(directory.path().join("stderr"))?);
        let mut child = Process(
            command
                .spawn()
                .with_context(|| format!("start {command:?}"))?,
        );

        let deadline = Instant::now() + START_WITHIN;
        let qmp = loop {
            let error = match Qmp::connect(&socket) {
                Ok(qmp) => break qmp,
                Err(error) => error,
            };
            let ended = child.0.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = std::fs::read_to_string(directory.path().join("stderr"))?;
                return Err(error.context(format!(
                    "QEMU did not start ({ended:?}): {said}\n{command:?}"
                )));
            }
            std::thread::sleep(POLL);
        };
        Ok(Self {
            child,
            qmp,
            directory,
            seen: 0,
        })
    }

    /// Waits until the console shows `pattern` after what earlier calls have waited for.
    ///
    /// # Errors
    ///
    /// QEMU ends, or `limit` passes; the message holds the end of the console.
    pub fn wait_for(&mut self, pattern: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            // The order matters: what QEMU printed before it ended is still looked at.
            let ended = self.child.0.try_wait()?;
            let console = self.console_bytes()?;
            let rest = console.get(self.seen..).unwrap_or_default();
            if let Some(at) = find(rest, pattern.as_bytes()) {
                self.seen += at + pattern.len();
                return Ok(());
            }
            if let Some(status) = ended {
                bail!(
                    "QEMU ended ({status}) before its console showed {pattern:?}:\n{}",
                    self.tail()?
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "the console did not show {pattern:?} within {limit:?}:\n{}",
                    self.tail()?
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// Types `text` on the console; a line ends with `\n`.
    ///
    /// # Errors
    ///
    /// QEMU is gone.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let stdin = self.child.0.stdin.as_mut().context("QEMU has no console")?;
        stdin
            .write_all(text.as_bytes())
            .context("type on the console")?;
        stdin.flush().context("type on the console")
    }

    /// All that the guest has printed so far.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn console(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.console_bytes()?).into_owned())
    }

    /// QEMU's control socket.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Presses the power button and waits until the guest has shut down.
    ///
    /// # Errors
    ///
    /// The guest does not end within `limit`; the message holds the end of the console.
    pub fn power_down(mut self, limit: Duration) -> Result<()> {
        self.qmp.execute("system_powerdown", json!({}))?;
        let deadline = Instant::now() + limit;
        while self.child.0.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!(
                    "the guest did not shut down within {limit:?}:\n{}",
                    self.tail()?
                );
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Pulls the plug: QEMU is killed and its disks are as the guest had flushed them, or later.
    ///
    /// # Errors
    ///
    /// The process cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.child.0.kill().context("kill QEMU")?;
        self.child.0.wait().context("wait for QEMU")?;
        Ok(())
    }

    fn console_bytes(&self) -> Result<Vec<u8>> {
        std::fs::read(self.directory.path().join("console")).context("read the console")
    }

    fn tail(&self) -> Result<String> {
        let stderr = std::fs::read_to_string(self.directory.path().join("stderr"))?;
        let console = self.console()?;
        let lines: Vec<&str> = console.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        Ok(format!("{}\n{stderr}", tail.join("\n")))
    }
}

/// A child that is killed when dropped.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where `pattern` first is in `bytes`.
fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len().max(1))
        .position(|window| window == pattern)
}
