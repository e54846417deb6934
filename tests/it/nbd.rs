//! The disk over NBD: real clients, a real guest, and a server that dies under them.

mod verify;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Background, Disk, Input, Qemu, Random, Shale, need_root, run, tool};

use crate::export::{check_file_system, push_and_export, shell_machine, tell, wait_for_shell};

/// `shale nbd` of the pushed tree.
fn server(shale: &Shale, socket: &Path, overlay: Option<&Path>) -> Command {
    let mut command = shale.command();
    command.args(["nbd", "test/tree", "--socket"]).arg(socket);
    if let Some(overlay) = overlay {
        command.arg("--overlay").arg(overlay);
    }
    command
}

/// The same, listening.
fn serve(shale: &Shale, socket: &Path, overlay: Option<&Path>) -> Result<Background> {
    Background::start_until(&mut server(shale, socket, overlay), "serving")
}

fn url(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", socket.display())
}

/// A tree of some megabytes.
fn small_tree() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    let mut random = Random::printed("small tree");
    for n in 0..40 {
        let path = directory.path().join(format!("file-{n}"));
        let len = 1 + random.below(300_000) as usize;
        fs::write(path, random.bytes(len))?;
    }
    Ok(directory)
}

#[test]
fn privileged_what_is_served_is_what_is_exported() -> Result<()> {
    let shale = Shale::new()?;
    let tree = small_tree()?;
    let exported = push_and_export(&shale, tree.path())?;
    let socket = shale.home().join("s");
    let server = serve(&shale, &socket, None)?;
    let copied = shale.home().join("copied.raw");
    run(tool("nbdcopy")?.arg(url(&socket)).arg(&copied))?;
    run(Command::new("cmp").args([&exported, &copied]))?;
    let info = run(tool("nbdinfo")?.arg(url(&socket)))?;
    ensure!(info.contains("is_read_only: true"), "{info}");
    let compare = ["compare", "-f", "raw", "-F", "raw"];
    run(tool("qemu-img")?
        .args(compare)
        .arg(url(&socket))
        .arg(&exported))?;
    server.terminate()?;
    ensure!(!socket.exists(), "the socket goes with its server");
    Ok(())
}

#[test]
fn a_larger_disk_has_a_larger_file_system_of_the_profile_that_was_asked_for() -> Result<()> {
    const DISK_BYTES: u64 = 3 << 30;
    let shale = Shale::new()?;
    let tree = small_tree()?;
    run(shale.command().arg("push").arg(tree.path()).arg("test/new"))?;
    let create = ["template", "create", "test/tree", "test/new"];
    run(shale
        .command()
        .args(create)
        .args(["--filesystem", "ext4-old"]))?;
    let (socket, overlay) = (shale.home().join("s"), shale.home().join("overlay"));
    let served = |size: &str| {
        let mut command = shale.command();
        command.args(["nbd", "test/tree", "--socket"]).arg(&socket);
        command
            .arg("--overlay")
            .arg(&overlay)
            .args(["--disk", size]);
        command
    };
    let small = served("1M").output()?;
    let said = String::from_utf8_lossy(&small.stderr);
    ensure!(
        small.status.code() == Some(2) && said.contains("too small"),
        "{said}"
    );
    let server = Background::start_until(&mut served("3G"), "serving")?;
    let copied = shale.home().join("copied.raw");
    run(tool("nbdcopy")?.arg(url(&socket)).arg(&copied))?;
    server.terminate()?;
    ensure!(copied.metadata()?.len() == DISK_BYTES);
    check_file_system(&copied)?;
    let blocks: u64 = field(&copied, "Block count:")?.parse()?;
    ensure!(blocks * 4096 == DISK_BYTES, "{blocks} blocks");
    let features = field(&copied, "Filesystem features:")?;
    ensure!(
        !features.contains("64bit") && !features.contains("metadata_csum"),
        "{features}"
    );
    Ok(())
}

/// A field of the superblock.
fn field(disk: &Path, name: &str) -> Result<String> {
    let head = run(tool("debugfs")?
        .args(["-R", "show_super_stats -h"])
        .arg(disk))?;
    let line = head.lines().find(|line| line.starts_with(name));
    line.map(|line| line[name.len()..].trim().to_owned())
        .with_context(|| format!("{name} in {head}"))
}

#[test]
fn privileged_what_was_flushed_survives_thirty_kills_of_the_server() -> Result<()> {
    let shale = Shale::new()?;
    let tree = small_tree()?;
    run(shale
        .command()
        .arg("push")
        .arg(tree.path())
        .arg("test/tree"))?;
    let (socket, overlay) = (shale.home().join("s"), shale.home().join("overlay"));
    let mut random = Random::printed("nbd kills");
    let mut kills = Kills::default();
    // The first of these also compose the tree and make the overlay.
    let mut starts = Starts::default();
    for _ in 0..10 {
        starts.kill_one(&mut server(&shale, &socket, Some(&overlay)), &mut random)?;
    }
    // Pattern of each 64 KiB that was flushed, and what was on its way when the server died.
    let mut flushed = [0u8; SLOTS];
    while kills.go_on()? {
        let server_of_writes = serve(&shale, &socket, Some(&overlay))?;
        check_slots(&socket, &flushed)?;
        let writes: Vec<(usize, u8)> = (0..400)
            .map(|_| {
                (
                    random.below(SLOTS as u64) as usize,
                    1 + random.below(255) as u8,
                )
            })
            .collect();
        let client = write_and_flush(&socket, &writes)?;
        std::thread::sleep(Duration::from_millis(random.below(250)));
        server_of_writes.kill()?;
        let acknowledged = client.done()?;
        kills.count(acknowledged, writes.len());
        for (slot, pattern) in &writes[..acknowledged.min(writes.len())] {
            flushed[*slot] = *pattern;
        }
        // One that takes up what the last has left, and does not come to serve it.
        starts.kill_one(&mut server(&shale, &socket, Some(&overlay)), &mut random)?;
        // What was under way when the server died may be there in part: it is written again.
        let server_of_writes = serve(&shale, &socket, Some(&overlay))?;
        for (slot, pattern) in writes.iter().skip(acknowledged).take(2) {
            write_and_flush(&socket, &[(*slot, *pattern)])?.done()?;
            flushed[*slot] = *pattern;
        }
        server_of_writes.kill()?;
    }
    println!("{kills:?}");
    starts.assert_some()?;
    let last = serve(&shale, &socket, Some(&overlay))?;
    check_slots(&socket, &flushed)?;
    last.terminate()?;
    // What is left of forty servers that were killed: an overlay and a plan.
    assert_eq!(
        names_in(&overlay)?,
        ["bits", "data", "head", "live", "lock"]
    );
    let plans = names_in(&shale.home().join(".state/plans"))?;
    ensure!(
        plans.len() == 2,
        "a plan, and the name of its template: {plans:?}"
    );
    Ok(())
}

fn names_in(directory: &Path) -> Result<Vec<String>> {
    let names =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into()));
    let mut names: Vec<String> = names.collect::<Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Servers that were killed about when they begin to serve.
#[derive(Debug, Default)]
struct Starts {
    /// Before they said so.
    early: usize,
    late: usize,
    /// How long one takes, once one has come that far.
    takes: Option<Duration>,
}

impl Starts {
    fn kill_one(&mut self, command: &mut Command, random: &mut Random) -> Result<()> {
        // A little later than most that were seen, so that some come to listen.
        const FIRST_GUESS: Duration = Duration::from_millis(100);
        let longest = self.takes.unwrap_or(FIRST_GUESS) * 6 / 5;
        let begun = Instant::now();
        let mut said = tempfile::NamedTempFile::new()?;
        let server = Background::start(command.stderr(said.reopen()?))?;
        std::thread::sleep(Duration::from_micros(
            random.below(longest.as_micros() as u64),
        ));
        let ended = server.kill()?;
        let text = std::io::read_to_string(&mut said)?;
        ensure!(ended.is_none(), "it ended by itself: {text}");
        match text.contains("serving") {
            true => {
                self.late += 1;
                self.takes = Some(begun.elapsed());
            }
            false => self.early += 1,
        }
        Ok(())
    }

    fn assert_some(&self) -> Result<()> {
        println!("{self:?}");
        ensure!(
            self.early >= LEAST_EARLY,
            "too few died before they served: {self:?}"
        );
        Ok(())
    }
}

/// So many of forty servers die while they start.
const LEAST_EARLY: usize = 5;

/// Slots of 64 KiB from 64 MiB on, which the pushed tree leaves free.
const SLOTS: usize = 32;
const SLOT_BYTES: u64 = 64 << 10;

fn slot_offset(slot: usize) -> u64 {
    (512 << 20) + slot as u64 * SLOT_BYTES
}

/// How many kills hit while something was going on.
#[derive(Debug, Default)]
pub(crate) struct Kills {
    pub(crate) all: usize,
    middle: usize,
}

impl Kills {
    /// Counts a kill after `done` of `all` steps.
    pub(crate) fn count(&mut self, done: usize, all: usize) {
        self.hit(done > 0 && done < all);
    }

    /// Counts a kill that hit in the middle, or not.
    pub(crate) fn hit(&mut self, in_the_middle: bool) {
        self.all += 1;
        self.middle += usize::from(in_the_middle);
    }

    /// Whether there are to be more: until there were thirty, of which fifteen hit in the middle. How many do depends
    /// on what else the machine does, and an error says that hardly any did.
    pub(crate) fn go_on(&self) -> Result<bool> {
        ensure!(self.all < 200, "kills come too early or too late: {self:?}");
        Ok(self.all < 30 || self.middle < 15)
    }
}

/// A `qemu-io` that writes slots, each followed by a flush.
struct Writer {
    client: std::process::Child,
}

fn write_and_flush(socket: &Path, writes: &[(usize, u8)]) -> Result<Writer> {
    let mut command = tool("qemu-io")?;
    command
        .args(["-f", "raw", "-t", "writeback"])
        .arg(url(socket));
    for (slot, pattern) in writes {
        let write = format!("write -P {pattern} {} {SLOT_BYTES}", slot_offset(*slot));
        // The line of a read that follows a flush tells that the flush is done.
        command.args(["-c", &write, "-c", "flush", "-c", "read 0 512"]);
    }
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null());
    Ok(Writer {
        client: command.spawn().context("start qemu-io")?,
    })
}

impl Writer {
    /// How many writes were flushed before the client ended.
    fn done(self) -> Result<usize> {
        let output = self.client.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text
            .lines()
            .filter(|line| line.starts_with("read 512/512"))
            .count())
    }
}

fn check_slots(socket: &Path, expected: &[u8; SLOTS]) -> Result<()> {
    let mut command = tool("qemu-io")?;
    command.args(["-f", "raw"]).arg(url(socket));
    for (slot, pattern) in expected.iter().enumerate() {
        command.args([
            "-c",
            &format!("read -P {pattern} {} {SLOT_BYTES}", slot_offset(slot)),
        ]);
    }
    let output = run(&mut command)?;
    ensure!(
        !output.contains("verification failed"),
        "lost what was flushed:\n{output}"
    );
    Ok(())
}

#[test]
fn privileged_boot_a_guest_goes_on_when_its_server_is_killed() -> Result<()> {
    need_root()?;
    let base = Input::base()?;
    let shale = Shale::new()?;
    run(shale.command().arg("push").arg(base.tree()).arg("test/new"))?;
    // The one guest that boots from the older profile: what a disk is laid out like is of no concern to its server.
    let create = ["template", "create", "test/tree", "test/new"];
    run(shale
        .command()
        .args(create)
        .args(["--filesystem", "ext4-old"]))?;
    let (socket, overlay) = (shale.home().join("s"), shale.home().join("overlay"));
    let server = serve(&shale, &socket, Some(&overlay))?;
    let export = String::new();
    let disk = Disk::Nbd {
        socket: socket.clone(),
        export,
    };
    let mut vm = Qemu::start(&shell_machine(&base, disk)?)?;
    wait_for_shell(&mut vm)?;
    let limit = Duration::from_secs(120);
    tell(&mut vm, "echo before > /root/before; sync", limit)?;
    server.kill()?;
    // The guest writes while nobody is there: it waits.
    vm.send("echo during > /root/during; sync; echo 3 > /proc/sys/vm/drop_caches; cat /usr/bin/dpkg | wc -c; echo over''-it\n")?;
    std::thread::sleep(Duration::from_secs(2));
    let server = serve(&shale, &socket, Some(&overlay))?;
    vm.wait_for("over-it", limit)?;
    let console = vm.console()?;
    ensure!(!console.contains("I/O error"), "{console}");
    tell(
        &mut vm,
        "echo after > /root/after; sync; mount -o remount,ro /",
        limit,
    )?;
    vm.kill()?;
    let written = written_disk(&shale, &socket)?;
    server.terminate()?;
    check_file_system(&written)?;
    let features = field(&written, "Filesystem features:")?;
    ensure!(!features.contains("metadata_csum"), "{features}");
    for name in ["before", "during", "after"] {
        let cat = format!("cat /root/{name}");
        let text = run(tool("debugfs")?.args(["-R", &cat]).arg(&written))?;
        ensure!(text.contains(name), "/root/{name}: {text:?}");
    }
    Ok(())
}

/// The disk with the guest's writes, as a file.
fn written_disk(shale: &Shale, socket: &Path) -> Result<PathBuf> {
    let file = shale.home().join("written.raw");
    run(tool("nbdcopy")?.arg(url(socket)).arg(&file))?;
    Ok(file)
}
