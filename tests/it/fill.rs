//! What a machine has not read yet comes to its host by itself, and then nothing but the host matters.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Input, Random, Registry, Shale, Vms, need_root, run};
use serde_json::Value;

/// Bytes beside the kernel, in files of one chunk to some.
const MORE_BYTES: usize = 24 << 20;

#[test]
fn privileged_boot_a_machine_whose_content_is_here_needs_no_registry() -> Result<()> {
    need_root()?;
    let (home, author) = (Shale::new()?, Shale::new()?);
    let registry = Registry::start(&home, 0)?;
    let reference = registry.name("test/machine:1");
    push(&author, &reference)?;

    // Not so with fills turned off.
    let lazy = Vms::new()?;
    deploy(&lazy, &reference, "off")?;
    let disk = disk(&lazy)?;
    ensure!(disk.fill == "off" && disk.local < disk.content, "{disk:?}");
    lazy.run(&["rm", "a", "--yes"])?;

    // A service that is killed in the middle is followed by one that goes on.
    let vms = Vms::new()?;
    deploy(&vms, &reference, "8M")?;
    let before = wait_until(&vms, |disk| disk.local > disk.content / 2)?;
    ensure!(before.fill == "running", "{before:?}");
    vms.kill_service()?;
    let after = wait_until(&vms, |disk| disk.fill == "whole")?;
    ensure!(after.local == after.content, "{after:?}");

    // Stopped and started again, its kernel comes from the cache.
    registry.server.terminate()?;
    vms.run(&["stop", "a", "--timeout", "0", "--force"])?;
    let file = vms.shale.home().join("a.raw");
    vms.run(&["export", "a", &file.display().to_string()])?;
    let shown = vms.run(&["inspect", "a", "--format", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    ensure!(Some(file.metadata()?.len()) == shown["disk"]["bytes"].as_u64());
    vms.run(&["start", "a", "--wait", "none", "--timeout", "20"])?;
    ensure!(vms.state("a")? == "running");
    vms.run(&["rm", "a", "--yes"])?;
    vms.nothing_left()
}

fn push(author: &Shale, reference: &str) -> Result<()> {
    let tree = tempfile::tempdir()?;
    for dir in ["boot", "etc", "data"] {
        fs::create_dir(tree.path().join(dir))?;
    }
    fs::copy(Input::base()?.kernel()?, tree.path().join("boot/vmlinuz"))?;
    let mut random = Random::printed("content");
    let mut left = MORE_BYTES;
    for number in 0.. {
        let bytes = left.min(1 + random.below(1 << 20) as usize);
        let content: Vec<u8> = (0..bytes).map(|_| random.below(256) as u8).collect();
        fs::write(tree.path().join("data").join(number.to_string()), content)?;
        left -= bytes;
        if left == 0 {
            break;
        }
    }
    let mut push = author.command();
    run(push.arg("push").arg(tree.path()).arg(reference)).map(drop)
}

fn deploy(vms: &Vms, reference: &str, rate: &str) -> Result<()> {
    let mut deploy = vms.command(&["deploy", reference, "--name", "a", "--wait", "none"]);
    // The service that it starts takes it over.
    run(deploy.env("SHALE_FILL_RATE", rate)).map(drop)
}

/// What `shale vm inspect` says of the content.
#[derive(Debug)]
struct Shown {
    fill: String,
    local: u64,
    content: u64,
}

fn disk(vms: &Vms) -> Result<Shown> {
    let shown = vms.run(&["inspect", "a", "--format", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    let disk = &shown["disk"];
    let number = |name: &str| {
        disk[name]
            .as_u64()
            .with_context(|| format!("{name}: {disk}"))
    };
    Ok(Shown {
        fill: disk["fill"]["state"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        local: number("local_bytes")?,
        content: number("content_bytes")?,
    })
}

fn wait_until(vms: &Vms, there: impl Fn(&Shown) -> bool) -> Result<Shown> {
    let begun = Instant::now();
    loop {
        let shown = disk(vms)?;
        if there(&shown) {
            return Ok(shown);
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "{shown:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
