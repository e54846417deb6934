//! A machine whose disk is known, because its guest has nothing that it could start and everything is written from here,
//! over the socket that its disk is offered on.
//!
//! In the middle of a deed, the service is killed now and then, or the host loses its power. What was acknowledged is so;
//! of what was not, the disk is one or the other, and never something between.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{NbdClient, Random};
use serde_json::Value;

use crate::commands::must;
use crate::scene::Scene;

use super::{kills, look};

const NAME: &str = "known";

/// Pieces of the disk that are written, and where: behind all that the template has, in the middle of a group of its file
/// system, where it has zeros.
const PIECES: usize = 8;
const PIECE_BYTES: usize = 256 << 10;
const AT: u64 = (512 + 48) << 20;

/// Most snapshots that are kept.
const SNAPSHOTS: usize = 3;

/// What is done to it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Deed {
    Write,
    Snapshot,
    Restore,
    Localize,
    Reimage,
}

/// The byte that all of each piece holds.
type Pieces = [u8; PIECES];

/// What is known of it.
#[derive(Debug)]
pub(crate) struct Known {
    disk: Pieces,
    snapshots: BTreeMap<String, Pieces>,
    /// What its data disk begins with.
    data: u8,
    named: u32,
}

impl Known {
    /// Deploys it, and lets it lie: its kernel would take a processor.
    pub(crate) fn new(scene: &Scene) -> Result<Self> {
        let known = Self {
            disk: [0; PIECES],
            snapshots: BTreeMap::new(),
            data: 0,
            named: 0,
        };
        let mut deploy = scene.vm(&["deploy", &scene.kernel, "--name", NAME, "--wait", "none"]);
        must(deploy.args(["--data-disk", "16M", "--pause-after", "3"]))?;
        stop(scene)?;
        Ok(known)
    }

    pub(super) fn name(&self) -> &'static str {
        NAME
    }

    /// Starts it, unless it runs.
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        must(&mut scene.vm(&["start", NAME, "--wait", "none"])).map(drop)
    }

    pub(super) fn do_deed(
        &mut self,
        deed: Deed,
        scene: &mut Scene,
        random: &mut Random,
    ) -> Result<()> {
        scene.account.known += 1;
        match deed {
            Deed::Write => {
                self.write(scene, random)?;
                self.check_now(scene)?;
            }
            Deed::Snapshot => self.snapshot(scene, random)?,
            Deed::Restore => self.restore(scene, random)?,
            Deed::Localize => self.localize(scene, random)?,
            Deed::Reimage => self.reimage(scene, random)?,
        }
        stop(scene)
    }

    /// Writes some pieces, flushed.
    fn write(&mut self, scene: &mut Scene, random: &mut Random) -> Result<()> {
        self.run(scene)?;
        let mut disk = client(scene)?;
        for _ in 0..=random.below(PIECES as u64) {
            let number = random.below(PIECES as u64) as usize;
            let byte = 1 + random.below(255) as u8;
            let refused = disk.write(place(number), &vec![byte; PIECE_BYTES])?;
            ensure!(refused == 0, "it is not written: error {refused}");
            self.disk[number] = byte;
        }
        let refused = disk.flush()?;
        ensure!(refused == 0, "it is not flushed: error {refused}");
        scene.account.written += 1;
        Ok(())
    }

    /// Reads it, and compares.
    pub(super) fn check_now(&mut self, scene: &mut Scene) -> Result<()> {
        let found = self.read(scene)?;
        self.compare(scene, found, "the disk");
        Ok(())
    }

    fn compare(&self, scene: &mut Scene, found: Pieces, what: &str) {
        scene.account.checked += PIECES as u64;
        if found != self.disk {
            let wrong = format!("{what} has {found:?}, not {:?}", self.disk);
            scene.account.wrong.push(wrong);
        }
    }

    fn read(&self, scene: &Scene) -> Result<Pieces> {
        self.run(scene)?;
        let mut disk = client(scene)?;
        let mut pieces = [0; PIECES];
        for (number, piece) in pieces.iter_mut().enumerate() {
            let bytes = disk.read(place(number), PIECE_BYTES as u32)?;
            let bytes = bytes.ok().context("a piece cannot be read")?;
            *piece = same(&bytes)?;
        }
        Ok(pieces)
    }

    fn snapshot(&mut self, scene: &mut Scene, random: &mut Random) -> Result<()> {
        self.write(scene, random)?;
        if self.snapshots.len() >= SNAPSHOTS {
            let name = self.any_snapshot(random)?;
            must(&mut scene.vm(&["snapshot", "rm", NAME, &name, "--yes"]))?;
            self.snapshots.remove(&name);
        }
        self.named += 1;
        let name = format!("s{}", self.named);
        let create = ["snapshot", "create", NAME, &name];
        let acknowledged = interrupted(scene, &create, random)?;
        let listed = must(&mut scene.vm(&["snapshot", "ls", NAME, "--quiet"]))?;
        let there = listed.lines().any(|line| line == name);
        ensure!(
            there || !acknowledged,
            "{name} was acknowledged and is not there"
        );
        if there {
            self.snapshots.insert(name, self.disk);
        }
        let mut expected: Vec<&str> = self.snapshots.keys().map(String::as_str).collect();
        let mut listed: Vec<&str> = listed.lines().collect();
        expected.sort_unstable();
        listed.sort_unstable();
        ensure!(listed == expected, "{listed:?}, not {expected:?}");
        self.check_now(scene)
    }

    fn restore(&mut self, scene: &mut Scene, random: &mut Random) -> Result<()> {
        if self.snapshots.is_empty() {
            return self.snapshot(scene, random);
        }
        self.write(scene, random)?;
        stop(scene)?;
        let name = self.any_snapshot(random)?;
        let restore = ["snapshot", "restore", NAME, &name, "--yes"];
        let acknowledged = interrupted(scene, &restore, random)?;
        let wanted = self.snapshots[&name];
        let found = self.read(scene)?;
        if found == wanted || acknowledged {
            self.disk = wanted;
        }
        self.compare(scene, found, &format!("the disk after a restore of {name}"));
        Ok(())
    }

    /// Makes it a plain file; then it goes, and another comes, as there is no way back.
    fn localize(&mut self, scene: &mut Scene, random: &mut Random) -> Result<()> {
        self.write(scene, random)?;
        let acknowledged = interrupted(scene, &["localize", NAME], random)?;
        // After the host's power is lost it does not run, and cannot answer otherwise.
        self.run(scene)?;
        let shown = must(&mut scene.vm(&["inspect", NAME, "--format", "json"]))?;
        let shown: Value = serde_json::from_str(&shown)?;
        let is_file = shown["disk"]["place"] == "file";
        ensure!(
            is_file || !acknowledged,
            "it was acknowledged, and is no file: {shown}"
        );
        if !is_file {
            return self.check_now(scene);
        }
        let file = OpenOptions::new().read(true).open(file(scene)?)?;
        let mut pieces = [0; PIECES];
        for (number, piece) in pieces.iter_mut().enumerate() {
            let mut bytes = vec![0; PIECE_BYTES];
            file.read_exact_at(&mut bytes, place(number))?;
            *piece = same(&bytes)?;
        }
        drop(file);
        self.compare(scene, pieces, "the file that the disk became");
        must(&mut scene.vm(&["rm", NAME, "--yes"]))?;
        *self = Self::new(scene)?;
        Ok(())
    }

    fn reimage(&mut self, scene: &mut Scene, random: &mut Random) -> Result<()> {
        self.write(scene, random)?;
        stop(scene)?;
        let data = scene.vms.path("instances").join(NAME).join("data0.raw");
        self.data = 1 + random.below(255) as u8;
        let file = OpenOptions::new().read(true).write(true).open(data)?;
        file.write_all_at(&vec![self.data; PIECE_BYTES], 0)?;
        file.sync_all()?;
        let acknowledged = interrupted(scene, &["reimage", NAME, "--yes"], random)?;
        let mut bytes = vec![0; PIECE_BYTES];
        // It may be another file, after a boot of the host.
        let data = scene.vms.path("instances").join(NAME).join("data0.raw");
        OpenOptions::new()
            .read(true)
            .open(data)?
            .read_exact_at(&mut bytes, 0)?;
        scene.account.checked += 1;
        if same(&bytes).ok() != Some(self.data) {
            let wrong = "the data disk is another after a reimage".to_owned();
            scene.account.wrong.push(wrong);
        }
        let found = self.read(scene)?;
        if found == [0; PIECES] || acknowledged {
            self.disk = [0; PIECES];
        }
        self.compare(scene, found, "the disk after a reimage");
        Ok(())
    }

    fn any_snapshot(&self, random: &mut Random) -> Result<String> {
        let number = random.below(self.snapshots.len().max(1) as u64) as usize;
        let name = self.snapshots.keys().nth(number);
        Ok(name.context("a snapshot")?.clone())
    }

    /// Looks at it for the last time, and removes it.
    pub(crate) fn end(mut self, scene: &mut Scene) -> Result<()> {
        self.check_now(scene)?;
        must(&mut scene.vm(&["rm", NAME, "--yes"])).map(drop)
    }
}

fn place(number: usize) -> u64 {
    AT + (number * PIECE_BYTES) as u64
}

/// The byte that all of these are.
fn same(bytes: &[u8]) -> Result<u8> {
    match bytes.iter().all(|byte| *byte == bytes[0]) {
        true => Ok(bytes[0]),
        false => bail!("a piece of the disk is of two writings"),
    }
}

fn client(scene: &Scene) -> Result<NbdClient> {
    NbdClient::connect(&scene.vms.path("run").join(NAME).join("disk"))
}

/// The file that its disk is.
fn file(scene: &Scene) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(scene.vms.path("instances").join(NAME))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("disk") && name.ends_with(".raw") {
            found.push(entry.path());
        }
    }
    match &found[..] {
        [file] => Ok(file.clone()),
        _ => bail!("not one file: {found:?}"),
    }
}

fn stop(scene: &Scene) -> Result<()> {
    let stop = ["stop", NAME, "--timeout", "0", "--force"];
    must(&mut scene.vm(&stop)).map(drop)
}

/// Runs a command, and now and then kills the service or the host while it works. Whether it was acknowledged.
fn interrupted(scene: &mut Scene, arguments: &[&str], random: &mut Random) -> Result<bool> {
    let what = random.below(16);
    let mut command = scene.vm(arguments);
    if what > 6 {
        must(&mut command)?;
        return Ok(true);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut command = command.spawn().context("start a command")?;
    sleep(Duration::from_millis(random.below(400)));
    match what {
        0 => kills::power(scene, random)?,
        _ => kills::kill(scene),
    }
    let acknowledged = command.wait().context("wait for it")?.success();
    scene.account.cut_off += u32::from(!acknowledged);
    look(scene)?;
    Ok(acknowledged)
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deed::Write => "is written and read",
            Deed::Snapshot => "gets a snapshot",
            Deed::Restore => "gets a snapshot back",
            Deed::Localize => "becomes a file, goes, and another comes",
            Deed::Reimage => "gets a new root disk",
        })
    }
}
