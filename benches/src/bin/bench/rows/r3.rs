//! R3: reads of a disk, as a file by FUSE and over NBD, from warm caches.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use harness::Input;

use crate::Settings;
use crate::disk_client::{DiskClient, ReadAt};
use crate::measure::{Contender, Sample, in_turns, print, seconds};
use crate::programs::{Running, Shale};
use crate::rows::boot::{
    export_base, push_base, serve_base, serve_file, serve_with_nbdkit, verdict,
};

/// Bytes of the disk that are read: most of the base's files lie there, after the journal.
const REGION: std::ops::Range<u64> = (80 << 20)..(336 << 20);
const RANDOM_READS: usize = 20_000;
const SMALL: u32 = 4096;
const LARGE: u32 = 1 << 20;

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let shale = Shale::new(directory.path())?;
    push_base(&shale, &base)?;
    export_base(&shale, &path("disk.raw"))?;
    let sockets = [path("shale.sock"), path("raw.sock"), path("nbdkit.sock")];
    let _ours = serve_base(&shale, &sockets[0], None)?;
    let _peer = serve_file(&path("disk.raw"), "raw", &sockets[1])?;
    let _nbdkit = serve_with_nbdkit(&path("disk.raw"), &sockets[2])?;
    let point = path("mnt");
    std::fs::create_dir(&point)?;
    let mut mount = shale.command();
    mount
        .args(["--quiet", "mount", "--foreground", "--disk", "bench/base"])
        .arg(&point);
    let disk = point.join("disk.raw");
    let _mount = Running::server(&mut mount, &disk)?;

    let mut random = fastrand::Rng::with_seed(3);
    let blocks = (REGION.start / u64::from(SMALL))..(REGION.end / u64::from(SMALL));
    let small: Vec<ReadAt> = (0..RANDOM_READS)
        .map(|_| (random.u64(blocks.clone()) * u64::from(SMALL), SMALL))
        .collect();
    let large: Vec<ReadAt> = REGION
        .step_by(LARGE as usize)
        .map(|at| (at, LARGE))
        .collect();
    for (name, trace) in [
        ("4 KiB, random", &small),
        ("1 MiB, one after the other", &large),
    ] {
        for depth in [1, 16] {
            let mut contenders = [
                Contender::new("shale mount --disk", || by_file(&disk, trace, depth)),
                Contender::new("shale nbd", || by_socket(&sockets[0], trace, depth)),
                Contender::new("qemu-nbd, raw file", || {
                    by_socket(&sockets[1], trace, depth)
                }),
                Contender::new("nbdkit file", || by_socket(&sockets[2], trace, depth)),
            ];
            // Fills the caches.
            for contender in &mut contenders {
                contender.warm_up()?;
            }
            in_turns(settings.runs, &mut contenders)?;
            println!("{name}, {depth} under way:");
            print("s", &contenders);
            let [file, nbd, qemu, nbdkit] = &contenders;
            for ours in [file, nbd] {
                let slower = ours.ratio_to(qemu).max(ours.ratio_to(nbdkit));
                let met = verdict(slower <= 1.0);
                println!(
                    "target: {} not slower than both: {met} ({slower:.2})",
                    ours.name()
                );
            }
        }
    }
    Ok(())
}

fn by_socket(socket: &Path, trace: &[ReadAt], depth: usize) -> Result<Sample> {
    let mut client = DiskClient::connect(socket)?;
    let bytes: u64 = trace.iter().map(|&(_, len)| u64::from(len)).sum();
    let value = seconds(|| {
        ensure!(client.replay(trace, depth)? == bytes, "bytes are missing");
        Ok(())
    })?;
    Ok(Sample::of(value))
}

/// As many threads as reads are to be under way, each with its share.
fn by_file(disk: &Path, trace: &[ReadAt], depth: usize) -> Result<Sample> {
    let file = File::open(disk)?;
    let value = seconds(|| {
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..depth)
                .map(|first| {
                    let share = trace.iter().skip(first).step_by(depth);
                    let file = &file;
                    scope.spawn(move || -> std::io::Result<()> {
                        let mut buffer = vec![0; LARGE as usize];
                        for &(at, len) in share {
                            file.read_exact_at(&mut buffer[..len as usize], at)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            for reader in readers {
                match reader.join() {
                    Ok(read) => read?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(())
        })
    })?;
    Ok(Sample::of(value))
}
