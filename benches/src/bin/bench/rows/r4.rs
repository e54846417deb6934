//! R4: from the command to an export or a mount, when the host has the plan and all that it needs of the content.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::Input;

use crate::Settings;
use crate::measure::{Contender, Sample, in_turns, median, print_alone};
use crate::programs::{Running, Shale, clear};
use crate::rows::boot::{push_base, verdict};
use crate::rows::p4::{push_archive, small_tree};

/// Seconds at the entries of a base, and at a million.
const TARGETS: [f64; 2] = [0.020, 0.150];

/// How often it is looked whether it is there: far less than what is measured.
const POLL: Duration = Duration::from_micros(200);

/// How long the first of each may take, which composes the template.
const THERE_WITHIN: Duration = Duration::from_secs(120);

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    // A repository for each: what opening it takes is a part of this.
    let [few, many] = [Shale::new(&path("few"))?, Shale::new(&path("many"))?];
    push_base(&few, &base)?;
    push_archive(&many, "bench/million", &small_tree)?;
    std::fs::create_dir(path("mnt"))?;
    let mut contenders = [
        Contender::new(
            "shale nbd, the base",
            export(&few, path("nbd.sock"), "bench/base"),
        ),
        Contender::new(
            "shale mount, the base",
            mount(&few, path("mnt"), ("bench/base", "etc")),
        ),
        Contender::new(
            "shale nbd, a million files",
            export(&many, path("nbd.sock"), "bench/million"),
        ),
        Contender::new(
            "shale mount, a million files",
            mount(&many, path("mnt"), ("bench/million", "d00000")),
        ),
    ];
    // The first composes.
    for contender in &mut contenders {
        contender.warm_up()?;
    }
    in_turns(settings.runs, &mut contenders)?;
    print_alone("s", &contenders);
    for (target, both) in TARGETS.iter().zip(contenders.chunks(2)) {
        for contender in both {
            let seconds = median(&contender.values());
            println!(
                "target: {} within {target} s ({seconds:.3} s): {}",
                contender.name(),
                verdict(seconds <= *target)
            );
        }
    }
    Ok(())
}

fn export<'a>(
    shale: &'a Shale,
    socket: PathBuf,
    reference: &'static str,
) -> impl Fn() -> Result<Sample> + 'a {
    move || {
        clear(&socket)?;
        let mut command = shale.command();
        command.args(["--quiet", "nbd", reference, "--socket"]);
        there(command.arg(&socket), &socket)
    }
}

/// `name` is in the root of the template.
fn mount<'a>(
    shale: &'a Shale,
    point: PathBuf,
    (reference, name): (&'static str, &'static str),
) -> impl Fn() -> Result<Sample> + 'a {
    move || {
        let mut command = shale.command();
        command
            .args(["--quiet", "mount", "--foreground", reference])
            .arg(&point);
        there(&mut command, &point.join(name))
    }
}

/// Seconds from the start of a server until `path` is there.
fn there(command: &mut Command, path: &Path) -> Result<Sample> {
    ensure!(!path.exists(), "`{}` is there already", path.display());
    let begun = Instant::now();
    let server = Running::start(command)?;
    while !path.exists() {
        ensure!(
            begun.elapsed() < THERE_WITHIN,
            "{command:?} does not come up"
        );
        std::thread::sleep(POLL);
    }
    let seconds = begun.elapsed().as_secs_f64();
    drop(server);
    // A mount goes with its server, a moment later.
    while path.exists() && path.extension().is_none() {
        ensure!(begun.elapsed() < THERE_WITHIN, "{command:?} does not end");
        std::thread::sleep(POLL);
    }
    Ok(Sample::of(seconds))
}
