//! B5: the reads of a boot, sent without a pause between them, from a warm cache.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use harness::Input;

use crate::Settings;
use crate::disk_client::{DiskClient, ReadAt};
use crate::measure::{Contender, Sample, in_turns, print, seconds};
use crate::programs::{Running, Shale, peer};
use crate::rows::boot::{
    boot, export_base, nbd_disk, push_base, serve_base, serve_file, serve_with_nbdkit, verdict,
};

/// How often the trace is replayed in one sample: a boot's reads alone take too short a time.
const REPEATED: usize = 20;

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let shale = Shale::new(directory.path())?;
    push_base(&shale, &base)?;
    export_base(&shale, &path("disk.raw"))?;
    let trace = record(&base, &path("disk.raw"), directory.path())?;
    // The guest wrote to it.
    std::fs::remove_file(path("disk.raw"))?;
    export_base(&shale, &path("disk.raw"))?;
    let bytes: u64 = trace.iter().map(|&(_, len)| u64::from(len)).sum();
    println!(
        "input: a boot's {} reads of {:.1} MB, {REPEATED} times",
        trace.len(),
        bytes as f64 / 1e6
    );

    let sockets = [path("shale.sock"), path("raw.sock"), path("nbdkit.sock")];
    let _ours = serve_base(&shale, &sockets[0], None)?;
    let _peer = serve_file(&path("disk.raw"), "raw", &sockets[1])?;
    let _nbdkit = serve_with_nbdkit(&path("disk.raw"), &sockets[2])?;
    let replay = |socket: &Path, depth: usize| {
        let mut client = DiskClient::connect(socket)?;
        let value = seconds(|| {
            for _ in 0..REPEATED {
                ensure!(
                    client.replay(&trace, depth)? == bytes,
                    "a server left out bytes"
                );
            }
            Ok(())
        })?;
        Ok(Sample::of(value))
    };
    for socket in &sockets {
        // Fills the cache, and the page cache.
        replay(socket, 1)?;
    }
    for depth in [1, 16] {
        let mut contenders = [
            Contender::new("shale nbd", || replay(&sockets[0], depth)),
            Contender::new("qemu-nbd, raw file", || replay(&sockets[1], depth)),
            Contender::new("nbdkit file", || replay(&sockets[2], depth)),
        ];
        in_turns(settings.runs, &mut contenders)?;
        println!("{depth} reads under way:");
        print("s", &contenders);
        let ratio = contenders[0].ratio_to(&contenders[1]);
        println!(
            "target: not slower than qemu-nbd: {}",
            verdict(ratio <= 1.0)
        );
    }
    Ok(())
}

/// The reads of a boot from `disk`, as nbdkit's log has them.
fn record(base: &Input, disk: &Path, directory: &Path) -> Result<Vec<ReadAt>> {
    let (socket, log) = (directory.join("record.sock"), directory.join("record.log"));
    let mut nbdkit = peer("nbdkit")?;
    nbdkit
        .args(["--foreground", "--filter=log", "-U"])
        .arg(&socket)
        .arg("file")
        .arg(disk)
        .arg(format!("logfile={}", log.display()))
        .stderr(Stdio::null());
    let server = Running::server(&mut nbdkit, &socket)?;
    let (vm, _) = boot(base, nbd_disk(&socket))?;
    vm.kill()?;
    drop(server);
    let text = std::fs::read_to_string(&log).context("read nbdkit's log")?;
    let trace: Vec<ReadAt> = text.lines().filter_map(read_in).collect();
    ensure!(!trace.is_empty(), "nbdkit logged no read");
    Ok(trace)
}

/// The read that a line such as `… Read id=5 offset=0x2000 count=0x1000 …` tells of.
fn read_in(line: &str) -> Option<ReadAt> {
    let (_, read) = line.split_once(" Read ")?;
    let field = |name: &str| {
        let text = read.split(' ').find_map(|word| word.strip_prefix(name))?;
        u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
    };
    Some((field("offset=")?, u32::try_from(field("count=")?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_found_in_a_line_of_the_log() {
        let begin =
            "2026-01-01 00:00:00.000000 connection=1 Read id=5 offset=0x2000 count=0x1000 ...";
        assert_eq!(read_in(begin), Some((0x2000, 0x1000)));
        assert_eq!(
            read_in("2026-01-01 00:00:00.000000 connection=1 ...Read id=5 return=0"),
            None
        );
        assert_eq!(
            read_in("connection=1 Write id=5 offset=0x2000 count=0x1000 ..."),
            None
        );
    }
}
