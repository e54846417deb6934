//! A service that is killed at any moment of a deployment leaves all of an instance or nothing.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::{Random, need_root, run};

use crate::nbd::Kills;

use super::host::Vms;

#[test]
fn privileged_boot_a_deployment_whose_service_is_killed_is_whole_or_gone() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    let mut random = Random::printed("service kills");
    let deploy = |vms: &Vms| {
        let mut command = vms.command(&["deploy", "test/kernel", "--name", "a", "--wait", "none"]);
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
