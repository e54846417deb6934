//! A hypervisor that dies: when it starts, while it runs, while it is stopped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Random, Vms, failure, need_root, run, tool};
use rustix::process::{Pid, Signal, kill_process};

/// Starts whose hypervisor is killed.
const STARTS: usize = 8;

/// Listens on a port as long as a directory is there, and says which it is.
const ROBBER: &str = "use IO::Socket::INET; $| = 1; \
    my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => \"127.0.0.1:$ARGV[0]\") or die $!; \
    print $ARGV[0]; sleep 1 while -e $ARGV[1];";

/// Before the real program, one of the same name that dies as long as a file says so, or whose port somebody takes.
struct Ill {
    vms: Vms,
    dir: tempfile::TempDir,
}

impl Ill {
    fn new() -> Result<Self> {
        let vms = Vms::with_kernel_only()?;
        let dir = tempfile::tempdir()?;
        // Machines may run as a user of their own.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let real = tool("qemu-system-x86_64")?;
        let real = PathBuf::from(real.get_program());
        let program = dir.path().join("qemu-system-x86_64");
        let script = format!(
            "#!/bin/sh\n\
             if [ -e {ill} ] && [ \"$1\" != --version ]; then echo 'out of luck' >&2; exit 1; fi\n\
             if [ -e {robbed} ] && [ \"$1\" != --version ]; then\n\
             guest=$(cat {robbed})\n\
             rm {robbed}\n\
             port=$(echo \"$@\" | sed \"s/.*hostfwd=tcp:127.0.0.1:\\([0-9]*\\)-:$guest.*/\\1/\")\n\
             perl -e '{ROBBER}' \"$port\" {dir} > {dir}/port 2> {dir}/said &\n\
             while [ ! -s {dir}/port ]; do sleep 0.05; done\n\
             fi\n\
             exec {real} \"$@\"\n",
            ill = dir.path().join("ill").display(),
            robbed = dir.path().join("robbed").display(),
            dir = dir.path().display(),
            real = real.display()
        );
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Self { vms, dir })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.vms.command(arguments);
        let path = format!(
            "{}:/usr/sbin:/usr/bin:/sbin:/bin",
            self.dir.path().display()
        );
        command.env("PATH", path);
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments))
    }

    fn falls_ill(&self) -> Result<()> {
        Ok(fs::write(self.dir.path().join("ill"), "")?)
    }

    fn recovers(&self) -> Result<()> {
        Ok(fs::remove_file(self.dir.path().join("ill"))?)
    }

    /// The number of the process that a start has just made.
    fn starting(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.vms.path("run/a/pid")).ok()?;
        Pid::from_raw(pid.trim().parse().ok()?)
    }
}

#[test]
fn privileged_boot_a_hypervisor_that_dies_is_told_of_and_can_be_started_again() -> Result<()> {
    need_root()?;
    let ill = Ill::new()?;
    let deploy = ["deploy", "test/kernel", "--name", "a", "--wait", "none"];
    let start = ["start", "a", "--wait", "none"];

    // At the first start: the reason is the program's own, and nothing is left.
    ill.falls_ill()?;
    let output = ill.command(&deploy).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(said.contains("out of luck"), "{said}");
    let listed = ill.run(&["ls", "--quiet"])?;
    if listed.is_empty() {
        ill.vms.nothing_left()?;
    } else {
        ill.run(&["rm", "a", "--yes"])?;
    }
    ill.recovers()?;
    ill.run(&deploy)?;

    // At a later one: it is stopped, and starts when the program does.
    ill.falls_ill()?;
    ensure!(failure(&mut ill.command(&["restart", "a", "--force", "--stop-timeout", "0"]))? == 1);
    ensure!(ill.vms.state("a")? == "stopped");
    ensure!(failure(&mut ill.command(&start))? == 1);
    ill.recovers()?;
    ill.run(&start)?;

    // While it runs.
    ill.vms.kill_machine("a")?;
    let begun = Instant::now();
    while ill.vms.state("a")? != "stopped" {
        let waited = begun.elapsed() < Duration::from_secs(20);
        ensure!(waited, "nobody notices that it ended");
        std::thread::sleep(Duration::from_millis(100));
    }
    ill.run(&start)?;

    // While it is asked to end, which this guest never does.
    let stop = ["stop", "a", "--timeout", "60"];
    let mut stopping = ill.command(&stop).stderr(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(stopping.try_wait()?.is_none(), "it stopped by itself");
    ill.vms.kill_machine("a")?;
    ensure!(stopping.wait()?.success());
    ensure!(ill.vms.state("a")? == "stopped");

    killed_at_starts(&ill)?;
    ill.run(&["rm", "a", "--yes"])?;
    ill.vms.nothing_left()
}

/// Between the look for a free port and the start, somebody else takes it: the machine gets another.
#[test]
fn privileged_boot_a_port_that_is_taken_just_before_a_start_is_replaced() -> Result<()> {
    need_root()?;
    let ill = Ill::new()?;
    let port = || -> Result<String> {
        let shown = ill.run(&["inspect", "a", "--format", "json"])?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        Ok(shown["ssh"]["port"].to_string())
    };
    let taken = || fs::read_to_string(ill.dir.path().join("port"));
    let rob = |guest: &str| fs::write(ill.dir.path().join("robbed"), guest);
    rob("22")?;
    ill.run(&["deploy", "test/kernel", "--name", "a", "--wait", "none"])?;
    ensure!(taken()? != port()?, "{}", taken()?);
    let before = port()?;
    ill.run(&["stop", "a", "--timeout", "0", "--force"])?;
    fs::remove_file(ill.dir.path().join("port"))?;
    rob("22")?;
    ill.run(&["start", "a", "--wait", "none"])?;
    ensure!(taken()? == before && port()? != before, "{before}");
    ill.run(&["rm", "a", "--yes"])?;

    // Who publishes a port wants that one.
    let publish = harness::free_port()?;
    let deploy = ["deploy", "test/kernel", "--name", "a", "--wait", "none"];
    let mut deploy = ill.command(&deploy);
    deploy.args(["--publish", &format!("{publish}:80")]);
    fs::remove_file(ill.dir.path().join("port"))?;
    rob("80")?;
    let output = deploy.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains(&publish.to_string()), "{said}");
    ensure!(output.status.code() == Some(5), "{output:?}");
    ill.vms.nothing_left()
}

/// A start whose process is killed at any moment ends, with a machine that runs or with one that is stopped.
fn killed_at_starts(ill: &Ill) -> Result<()> {
    let mut random = Random::printed("kills at starts");
    let mut hit = 0;
    for round in 0..STARTS {
        let before = ill.starting();
        let start = ["start", "a", "--wait", "none"];
        let starting = ill.command(&start).stderr(Stdio::piped()).spawn()?;
        let begun = Instant::now();
        let pid = loop {
            ensure!(begun.elapsed() < Duration::from_secs(30), "no process");
            // The file of the process before stays until the next one writes it.
            if let Some(pid) = ill.starting().filter(|pid| Some(*pid) != before) {
                break pid;
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        // It may have ended: then the number is nobody's yet.
        let _ = kill_process(pid, Signal::KILL);
        let ended = starting.wait_with_output().context("wait for the start")?;
        hit += usize::from(!ended.status.success());
        let begun = Instant::now();
        while ill.vms.state("a")? != "stopped" {
            let waited = begun.elapsed() < Duration::from_secs(20);
            ensure!(
                waited,
                "round {round}: it does not count as ended: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    println!("{hit} of {STARTS} starts failed");
    ill.run(&["start", "a", "--wait", "none"]).map(drop)
}
