//! P4: the most memory that a push has resident, whatever it pushes, and a registry that many read from.

mod archives;
mod registry;

use std::io::{BufWriter, Write};
use std::process::{Command, Stdio};

use anyhow::Result;
use harness::Input;

use self::archives::{
    BLOCK, DISK_BYTES, FILES, ISLAND_BYTES, ISLANDS, LARGE_FILE_BYTES, large_file, random_content,
    small_files, sparse_disk,
};
use crate::Settings;
use crate::measure::{Contender, Sample, in_turns, print, print_alone, seconds};
use crate::programs::{Running, Shale, clear, peer};
use crate::rows::boot::verdict;

const TARGET_MB: f64 = 300.0;
/// Bytes of each file of the archive of small files.
const SMALL_FILE_BYTES: usize = 512;
/// What takes longer than this, in seconds, runs this often: memory hardly varies.
const LONG: f64 = 60.0;
const LONG_RUNS: u32 = 3;

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("out");
    println!(
        "inputs: base; an archive of {FILES} small files; an archive of one file of {} GiB; a directory with a sparse disk of {} GiB, of which {:.0} GiB are data",
        LARGE_FILE_BYTES >> 30,
        DISK_BYTES >> 30,
        (ISLAND_BYTES * ISLANDS.len() as u64) as f64 / f64::from(1 << 30)
    );
    let mut contenders = [
        Contender::new("shale push base.tar", || {
            clear(&out)?;
            let shale = Shale::new(&out)?;
            let mut command = shale.command();
            command
                .args(["--quiet", "push"])
                .arg(base.tar())
                .arg("bench/base");
            peak(&mut command).map(Sample::of)
        }),
        Contender::new("zstd -3 -T2 base.tar", || {
            clear(&out)?;
            let mut zstd = peer("zstd")?;
            zstd.args(["-q", "-3", "-T2"])
                .arg(base.tar())
                .arg("-o")
                .arg(&out);
            peak(&mut zstd).map(Sample::of)
        }),
        Contender::new("mksquashfs base/, zstd 3", || {
            clear(&out)?;
            let mut squash = peer("mksquashfs")?;
            squash.arg(base.tree()).arg(&out);
            squash.args([
                "-comp",
                "zstd",
                "-Xcompression-level",
                "3",
                "-no-progress",
                "-quiet",
            ]);
            peak(&mut squash).map(Sample::of)
        }),
    ];
    in_turns(settings.runs, &mut contenders)?;
    print("MB resident", &contenders);

    let disk = directory.path().join("disk");
    std::fs::create_dir(&disk)?;
    sparse_disk(&disk.join("disk.raw"))?;
    let archive = |archive: &Archive<'_>| -> Result<Sample> {
        clear(&out)?;
        push_archive(&Shale::new(&out)?, "bench/large", archive).map(Sample::of)
    };
    let mut large = [
        Contender::new("shale push, small files", || archive(&small_tree)),
        Contender::new("shale push, a large file", || archive(&large_file)),
        Contender::new("shale push, a sparse disk", || {
            clear(&out)?;
            let mut command = Shale::new(&out)?.command();
            command.args(["--quiet", "push"]).arg(&disk);
            peak(command.arg("bench/disk")).map(Sample::of)
        }),
    ];
    for contender in &mut large {
        let contender = std::slice::from_mut(contender);
        let took = seconds(|| in_turns(1, contender))?;
        let runs = match took > LONG {
            true => settings.runs.min(LONG_RUNS),
            false => settings.runs,
        };
        in_turns(runs - 1, contender)?;
    }
    clear(&out)?;
    clear(&disk)?;
    print_alone("MB resident", &large);
    let most = contenders[..1]
        .iter()
        .chain(&large)
        .map(Contender::most)
        .fold(0.0, f64::max);
    println!(
        "target: at most {TARGET_MB} MB whatever the input ({most:.1} at most): {}",
        verdict(most <= TARGET_MB)
    );
    registry::measure(directory.path())
}

/// A million small files, which do not compress.
pub(crate) fn small_tree(out: &mut dyn Write) -> Result<()> {
    small_files(out, 0..FILES, random_content, SMALL_FILE_BYTES)
}

/// Writes an archive, without its end.
pub(crate) type Archive<'a> = dyn Fn(&mut dyn Write) -> Result<()> + Sync + 'a;

/// The most MB that a push of `archive`, which is written meanwhile, has resident.
pub(crate) fn push_archive(shale: &Shale, name: &str, archive: &Archive<'_>) -> Result<f64> {
    let mut command = shale.command();
    command
        .args(["--quiet", "push", "-", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut push = Running::start(&mut command)?;
    let mut stdin = BufWriter::with_capacity(1 << 20, push.stdin()?);
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            archive(&mut stdin)?;
            stdin.write_all(&[0; 2 * BLOCK])?;
            Ok::<_, anyhow::Error>(stdin.flush()?)
        });
        let peak = push.peak_memory();
        if let Ok(written) = writing.join() {
            written?;
        }
        Ok(peak? as f64 / 1e6)
    })
}

/// The most MB that a program has resident.
fn peak(command: &mut Command) -> Result<f64> {
    let running = Running::start(command.stdout(Stdio::null()))?;
    Ok(running.peak_memory()? as f64 / 1e6)
}
