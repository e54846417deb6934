//! What the rows with disks and virtual machines share.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Disk, Input, Machine, Qemu, run};
use serde_json::Value;

use crate::programs::{Running, Shale, peer};

/// How long an emulated guest may take to its prompt on a busy machine.
const LOGIN_WITHIN: Duration = Duration::from_secs(300);

/// The word at the end of a line about a target.
pub(crate) fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// Pushes the base as `bench/base`.
pub(crate) fn push_base(shale: &Shale, base: &Input) -> Result<()> {
    let mut push = shale.command();
    push.args(["--quiet", "push"])
        .arg(base.tree())
        .arg("bench/base");
    run(&mut push).map(drop)
}

/// The disk of `bench/base` as a raw file.
pub(crate) fn export_base(shale: &Shale, to: &Path) -> Result<()> {
    let mut export = shale.command();
    run(export.args(["--quiet", "export", "bench/base"]).arg(to)).map(drop)
}

/// A virtual machine that `shale vm deploy` made. Dropping it removes it.
pub(crate) struct Deployed<'a> {
    shale: &'a Shale,
    /// From the start of the command to its end: the login prompt was there.
    pub(crate) seconds: f64,
    /// What the command printed.
    pub(crate) said: Value,
}

impl<'a> Deployed<'a> {
    const NAME: &'static str = "bench";

    /// Deploys `bench/base`, and waits for its login prompt.
    pub(crate) fn new(shale: &'a Shale) -> Result<Self> {
        let limit = LOGIN_WITHIN.as_secs().to_string();
        Self::with(shale, &["--timeout", &limit])
    }

    /// The same from the warm snapshot of `bench/base`.
    pub(crate) fn warm(shale: &'a Shale) -> Result<Self> {
        let limit = LOGIN_WITHIN.as_secs().to_string();
        let deployed = Self::with(shale, &["--timeout", &limit, "--warm"])?;
        let warm = &deployed.said["warm"];
        ensure!(warm["from"].is_object(), "it booted: {warm}");
        Ok(deployed)
    }

    fn with(shale: &'a Shale, more: &[&str]) -> Result<Self> {
        let mut deploy = shale.command();
        deploy.args(["--format", "json", "vm", "deploy", "bench/base"]);
        deploy.args(["--name", Self::NAME]).args(more);
        let begun = Instant::now();
        let said = run(&mut deploy)?;
        let seconds = begun.elapsed().as_secs_f64();
        let said = serde_json::from_str(&said).with_context(|| format!("shale printed {said}"))?;
        Ok(Self {
            shale,
            seconds,
            said,
        })
    }

    /// Seconds that reads of the host's guests waited, up to the login prompt.
    pub(crate) fn waited(&self) -> f64 {
        self.said["login"]["waited_seconds"]
            .as_f64()
            .unwrap_or(f64::NAN)
    }

    /// Bytes of chunks that the host fetched, up to the login prompt.
    pub(crate) fn fetched(&self) -> Option<u64> {
        self.said["login"]["fetched_bytes"].as_u64()
    }
}

impl Drop for Deployed<'_> {
    fn drop(&mut self) {
        // It may be that no machine was made, which is what is wanted.
        let mut remove = self.shale.command();
        let _ = run(remove.args(["--quiet", "vm", "rm", "--yes", Self::NAME]));
    }
}

/// Ends the host service that the first command on machines started.
pub(crate) fn end_service(shale: &Shale) -> Result<()> {
    run(shale.command().args(["--quiet", "host", "stop"])).map(drop)
}

/// The disk of a machine of `bench/base` that has not booted yet, as a raw file. So what peers boot has its
/// identity as well, and need not make one.
pub(crate) fn fresh_disk(shale: &Shale, to: &Path) -> Result<()> {
    let machine = Deployed::with(shale, &["--wait", "none"])?;
    // Its kernel has not come to its disk yet.
    let mut stop = shale.command();
    run(stop.args([
        "--quiet",
        "vm",
        "stop",
        Deployed::NAME,
        "--timeout",
        "0",
        "--force",
    ]))?;
    end_service(shale)?;
    let overlay = shale.state().join("instances").join(Deployed::NAME);
    let socket = shale.state().join("fresh.sock");
    let server = serve_base(shale, &socket, Some(&overlay.join("overlay")))?;
    let url = format!("nbd+unix:///?socket={}", socket.display());
    run(peer("nbdcopy")?.arg(url).arg(to))?;
    drop(server);
    drop(machine);
    end_service(shale)
}

/// `shale nbd` of `bench/base`; with a directory for writes, writable. What it says goes to its log.
pub(crate) fn serve_base(shale: &Shale, socket: &Path, overlay: Option<&Path>) -> Result<Running> {
    let mut command = shale.command();
    command
        .args(["nbd", "bench/base", "--socket"])
        .arg(socket)
        .stdout(Stdio::null());
    // It says there what it read, when it ends.
    command.stderr(std::fs::File::create(shale.log())?);
    if let Some(overlay) = overlay {
        command.arg("--overlay").arg(overlay);
    }
    Running::server(&mut command, socket)
}

/// `shale server run` on a free port.
pub(crate) fn serve_registry(store: &Shale, address_file: &Path) -> Result<(Running, SocketAddr)> {
    let mut command = store.command();
    std::fs::create_dir_all(store.state())?;
    command.args([
        "--quiet",
        "server",
        "run",
        "--listen",
        "127.0.0.1:0",
        "--address-file",
    ]);
    let server = Running::server(
        command.arg(address_file).stdout(Stdio::null()),
        address_file,
    )?;
    let url = std::fs::read_to_string(address_file)?;
    let address = url.trim().rsplit('/').next().unwrap_or_default();
    Ok((
        server,
        address
            .parse()
            .with_context(|| format!("the registry's address {url}"))?,
    ))
}

/// `qemu-nbd` of a file in this format, on a unix socket.
pub(crate) fn serve_file(file: &Path, format: &str, socket: &Path) -> Result<Running> {
    let mut command = peer("qemu-nbd")?;
    command
        .args([
            "--persistent",
            "--shared=8",
            "--discard=unmap",
            "-f",
            format,
            "-k",
        ])
        .arg(socket)
        .arg(file);
    Running::server(&mut command, socket)
}

/// `nbdkit` of a raw file, read-only, on a unix socket.
pub(crate) fn serve_with_nbdkit(file: &Path, socket: &Path) -> Result<Running> {
    let mut command = peer("nbdkit")?;
    command
        .args(["--foreground", "--readonly", "-U"])
        .arg(socket)
        .arg("file")
        .arg(file);
    Running::server(&mut command, socket)
}

/// An unnamed export on a unix socket as a disk of a virtual machine.
pub(crate) fn nbd_disk(socket: &Path) -> Disk {
    Disk::Nbd {
        socket: socket.to_owned(),
        export: String::new(),
    }
}

/// Starts a machine with the base's kernel on `disk`, and returns it and the time when its login prompt was there.
pub(crate) fn boot(base: &Input, disk: Disk) -> Result<(Qemu, Instant)> {
    let mut vm = Qemu::start(&Machine::new(base.kernel()?, base.initrd()?, disk))?;
    vm.wait_for("login:", LOGIN_WITHIN)?;
    Ok((vm, Instant::now()))
}
