//! The rows of `docs/benchmarks.md`: each runs what Shale does and what its peers do for the same, in turns, and
//! prints a table. A file each in `rows/`.
#![expect(clippy::print_stdout, reason = "this is a program")]

mod disk_client;
mod host;
mod machine;
mod measure;
mod programs;
mod rows;
mod synthetic;
mod table;

use anyhow::{Context, Result};
use clap::Parser;
use shale_benches::proxy::Link;

use crate::rows::Row;

/// Measure one row of docs/benchmarks.md, next to its peers
///
/// Needs root, the built program `shale` beside this one, and the packages of `dev/packages test bench`.
#[derive(Debug, Parser)]
struct Args {
    /// Which
    #[arg(value_enum, ignore_case = true)]
    row: Row,
    /// How often each contender runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..1000))]
    runs: u32,
    /// The network of rows that have one: rate in each direction, and round trip [default: that of the row]
    #[arg(long)]
    link: Option<Link>,
}

/// What every row is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How often each contender runs.
    pub(crate) runs: u32,
    /// The network of rows that have one, if it is not to be theirs.
    pub(crate) link: Option<Link>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    machine::print()?;
    let settings = Settings {
        runs: args.runs,
        link: args.link,
    };
    args.row
        .run(settings)
        .with_context(|| format!("measure {:?}", args.row))?;
    machine::print_load()
}
