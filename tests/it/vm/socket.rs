//! The socket of a machine's disk, which the keeper holds while no service runs.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Vms, need_root};
use rustix::process::{Signal, kill_process};

/// Services that are killed.
const KILLS: usize = 5;

/// How every NBD server begins.
const GREETING: &[u8] = b"NBDMAGIC";

/// How long a service may take to start and to serve, on a busy machine.
const SERVED_WITHIN: Duration = Duration::from_secs(20);

fn connect(vms: &Vms) -> Result<UnixStream> {
    let client = UnixStream::connect(vms.path("run/a/disk"));
    let client = client.context("connect to the disk")?;
    client.set_read_timeout(Some(SERVED_WITHIN))?;
    Ok(client)
}

fn is_greeted(mut client: UnixStream) -> Result<()> {
    let mut said = [0; GREETING.len()];
    client.read_exact(&mut said).context("wait to be served")?;
    ensure!(said == GREETING, "{said:?}");
    Ok(())
}

#[test]
fn privileged_boot_who_connects_to_a_disk_while_no_service_runs_is_served_by_the_next() -> Result<()>
{
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    vms.run(&["deploy", "test/kernel", "--name", "a", "--wait", "none"])?;
    for _ in 0..KILLS {
        vms.kill_service()?;
        let client = connect(&vms)?;
        // The next service starts for this.
        ensure!(vms.state("a")? == "running");
        is_greeted(client)?;
    }

    // With both gone nobody has the socket; the next service makes another at the same path, and has it kept.
    let keeper = vms.keeper().context("a keeper")?;
    let service = vms.service_pid()?;
    kill_process(service, Signal::STOP)?;
    kill_process(keeper, Signal::KILL)?;
    vms.kill_service()?;
    ensure!(connect(&vms).is_err(), "who has the socket?");
    ensure!(vms.state("a")? == "running");
    is_greeted(connect(&vms)?)?;
    vms.kill_service()?;
    let client = connect(&vms)?;
    ensure!(vms.state("a")? == "running");
    is_greeted(client)?;

    // A machine that ends while no service runs leaves its socket to nobody.
    vms.kill_service()?;
    vms.kill_machine("a")?;
    ensure!(vms.state("a")? == "stopped");
    ensure!(
        connect(&vms).is_err(),
        "the socket of a stopped machine is open"
    );
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}
