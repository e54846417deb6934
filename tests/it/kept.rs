//! Mounts of the host service, which outlive it: services that are killed, replaced and ended under load, and the keeper.

mod load;
mod users;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Background, Shale, need_root, run};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::seen::{check_metrics, metric};

/// How long what happens at once may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(20);

const CONFLICT: i32 = 5;

/// A home with mounts, whose keeper and directories are gone when this is dropped, whatever became of the services.
struct Mounts {
    shale: Shale,
    points: Vec<PathBuf>,
}

impl Mounts {
    /// With a template `test/tree` that has these files.
    fn of(files: &[(&str, &[u8])]) -> Result<Self> {
        let (shale, source) = (Shale::new()?, tempfile::tempdir()?);
        for (name, content) in files {
            fs::write(source.path().join(name), content)?;
        }
        let push = ["push", "--quiet"];
        run(shale
            .command()
            .args(push)
            .arg(source.path())
            .arg("test/tree"))?;
        let points = Vec::new();
        Ok(Self { shale, points })
    }

    /// Makes a directory that is taken care of.
    fn point(&mut self, name: &str) -> Result<PathBuf> {
        let point = self.shale.home().join(name);
        fs::create_dir_all(&point)?;
        self.points.push(point.clone());
        Ok(point)
    }

    /// Mounts the template on it.
    fn mount(&self, point: &Path, args: &[&str]) -> Result<()> {
        let mut command = self.shale.command();
        command.args(["mount", "--quiet", "test/tree"]).arg(point);
        run(command.args(args)).map(drop)
    }

    fn umount(&self, point: &Path) -> Command {
        let mut command = self.shale.command();
        command.arg("umount").arg(point);
        command
    }

    /// A service that is a child of the test, so that it can be killed.
    fn service(&self, mut program: Command) -> Result<Background> {
        let command = program.args(["host", "run"]);
        Background::start_until(command, "serving on")
    }

    fn listed(&self) -> Result<Vec<Value>> {
        let mut command = self.shale.command();
        let listed = run(command.args(["mount", "--format", "json"]))?;
        Ok(serde_json::from_str(&listed)?)
    }

    fn keeper(&self) -> Option<Pid> {
        let socket = self.shale.home().join(".state/run/keep.sock");
        find_process(&["keeper", socket.to_str()?])
    }

    /// Fails if a keeper is there when it has nothing to keep.
    fn keeper_ends(&self) -> Result<()> {
        wait_until("the keeper ends", || Ok(self.keeper().is_none()))
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let state = self.shale.home().join(".state");
        for words in [["host", "run"], ["keeper", "--socket"]] {
            let with_state = [words[0], words[1], state.to_str().unwrap_or("none")];
            if let Some(process) = find_process(&with_state) {
                let _ = kill_process(process, Signal::KILL);
            }
        }
        for point in &self.points {
            let _ = Command::new("umount")
                .arg("-l")
                .arg(point)
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// A process whose command line has all of these in it.
fn find_process(words: &[&str]) -> Option<Pid> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut found = processes.filter_map(|process| {
        let number: i32 = process.file_name().to_str()?.parse().ok()?;
        let line = fs::read_to_string(process.path().join("cmdline")).ok()?;
        let has_all = words.iter().all(|word| line.contains(word));
        has_all.then(|| Pid::from_raw(number))?
    });
    found.next()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Exit code and messages of a command that is to fail.
fn failure(command: &mut Command) -> Result<(Option<i32>, String)> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), said))
}

#[test]
fn privileged_a_mount_of_the_service_is_made_listed_and_ended() -> Result<()> {
    need_root()?;
    let mut mounts = Mounts::of(&[("file", b"content")])?;
    let (tree, disk) = (mounts.point("tree")?, mounts.point("disk")?);
    // The service is started for it.
    mounts.mount(&tree, &[])?;
    assert_eq!(fs::read(tree.join("file"))?, b"content");
    let overlay = ["--disk", "--overlay", "overlay", "--disk-size", "3G"];
    mounts.mount(&disk, &overlay)?;
    assert_eq!(disk.join("disk.raw").metadata()?.len(), 3 << 30);
    File::open(disk.join("disk.raw"))?.read_exact_at(&mut [0; 4096], 4096)?;
    let counted = run(mounts.shale.command().args(["host", "metrics"]))?;
    check_metrics(&counted)?;
    for face in ["fuse_tree", "fuse_disk"] {
        let name = format!("shale_read_duration_seconds_count{{face=\"{face}\"}}");
        ensure!(metric(&counted, &name)? >= 1.0, "{counted}");
    }
    let listed = mounts.listed()?;
    let shown = |n: usize| (&listed[n]["directory"], &listed[n]["shows"]);
    let path = |path: &Path| Value::from(path.to_str().unwrap_or_default());
    assert_eq!(shown(0), (&path(&disk), &"disk".into()));
    assert_eq!(shown(1), (&path(&tree), &"tree".into()));
    let quiet = run(mounts.shale.command().args(["mount", "--quiet"]))?;
    assert_eq!(quiet.lines().count(), 2);

    // One directory, and one overlay, is for one mount.
    let mut command = mounts.shale.command();
    let twice = failure(command.args(["mount", "test/tree"]).arg(&tree))?;
    ensure!(
        twice.0 == Some(CONFLICT) && twice.1.contains("shale umount"),
        "{twice:?}"
    );
    let other = mounts.point("other")?;
    let mut command = mounts.shale.command();
    command.args(["mount", "test/tree"]).arg(&other);
    let taken = failure(command.args(&overlay[..3]))?;
    ensure!(taken.0 == Some(CONFLICT), "{taken:?}");
    let nowhere = mounts.shale.home().join("missing");
    let mut command = mounts.shale.command();
    let missing = failure(command.args(["mount", "test/tree"]).arg(nowhere))?;
    ensure!(
        missing.0 == Some(3) && missing.1.contains("make the directory"),
        "{missing:?}"
    );
    let mut command = mounts.shale.command();
    let unknown = failure(command.args(["mount", "test/none"]).arg(&other))?;
    ensure!(unknown.0 == Some(3), "{unknown:?}");
    assert_eq!(mounts.listed()?.len(), 2);

    let file = File::open(tree.join("file"))?;
    let busy = failure(&mut mounts.umount(&tree))?;
    let test = std::process::id().to_string();
    ensure!(
        busy.0 == Some(CONFLICT) && busy.1.contains(&test),
        "{busy:?}"
    );
    // Out of its place, which is free for another, and served for whoever uses it.
    run(mounts.umount(&tree).arg("--lazy"))?;
    let state = |n: usize| -> Result<Value> { Ok(mounts.listed()?[n]["state"].clone()) };
    assert_eq!(state(1)?, "unmounted");
    mounts.mount(&tree, &[])?;
    assert_eq!(mounts.listed()?.len(), 3);
    file.read_exact_at(&mut [0; 7], 0)?;
    drop(file);
    wait_until("the first is gone", || Ok(mounts.listed()?.len() == 2))?;
    let file = File::open(tree.join("file"))?;
    run(mounts.umount(&tree).arg("--force"))?;
    ensure!(file.read_at(&mut [0], 0).is_err());
    drop(file);
    run(&mut mounts.umount(&disk))?;
    ensure!(mounts.listed()?.is_empty());
    run(mounts.shale.command().args(["host", "stop"]))?;
    mounts.keeper_ends()
}

#[test]
fn privileged_a_keeper_that_dies_is_replaced_and_what_dies_with_it_is_told() -> Result<()> {
    need_root()?;
    let mut mounts = Mounts::of(&[("one", b"1"), ("two", b"2"), ("three", b"3")])?;
    let point = mounts.point("mnt")?;
    let service = mounts.service(mounts.shale.command())?;
    mounts.mount(&point, &[])?;
    assert_eq!(fs::read(point.join("one"))?, b"1");
    let second = failure(mounts.shale.command().args(["host", "run"]))?;
    ensure!(second.0 == Some(CONFLICT), "{second:?}");

    let first = mounts.keeper().context("a keeper")?;
    kill_process(first, Signal::KILL)?;
    wait_until("another keeper", || {
        Ok(mounts.keeper().is_some_and(|keeper| keeper != first))
    })?;
    // It was given what the first had.
    std::thread::sleep(Duration::from_millis(100));
    service.kill()?;
    let service = mounts.service(mounts.shale.command())?;
    assert_eq!(fs::read(point.join("two"))?, b"2");

    // Both: nobody has the mount open any more.
    let keeper = mounts.keeper().context("a keeper")?;
    service.kill()?;
    kill_process(keeper, Signal::KILL)?;
    wait_until("a dead mount", || {
        Ok(rustix::fs::statfs(&point).is_err_and(|error| error == Errno::NOTCONN))
    })?;
    let said = mounts.shale.home().join("said");
    let mut command = mounts.shale.command();
    command.args(["host", "run"]).stderr(File::create(&said)?);
    let service = Background::start(&mut command)?;
    wait_until("the next service tells", || {
        Ok(fs::read_to_string(&said)?.contains("was lost with its keeper"))
    })?;
    ensure!(mounts.listed()?.is_empty());
    ensure!(
        fs::read_dir(&point)?.next().is_none(),
        "it is still mounted"
    );
    mounts.mount(&point, &[])?;
    assert_eq!(fs::read(point.join("three"))?, b"3");
    // While no service runs, which umount(8) would wait for: it looks at what it unmounts.
    service.terminate()?;
    run(&mut mounts.umount(&point))?;
    let service = mounts.service(mounts.shale.command())?;
    wait_until("it is forgotten", || Ok(mounts.listed()?.is_empty()))?;
    service.terminate()?;
    mounts.keeper_ends()
}

#[test]
fn privileged_a_mount_that_cannot_be_served_waits_until_it_can() -> Result<()> {
    need_root()?;
    let mut mounts = Mounts::of(&[("file", b"content")])?;
    let point = mounts.point("mnt")?;
    let service = mounts.service(mounts.shale.command())?;
    mounts.mount(&point, &[])?;
    service.kill()?;
    let plans = mounts.shale.home().join(".state/plans");
    let away = mounts.shale.home().join("plans");
    fs::rename(&plans, &away)?;
    let service = mounts.service(mounts.shale.command())?;
    let state = || -> Result<Value> { Ok(mounts.listed()?[0]["state"].clone()) };
    assert_eq!(state()?, "waits");
    let read = mounts.shale.home().join("read");
    let mut cat = Command::new("cat");
    cat.arg(point.join("file")).stdout(File::create(&read)?);
    let mut cat = Background::start(&mut cat)?;
    std::thread::sleep(Duration::from_millis(100));
    ensure!(cat.ended()?.is_none(), "somebody else answers");
    fs::remove_dir_all(&plans)?;
    fs::rename(&away, &plans)?;
    // The service tries again by itself.
    wait_until("the reader goes on", || Ok(cat.ended()?.is_some()))?;
    assert_eq!(fs::read(&read)?, b"content");
    assert_eq!(state()?, "served");

    service.kill()?;
    fs::rename(&plans, &away)?;
    let service = mounts.service(mounts.shale.command())?;
    run(&mut mounts.umount(&point))?;
    ensure!(mounts.listed()?.is_empty());
    service.terminate()?;
    mounts.keeper_ends()
}
