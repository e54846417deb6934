//! `shale vm logs`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::inspect_one;
use crate::context::Context;

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Print what a virtual machine printed on its serial console
///
/// Examples:
///   shale vm logs web
///   shale vm logs web --follow
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Logs {
    /// The machine
    name: String,
    /// Go on with what it prints, until interrupted
    #[arg(long, short)]
    follow: bool,
}

impl Logs {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let log = inspect_one(context, &self.name)?.console.log;
        let mut older = log.as_os_str().to_owned();
        older.push(".1");
        for path in [Path::new(&older), &log] {
            match File::open(path) {
                Ok(mut file) => copy(&mut file, path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            };
        }
        if self.follow {
            follow(&log)?;
        }
        Ok(())
    }
}

fn follow(log: &Path) -> anyhow::Result<()> {
    let mut file = File::open(log).with_context(|| log.display().to_string())?;
    let mut at = file.seek(SeekFrom::End(0))?;
    loop {
        // It is begun anew when it has grown too long.
        if file.metadata()?.len() < at {
            at = file.seek(SeekFrom::Start(0))?;
        }
        at += copy(&mut file, log)?;
        sleep(POLL);
    }
}

fn copy(file: &mut impl Read, path: &Path) -> anyhow::Result<u64> {
    let mut out = io::stdout().lock();
    let copied = io::copy(file, &mut out).and_then(|copied| out.flush().map(|()| copied));
    copied.with_context(|| format!("copy `{}`", path.display()))
}
