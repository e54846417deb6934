//! `make torture MINUTES= SEED=`: loads that check every byte they read and wrote, while the host's service, its keeper,
//! its registry, its link, its machines and the whole host are killed, stalled and replaced, its cache is flipped and cut,
//! and machines come and go.
//!
//! ```text
//! scene.rs    what stands: a registry behind a link, a host, its machines and mounts
//! loads/      what works and checks itself all the time: guests, readers of a mounted tree, a writer of a mounted disk
//! blows/      what is done to them, one thing at a time, and checked then and there
//! account.rs  what was done, and what came of it
//! ```
//! It ends with a table, and with failure if one byte was wrong, one acknowledged file lost, one command failed in a
//! way that it must not, or anything was left running, mounted or lying about. A seed repeats the order of blows, though
//! not their moments.
#![expect(clippy::print_stdout, reason = "this is a program")]

mod account;
mod blows;
mod commands;
mod loads;
mod scene;

use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Random, need_root, tool};

use crate::account::Account;
use crate::blows::{Blow, Known, Struck};
use crate::loads::Load;
use crate::scene::Scene;

/// Longest pause between two blows.
const BETWEEN: Duration = Duration::from_secs(5);

/// How often it is said how far it is.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What it is told when it has gone apart.
const APART: &str = "--apart";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        // Not for people: a load on the host, which it starts itself.
        [loads::WRITER, file] => loads::write_for_ever(file.as_ref()).map(|()| true),
        [APART, minutes] => run(minutes, None),
        [APART, minutes, seed] => run(minutes, Some(seed)),
        [_] | [_, _] => go_apart(&arguments),
        _ => Err(anyhow::anyhow!("usage: torture MINUTES [SEED]")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Goes on in a mount namespace of its own: what others start copies the mounts that there are, and a file system that is
/// to lose its power must not be in use by them.
fn go_apart(arguments: &[&str]) -> Result<bool> {
    need_root()?;
    let mut this = tool("unshare")?;
    this.args(["--mount", "--"]).arg(std::env::current_exe()?);
    // Returns only where it fails.
    Err(this.arg(APART).args(arguments).exec()).context("make a mount namespace")
}

/// Whether nothing was harmed.
fn run(minutes: &str, seed: Option<&str>) -> Result<bool> {
    let minutes: u64 = minutes.parse().context("MINUTES is a number")?;
    ensure!((1..=10_080).contains(&minutes), "a week at most");
    let random = match seed {
        Some(seed) => Random::seeded(seed.parse().context("SEED is a number")?),
        None => Random::printed("torture"),
    };
    let account = torture(Duration::from_secs(minutes * 60), random)?;
    println!("{account}");
    Ok(account.is_unharmed())
}

fn torture(time: Duration, mut random: Random) -> Result<Account> {
    let mut scene = Scene::new()?;
    let mut known = Known::new(&scene)?;
    let loads = Load::all(&scene);
    println!(
        "{} machines and {} loads stand; the blows begin",
        scene.names.len() + 1,
        loads.len()
    );
    let worked = scope(|scope| {
        for load in &loads {
            scope.spawn(|| load.work());
        }
        let mut work = || -> Result<()> {
            let struck = Struck {
                scene: &mut scene,
                known: &mut known,
                loads: &loads,
            };
            strike_for(time, struck, &mut random)?;
            scene.recover()?;
            loads.iter().try_for_each(Load::wait_for_more)
        };
        let worked = work();
        for load in &loads {
            load.end();
        }
        if worked.is_err() {
            // One that hangs would hold this up.
            scene.end_all();
        }
        worked
    });
    if let Err(error) = worked {
        // What came of it until then is worth knowing.
        let mut account = std::mem::take(&mut scene.account);
        loads.iter().for_each(|load| account.add(load));
        println!("{account}");
        return Err(error);
    }
    let checked = known.end(&mut scene);
    let mut account = std::mem::take(&mut scene.account);
    let checked = checked.and_then(|()| loads.iter().try_for_each(Load::check_all));
    loads.iter().for_each(|load| account.add(load));
    let ended = checked.and_then(|()| scene.take_down(&mut account));
    if let Err(error) = ended {
        account.left.push(format!("{error:#}"));
    }
    Ok(account)
}

fn strike_for(time: Duration, mut struck: Struck<'_>, random: &mut Random) -> Result<()> {
    let begun = Instant::now();
    let mut told = begun;
    while begun.elapsed() < time {
        sleep(Duration::from_millis(
            random.below(BETWEEN.as_millis() as u64),
        ));
        let blow = Blow::any(random);
        let at = begun.elapsed().as_secs();
        println!("{at:>6} s  {blow}");
        blow.strike(&mut struck, random)
            .with_context(|| format!("after {at} s: {blow}"))?;
        if told.elapsed() > TELL_EVERY {
            told = Instant::now();
            println!("          {}", struck.scene.account.brief(struck.loads));
        }
    }
    Ok(())
}
