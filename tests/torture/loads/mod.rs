//! What works all the time, and checks its own bytes: a program in a guest or on the host that says in lines what it did.
//!
//! ```text
//! saved NAME SUM   it is written and flushed: it must be there whatever happens
//! checked COUNT    so many files or pieces were right, which ends a pass
//! anything else    is wrong
//! ```

mod disk;
mod guest;
mod tree;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::Vms;

use crate::scene::Scene;

pub(crate) use disk::{WRITER, write_for_ever};

/// Passes that a load must make after the last blow.
const MORE: u64 = 2;

/// How long it may take to them: a boot, and a stall that is waited for, on a machine that others use as well.
const LONGEST: Duration = Duration::from_secs(900);

/// Something that works.
#[derive(Debug)]
pub(crate) struct Load {
    name: String,
    kind: Kind,
    vms: Arc<Vms>,
    reference: String,
    /// Checksums of files of the template, as `sha256sum -c` takes them.
    sums: Arc<str>,
    heard: Mutex<Heard>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Guest,
    Tree,
    Disk,
}

/// What a load said.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// What it wrote last under each name, which is there whatever happens.
    pub(crate) saved: BTreeMap<String, String>,
    pub(crate) checked: u64,
    pub(crate) wrong: Vec<String>,
    passes: u64,
    ended: bool,
}

impl Load {
    /// All loads of a scene.
    pub(crate) fn all(scene: &Scene) -> Vec<Self> {
        let load = |name: &str, kind: Kind| Self {
            name: name.to_owned(),
            kind,
            vms: scene.vms.clone(),
            reference: scene.reference.clone(),
            sums: scene.sums.clone(),
            heard: Mutex::default(),
        };
        let guests = scene.names.iter().map(|name| load(name, Kind::Guest));
        let mounts = [("tree", Kind::Tree), ("disk", Kind::Disk)];
        let mounts = mounts.map(|(name, kind)| load(name, kind));
        guests.chain(mounts).collect()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files that it acknowledged, in a directory of this name, as `sha256sum -c` takes them.
    pub(crate) fn saved_below(&self, below: &str) -> String {
        let saved = &self.heard().saved;
        let line = |(name, sum): (&String, &String)| format!("{sum}  {below}{name}\n");
        saved.iter().map(line).collect()
    }

    pub(crate) fn end(&self) {
        self.heard().ended = true;
    }

    /// Lets it work until it is to end, and again whenever it was killed.
    pub(crate) fn work(&self) {
        while !self.heard().ended {
            // Its machine may not run, or its host not have booted yet: what counts is what it says.
            let _ = self.work_once();
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn work_once(&self) -> Result<()> {
        let (command, input) = match self.kind {
            Kind::Guest => guest::work(self),
            Kind::Tree => tree::work(self)?,
            Kind::Disk => disk::work(self)?,
        };
        self.listen(command, &input)
    }

    /// Starts a program and hears what it says until it ends, or is to end.
    fn listen(&self, mut program: Command, input: &str) -> Result<()> {
        program.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = program.stderr(Stdio::null()).spawn().context("start it")?;
        let (stdin, stdout) = (program.stdin.take(), program.stdout.take());
        let said = stdin
            .context("its input")
            .and_then(|mut to| Ok(to.write_all(input.as_bytes())?))
            .and_then(|()| {
                let lines = BufReader::new(stdout.context("its output")?).lines();
                for line in lines {
                    if !self.hear(&line?) {
                        break;
                    }
                }
                Ok(())
            });
        let _ = program.kill();
        program.wait().context("wait for it")?;
        said
    }

    /// Whether it is to go on.
    #[expect(clippy::print_stdout, reason = "what is wrong is seen at once")]
    fn hear(&self, line: &str) -> bool {
        let mut heard = self.heard();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["saved", name, sum] => {
                heard.saved.insert(name.to_owned(), sum.to_owned());
            }
            ["checked", count] => {
                heard.checked += count.parse::<u64>().unwrap_or(0);
                heard.passes += 1;
            }
            _ => {
                println!("          {}: {line}", self.name);
                heard.wrong.push(format!("{}: {line}", self.name));
            }
        }
        !heard.ended
    }

    /// Waits until it has made some passes more.
    pub(crate) fn wait_for_more(&self) -> Result<()> {
        let (begun, before) = (Instant::now(), self.heard().passes);
        while self.heard().passes < before + MORE {
            let waited = begun.elapsed() < LONGEST;
            ensure!(
                waited,
                "{} does not go on: {}",
                self.name,
                self.vms.run(&["ls"])?
            );
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Reads all that it acknowledged.
    pub(crate) fn check_all(&self) -> Result<()> {
        match self.kind {
            Kind::Guest => guest::check_all(self),
            // It has read all of it when it began, and only this has changed since.
            Kind::Tree | Kind::Disk => Ok(()),
        }
    }
}
