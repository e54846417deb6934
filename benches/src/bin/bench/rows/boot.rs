//! What the rows with disks and virtual machines share.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::{Disk, Input, Machine, Qemu, run};

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
