//! `make torture MINUTES=`: guests that check every byte they read and wrote, while the host's service, its registry
//! and the machines are killed, its cache is flipped and cut, its link and disk fail, and machines come and go.
//!
//! It ends with a table, and with failure if one byte was wrong, one acknowledged file lost, one command failed in a
//! way that it must not, or anything was left running. `SHALE_SEED` repeats the order of blows, though not their
//! moments.
#![expect(clippy::print_stdout, reason = "this is a program")]

mod blows;
mod guest;
mod scene;
mod tally;

use std::process::ExitCode;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Random, need_root};

use crate::blows::Blow;
use crate::guest::Guest;
use crate::scene::Scene;
use crate::tally::Tally;

/// Machines whose guests check their bytes. Without acceleration each takes a processor.
const GUESTS: [&str; 2] = ["t0", "t1"];

/// Longest pause between two blows.
const BETWEEN: Duration = Duration::from_secs(6);

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was harmed.
fn run() -> Result<bool> {
    let minutes = std::env::args().nth(1);
    let minutes: u64 = minutes
        .context("usage: torture MINUTES")?
        .parse()
        .context("MINUTES is a number")?;
    ensure!((1..=10_080).contains(&minutes), "a week at most");
    need_root()?;
    let tally = torture(Duration::from_secs(minutes * 60))?;
    println!("{tally}");
    Ok(tally.is_unharmed())
}

fn torture(time: Duration) -> Result<Tally> {
    let mut random = Random::printed("torture");
    let mut scene = Scene::new(&GUESTS)?;
    println!("{} machines stand; the blows begin", GUESTS.len());
    let guests: Vec<Guest> = GUESTS.iter().map(|name| Guest::new(name)).collect();
    let mut tally = Tally::default();
    let begun = Instant::now();
    let worked = scope(|scope| {
        for guest in &guests {
            let vms = scene.vms.clone();
            let sums = scene.sums.clone();
            scope.spawn(move || guest.work(&vms, &sums));
        }
        let mut rain = || -> Result<()> {
            while begun.elapsed() < time {
                let pause = random.below(BETWEEN.as_millis() as u64);
                sleep(Duration::from_millis(pause));
                let blow = Blow::any(&mut random);
                let at = begun.elapsed().as_secs();
                println!("{at:>6} s  {blow}");
                blow.strike(&mut scene, &mut random, &mut tally)
                    .with_context(|| format!("after {at} s: {blow}"))?;
            }
            scene.recover()?;
            guests
                .iter()
                .try_for_each(|guest| guest.wait_for_more(&scene.vms))
        };
        let worked = rain();
        for guest in &guests {
            guest.end();
        }
        if worked.is_err() {
            // A login that hangs would hold this up.
            scene.end_machines();
        }
        worked
    });
    worked?;
    for guest in &guests {
        guest.check_all(&scene.vms)?;
        tally.add(guest);
    }
    tally.left = scene.take_down()?;
    Ok(tally)
}
