//! B4: sixteen deployments at once on a host that has nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::Settings;
use crate::measure::median;
use crate::rows::boot::verdict;
use crate::rows::network::{FAST, Network};

/// Deployments at once.
const MACHINES: usize = 16;

/// Seconds from the first export to the last.
const TARGET: f64 = 1.0;

/// Bytes that sixteen may bring, in those of one: requests for names are each one's own.
const TARGET_BYTES: f64 = 1.02;

/// How long it may take until all are there.
const READY_WITHIN: Duration = Duration::from_secs(120);

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let network = Network::new(settings.link.unwrap_or(FAST))?;
    let (mut spreads, mut firsts, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..settings.runs {
        let one = network.deploy_at_once(1, Ready::wait)?;
        let all = network.deploy_at_once(MACHINES, Ready::wait)?;
        let (first, last) = (all.ready.first, all.ready.last);
        println!(
            "first export after {first:.2} s, last after {last:.2} s (one alone: {:.2} s); {:.1} MB, one alone {:.1} MB",
            one.ready.first,
            all.bytes as f64 / 1e6,
            one.bytes as f64 / 1e6
        );
        spreads.push(last - first);
        firsts.push(first);
        shares.push(all.bytes as f64 / one.bytes as f64);
    }
    let (spread, share) = (median(&spreads), median(&shares));
    println!(
        "target: all exports within {TARGET} s of the first ({spread:.2} s): {}",
        verdict(spread <= TARGET)
    );
    println!(
        "target: bytes moved as for one ({share:.3} x): {}",
        verdict(share <= TARGET_BYTES)
    );
    Ok(())
}

/// When the exports of machines were there, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    first: f64,
    last: f64,
}

impl Ready {
    /// Waits until all of these sockets are there.
    fn wait(begun: Instant, sockets: &[PathBuf]) -> Result<Self> {
        let mut first = None;
        loop {
            let there = sockets.iter().filter(|socket| Path::exists(socket)).count();
            let seconds = begun.elapsed().as_secs_f64();
            if there > 0 {
                first.get_or_insert(seconds);
            }
            if let (Some(first), true) = (first, there == sockets.len()) {
                let last = seconds;
                return Ok(Self { first, last });
            }
            ensure!(
                begun.elapsed() < READY_WITHIN,
                "{there} exports of {} are there",
                sockets.len()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
