//! P1: pushing the base into an empty repository, and what others need to pack the same.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use harness::{Input, run};

use crate::Settings;
use crate::measure::{Contender, Sample, children_cpu, in_turns, print, seconds};
use crate::programs::{Shale, clear, peer, size_of};
use crate::rows::boot::verdict;

const TIME_TARGET: f64 = 1.5;
const SIZE_TARGET: f64 = 1.1;

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let base = Input::base()?;
    let (tree, tar) = (base.tree(), base.tar());
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("out");
    // Into the page cache, for all of them.
    std::io::copy(&mut std::fs::File::open(&tar)?, &mut std::io::sink())?;
    println!("input: base, {:.1} MB as tar", size_of(&tar)? as f64 / 1e6);

    let (out, tree, tar) = (out.as_path(), tree.as_path(), tar.as_path());
    let push = |source: &Path| {
        let shale = Shale::new(out)?;
        let mut command = shale.command();
        command.arg("push").arg(source).arg("bench/base");
        packed(out, &mut [&mut command], &shale.repository())
    };
    let mut contenders = [
        Contender::new("shale push base.tar", || push(tar)),
        Contender::new("zstd -3 -T2 base.tar", || {
            let archive = out.join("tar.zst");
            let mut zstd = peer("zstd")?;
            zstd.args(["-q", "-3", "-T2"])
                .arg(tar)
                .arg("-o")
                .arg(&archive);
            packed(out, &mut [&mut zstd], &archive)
        }),
        Contender::new("zstd -3 -T2 base.tar; sync", || {
            let archive = out.join("tar.zst");
            let mut zstd = peer("zstd")?;
            zstd.args(["-q", "-3", "-T2"])
                .arg(tar)
                .arg("-o")
                .arg(&archive);
            packed(
                out,
                &mut [&mut zstd, Command::new("sync").arg("-d").arg(&archive)],
                &archive,
            )
        }),
        Contender::new("shale push base/", || push(tree)),
        Contender::new("mksquashfs base/, zstd 3", || {
            let image = out.join("squashfs");
            let mut squash = peer("mksquashfs")?;
            squash.arg(tree).arg(&image);
            squash.args([
                "-comp",
                "zstd",
                "-Xcompression-level",
                "3",
                "-no-progress",
                "-quiet",
            ]);
            packed(out, &mut [&mut squash], &image)
        }),
        // sqfstar, which is beside mksquashfs, takes no level for zstd.
        Contender::new("tar2sqfs base.tar, zstd 3", || {
            let image = out.join("squashfs");
            let mut squash = peer("tar2sqfs")?;
            squash
                .args(["-q", "-c", "zstd", "-X", "level=3"])
                .arg(&image);
            clear(out)?;
            std::fs::create_dir_all(out)?;
            timed_from(std::fs::File::open(tar)?.into(), &mut [&mut squash], &image)
        }),
        Contender::new("mkfs.erofs base/, lz4hc", || {
            let image = out.join("erofs");
            let mut erofs = peer("mkfs.erofs")?;
            erofs.arg("-zlz4hc").arg(&image).arg(tree);
            packed(out, &mut [&mut erofs], &image)
        }),
        Contender::new("casync make base/, zstd", || {
            let store = out.join("store");
            let mut casync = peer("casync")?;
            casync.args(["make", "--compression=zstd"]);
            casync.arg(format!("--store={}", store.display()));
            casync.arg(out.join("base.caidx")).arg(tree);
            packed(out, &mut [&mut casync], &store)
        }),
        Contender::new("borg create base/, zstd 3", || {
            let archive = out.join("borg");
            clear(out)?;
            std::fs::create_dir_all(out)?;
            let borg = || -> Result<Command> {
                let mut borg = peer("borg")?;
                borg.env("BORG_BASE_DIR", out);
                Ok(borg)
            };
            run(borg()?.args(["init", "-e", "none"]).arg(&archive))?;
            let mut borg = borg()?;
            borg.args(["create", "-C", "zstd,3"])
                .arg(format!("{}::base", archive.display()))
                .arg(tree);
            timed(&mut [&mut borg], &archive)
        }),
        Contender::new("restic backup base/", || {
            let archive = out.join("restic");
            clear(out)?;
            std::fs::create_dir_all(out)?;
            let restic = || -> Result<Command> {
                let mut restic = peer("restic")?;
                restic
                    .env("RESTIC_PASSWORD", "bench")
                    .env("RESTIC_REPOSITORY", &archive);
                restic
                    .env("RESTIC_CACHE_DIR", out.join("cache"))
                    .arg("--quiet");
                Ok(restic)
            };
            run(restic()?.args(["init", "--repository-version", "2"]))?;
            timed(&mut [restic()?.arg("backup").arg(tree)], &archive)
        }),
    ];
    in_turns(settings.runs, &mut contenders)?;
    clear(out)?;
    print("s", &contenders);
    let time = contenders[0].ratio_to(&contenders[1]);
    let size = contenders[0].size_ratio_to(&contenders[1]);
    println!(
        "target: at most {TIME_TARGET} x the time of zstd: {}",
        verdict(time <= TIME_TARGET)
    );
    println!(
        "target: at most {SIZE_TARGET} x the size of zstd: {}",
        verdict(size <= SIZE_TARGET)
    );
    for (ours, squash) in [(0, 4), (3, 4)] {
        let (ours, squash) = (&contenders[ours], &contenders[squash]);
        let faster = verdict(ours.ratio_to(squash) < 1.0);
        println!(
            "target: {} faster than {}: {faster}",
            ours.name(),
            squash.name()
        );
    }
    let chunking = &contenders[7..];
    let beaten = |peer: &Contender<'_>| {
        contenders[0].ratio_to(peer) < 1.0 && contenders[0].size_ratio_to(peer) < 1.0
    };
    println!(
        "target: faster and smaller than casync, borg and restic: {}",
        verdict(chunking.iter().all(beaten))
    );
    Ok(())
}

/// Empties `out`, then measures.
fn packed(out: &Path, commands: &mut [&mut Command], result: &Path) -> Result<Sample> {
    clear(out)?;
    std::fs::create_dir_all(out)?;
    timed(commands, result)
}

/// The time from the start of the first to the end of the last command, and the size of what they made.
fn timed(commands: &mut [&mut Command], result: &Path) -> Result<Sample> {
    timed_from(Stdio::null(), commands, result)
}

/// As [`timed`], of commands whose first reads `input`.
fn timed_from(input: Stdio, commands: &mut [&mut Command], result: &Path) -> Result<Sample> {
    let mut input = Some(input);
    let cpu = children_cpu()?;
    let value = seconds(|| {
        for command in commands {
            run(command.stdin(input.take().unwrap_or_else(Stdio::null)))?;
        }
        Ok(())
    })?;
    Ok(Sample {
        value,
        bytes: Some(size_of(result)?),
        cpu: Some(children_cpu()? - cpu),
    })
}
