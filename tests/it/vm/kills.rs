//! A service that is killed at any moment of a deployment leaves all of an instance or nothing.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::{Random, Vms, need_root, run};

use crate::nbd::Kills;

/// How many machines are made at once by the first commands of a host.
const AT_ONCE: usize = 6;

#[test]
fn privileged_boot_the_first_deployments_of_a_host_at_once_share_its_key() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    vms.run(&["ls"])?;
    let names: Vec<String> = (0..AT_ONCE).map(|n| format!("m{n}")).collect();
    let mut clients = Vec::new();
    for name in &names {
        let mut deploy = vms.command(&["deploy", "test/kernel", "--name", name, "--wait", "none"]);
        deploy.stdout(Stdio::null()).stderr(Stdio::piped());
        clients.push(deploy.spawn()?);
    }
    for client in clients {
        let output = client.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}");
    }
    let key = vms.path("ssh/id_ed25519").display().to_string();
    for name in &names {
        let shown = vms.run(&["inspect", name, "--format", "json"])?;
        ensure!(shown.contains(&key), "{shown}");
        vms.run(&["rm", name, "--yes"])?;
    }
    vms.nothing_left()
}

#[test]
fn privileged_boot_a_deployment_whose_service_is_killed_is_whole_or_gone() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    let mut random = Random::printed("service kills");
    let deploy = |vms: &Vms| {
        let mut command = vms.command(&["deploy", "test/kernel", "--name", "a", "--wait", "none"]);
        command.args(["--data-disk", "1G"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    // The first composes the template and warms the cache; the second tells how long one takes.
    run(&mut deploy(&vms))?;
    vms.run(&["rm", "a", "--yes"])?;
    let begun = Instant::now();
    run(&mut deploy(&vms))?;
    let whole = begun.elapsed();
    vms.run(&["rm", "a", "--yes"])?;

    let mut kills = Kills::default();
    let mut outcomes = [0; 3];
    while kills.go_on()? {
        let mut client = deploy(&vms).spawn()?;
        let delay = random.below(whole.as_micros() as u64);
        std::thread::sleep(Duration::from_micros(delay));
        vms.kill_service()?;
        let acknowledged = client.wait()?.success();
        kills.hit(!acknowledged);
        let listed = vms.run(&["ls", "--quiet"])?;
        let there = listed == "a\n";
        ensure!(there || listed.is_empty(), "{listed}");
        ensure!(
            there || !acknowledged,
            "an instance that was acknowledged is gone"
        );
        outcomes[usize::from(there) + usize::from(acknowledged)] += 1;
        if there {
            // Whole: it starts.
            vms.run(&["start", "a", "--wait", "none"])?;
            ensure!(vms.state("a")? == "running");
            vms.run(&["rm", "a", "--yes"])?;
        }
        vms.nothing_left()?;
    }
    let [gone, whole, acknowledged] = outcomes;
    println!("{gone} gone, {whole} whole, {acknowledged} acknowledged");
    Ok(())
}
