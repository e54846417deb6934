//! What the figures were measured on.

use std::fs;

use anyhow::{Context, Result};

/// Prints processors, memory, kernel and load.
pub(crate) fn print() -> Result<()> {
    let cpu = read("/proc/cpuinfo")?;
    let model = field(&cpu, "model name").unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism()?;
    let memory = read("/proc/meminfo")?;
    let kib: u64 = field(&memory, "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease")?;
    println!(
        "machine: {cores} cores of {model}, {:.0} GiB, Linux {}",
        kib as f64 / f64::from(1 << 20),
        kernel.trim()
    );
    print_load()
}

/// Prints how busy the machine is, which says how far figures can be trusted.
pub(crate) fn print_load() -> Result<()> {
    let load = read("/proc/loadavg")?;
    let minute = load.split(' ').next().unwrap_or_default();
    println!("load, last minute: {minute}");
    Ok(())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}
