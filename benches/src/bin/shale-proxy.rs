//! A link that is slower than the loopback, for the demo and for trying things by hand.
#![expect(clippy::print_stdout, reason = "this is a program")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use shale_benches::proxy::{Link, Proxy, probe};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How often the file of --stats is written.
const STATS_EVERY: Duration = Duration::from_millis(100);

/// Relay TCP connections over a link of a given rate and round trip, and count the bytes
///
/// Runs until SIGINT or SIGTERM, and prints what passed.
#[derive(Debug, Parser)]
struct Args {
    /// The link: rate in each direction and round trip
    #[arg(long, default_value = "1000mbit,5ms")]
    link: Link,
    /// Measure the link on this machine, print it, and end
    #[arg(long)]
    probe: bool,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", required_unless_present = "probe")]
    listen: Option<SocketAddr>,
    /// Where connections lead to
    #[arg(long, value_name = "ADDRESS", required_unless_present = "probe")]
    to: Option<SocketAddr>,
    /// File that shows what passed so far, as JSON
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let (Some(listen), Some(to), false) = (args.listen, args.to, args.probe) else {
        let measured = probe(args.link).await.context("measure the link")?;
        println!(
            "{}: measured {:.2} ms round trip, {:.0} Mbit/s",
            args.link,
            measured.round_trip.as_secs_f64() * 1e3,
            measured.bits_a_second / 1e6
        );
        return Ok(());
    };
    let proxy = Proxy::new(args.link, to).context("make the link")?;
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("listen on {listen}"))?;
    let mut terminate = signal(SignalKind::terminate()).context("watch signals")?;
    let mut ticks = tokio::time::interval(STATS_EVERY);
    let serving = proxy.clone().serve(listener);
    tokio::pin!(serving);
    loop {
        tokio::select! {
            failed = &mut serving => return failed.context("accept connections"),
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
            _ = ticks.tick() => keep(args.stats.as_deref(), &proxy)?,
        }
    }
    keep(args.stats.as_deref(), &proxy)?;
    println!("{}", serde_json::to_string(&proxy.traffic())?);
    Ok(())
}

/// Writes what passed, whole or not at all.
fn keep(path: Option<&Path>, proxy: &Proxy) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(&proxy.traffic())?)
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("write `{}`", path.display()))
}
