//! Machines that start by themselves after a boot of the host.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Background, Input, Random, Vms, need_root, run, wait_for_file};
use serde_json::Value;

/// How long what starts by itself may take: some attempts, beside other tests.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// State and reason of a machine, as `vm ls` shows them.
fn seen(vms: &Vms, name: &str) -> Result<(String, String)> {
    let listed: Value = serde_json::from_str(&vms.run(&["ls", "--format", "json"])?)?;
    let machines = listed.as_array().context("a list")?;
    let machine = machines.iter().find(|machine| machine["name"] == name);
    let machine = machine.with_context(|| format!("{name} in {listed}"))?;
    let text = |field: &str| machine[field].as_str().unwrap_or_default().to_owned();
    Ok((text("state"), text("reason")))
}

fn until(vms: &Vms, name: &str, wanted: impl Fn(&str, &str) -> bool) -> Result<()> {
    let begun = Instant::now();
    loop {
        let (state, reason) = seen(vms, name)?;
        if wanted(&state, &reason) {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < STARTS_WITHIN,
            "{name} is {state}: {reason}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Makes the records those of machines that ran before the host was booted.
fn boot_anew(vms: &Vms, names: &[&str]) -> Result<()> {
    for name in names {
        let path = vms.path("instances").join(name).join("record.json");
        let mut record: Value = serde_json::from_slice(&fs::read(&path)?)?;
        record["boot"] = "another".into();
        // What has no hash was kept before there were hashes.
        let fields = record.as_object_mut().context("a record")?;
        ensure!(fields.remove("blake3").is_some(), "it has no hash");
        fs::write(&path, serde_json::to_vec(&record)?)?;
    }
    Ok(())
}

/// A registry of the host's own repository, on this port; its port.
fn registry(vms: &Vms, port: u16) -> Result<(Background, u16)> {
    let file = vms.shale.home().join("address");
    let _ = fs::remove_file(&file);
    let mut command = vms.shale.command();
    command.args(["server", "run", "--listen", &format!("127.0.0.1:{port}")]);
    command.arg("--address-file").arg(&file);
    let registry = Background::start_until(&mut command, "serving")?;
    wait_for_file(&file)?;
    let address = fs::read_to_string(&file)?;
    let port = address.rsplit(':').next().context("its port")?.parse()?;
    Ok((registry, port))
}

/// A template whose kernel nobody has in the cache who has that of `test/kernel`.
fn push_another(vms: &Vms) -> Result<()> {
    let tree = tempfile::tempdir()?;
    fs::create_dir(tree.path().join("boot"))?;
    fs::create_dir(tree.path().join("etc"))?;
    let mut kernel = fs::read(Input::base()?.kernel()?)?;
    // What follows the kernel in its file does not matter to it.
    kernel.extend(Random::printed("another kernel").bytes(500_000));
    fs::write(tree.path().join("boot/vmlinuz"), kernel)?;
    run(vms
        .shale
        .command()
        .arg("push")
        .arg(tree.path())
        .arg("test/another"))
    .map(drop)
}

/// Of `later` and `waits`, which run and start by themselves, and `not`.
fn they_are_shut_down_with_the_host(vms: &Vms) -> Result<()> {
    vms.run(&["start", "not", "--wait", "none"])?;
    let mut shut_down = vms.shale.command();
    // These guests hear no power button.
    shut_down.args(["host", "shutdown", "--timeout", "1", "--format", "json"]);
    let ended: Value = serde_json::from_str(&run(&mut shut_down)?)?;
    let ended = ended.as_array().context("a list")?;
    let names: Vec<_> = ended.iter().map(|machine| &machine["name"]).collect();
    ensure!(names == ["later", "not", "waits"], "{ended:?}");
    let is_cut = |machine: &Value| machine["how"] == "power_cut";
    ensure!(ended.iter().all(is_cut), "{ended:?}");
    let none = run(vms.shale.command().args(["host", "shutdown", "--quiet"]))?;
    ensure!(none.is_empty(), "{none}");

    // In the same boot they stay as they are, whoever asks again that they start by themselves.
    vms.run(&["autostart", "later"])?;
    vms.kill_service()?;
    for name in ["later", "not", "waits"] {
        ensure!(
            seen(vms, name)? == ("stopped".into(), String::new()),
            "{name}"
        );
    }
    vms.kill_service()?;
    boot_anew(vms, &["later", "not", "waits"])?;
    for name in ["later", "waits"] {
        until(vms, name, |state, _| state == "running")?;
    }
    ensure!(seen(vms, "not")?.0 == "stopped");

    // Their user stops one behind that, and wants the other not to start by itself.
    run(vms
        .shale
        .command()
        .args(["host", "shutdown", "--timeout", "1"]))?;
    vms.run(&["stop", "later"])?;
    vms.run(&["autostart", "waits", "--disable"])?;
    vms.run(&["autostart", "waits"])?;
    vms.kill_service()?;
    boot_anew(vms, &["later", "waits"])?;
    for name in ["later", "waits"] {
        ensure!(
            seen(vms, name)? == ("stopped".into(), String::new()),
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn privileged_boot_machines_start_by_themselves_after_a_boot_of_the_host() -> Result<()> {
    need_root()?;
    let vms = Vms::with_kernel_only()?;
    push_another(&vms)?;
    let (server, port) = registry(&vms, 0)?;
    let remote = format!("127.0.0.1:{port}/test/another");
    for (name, reference, more) in [
        ("again", "test/kernel", "--autostart"),
        ("not", "test/kernel", "--quiet"),
        ("later", "test/kernel", "--quiet"),
        ("stopped", "test/kernel", "--autostart"),
        ("waits", remote.as_str(), "--autostart"),
        ("given-up", remote.as_str(), "--autostart"),
    ] {
        vms.run(&["deploy", reference, "--name", name, "--wait", "none", more])?;
    }
    vms.run(&["autostart", "not"])?;
    vms.run(&["autostart", "not", "--disable"])?;
    vms.run(&["autostart", "later"])?;
    vms.run(&["stop", "stopped", "--timeout", "0", "--force"])?;
    let shown = vms.run(&["inspect", "later", "--format", "json"])?;
    ensure!(
        serde_json::from_str::<Value>(&shown)?["autostart"] == true,
        "{shown}"
    );

    // Ended while no service runs, in the same boot: who knows why.
    vms.kill_service()?;
    let ran = ["again", "not", "later", "waits", "given-up"];
    for name in ran {
        vms.kill_machine(name)?;
    }
    for name in ran {
        ensure!(
            seen(&vms, name)? == ("stopped".into(), String::new()),
            "{name}"
        );
    }

    vms.kill_service()?;
    server.terminate()?;
    fs::remove_dir_all(vms.shale.home().join(".cache/chunks"))?;
    boot_anew(&vms, &ran)?;
    boot_anew(&vms, &["stopped"])?;
    for name in ["again", "later"] {
        until(&vms, name, |state, _| state == "running")?;
    }
    // The registry is not there yet; the service answers, and tells.
    for name in ["waits", "given-up"] {
        let tells = |state: &str, reason: &str| {
            state == "stopped" && reason.starts_with("starts by itself: the content of")
        };
        until(&vms, name, tells)?;
    }
    vms.run(&["stop", "given-up"])?;
    ensure!(seen(&vms, "given-up")? == ("stopped".into(), String::new()));
    let (server, _) = registry(&vms, port)?;
    until(&vms, "waits", |state, _| state == "running")?;
    for name in ["not", "stopped", "given-up"] {
        ensure!(
            seen(&vms, name)? == ("stopped".into(), String::new()),
            "{name}"
        );
    }
    // In the boot that it started in, it is as any other.
    vms.kill_service()?;
    vms.kill_machine("again")?;
    ensure!(seen(&vms, "again")?.0 == "stopped");
    ensure!(seen(&vms, "later")?.0 == "running");
    they_are_shut_down_with_the_host(&vms)?;
    for name in ran.iter().chain(&["stopped"]) {
        vms.run(&["rm", name, "--yes"])?;
    }
    server.terminate()?;
    vms.nothing_left()?;
    run(vms.shale.command().args(["host", "stop"])).map(drop)
}
