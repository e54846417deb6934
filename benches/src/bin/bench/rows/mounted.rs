//! R1 and R2: the base's tree, mounted by `shale mount`, by nydusd, and by the kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use harness::{Input, LoopMount, run};

use crate::Settings;
use crate::measure::{Contender, Sample, in_turns, print, seconds};
use crate::programs::{Running, Shale, peer};
use crate::rows::boot::{export_base, push_base, verdict};
use crate::rows::nydus::NydusImage;

/// The same tree four times.
struct Trees {
    directory: tempfile::TempDir,
    shale: Shale,
    base: Input,
    nydus: NydusImage,
    erofs: LoopMount,
    ext4: LoopMount,
}

impl Trees {
    fn new() -> Result<Self> {
        let base = Input::base()?;
        let directory = tempfile::tempdir()?;
        let path = |name: &str| directory.path().join(name);
        let shale = Shale::new(directory.path())?;
        push_base(&shale, &base)?;
        export_base(&shale, &path("disk.raw"))?;
        run(peer("mkfs.erofs")?.arg(path("base.erofs")).arg(base.tree()))?;
        let erofs = LoopMount::new(&path("base.erofs"), "ro")?;
        let ext4 = LoopMount::new(&path("disk.raw"), "ro")?;
        std::fs::create_dir(path("mnt"))?;
        let nydus = NydusImage::new(&path("nydus"), &base.tree())?;
        Ok(Self {
            directory,
            shale,
            base,
            nydus,
            erofs,
            ext4,
        })
    }

    fn point(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// Mounts with the cache as it is.
    fn serve(&self) -> Result<Running> {
        let mut command = self.shale.command();
        command
            .args(["--quiet", "mount", "--foreground", "bench/base"])
            .arg(self.point());
        // What the tree holds is there once it is mounted.
        Running::server(&mut command, &self.point().join("etc"))
    }

    /// All of them, which are mounted, each measured by `sample`.
    fn contenders<'a>(&'a self, sample: &'a dyn Fn(&Path) -> Result<Sample>) -> [Contender<'a>; 4] {
        [
            Contender::new("shale mount", || sample(&self.point())),
            Contender::new("nydusd", || sample(&self.nydus.point())),
            Contender::new("kernel EROFS on a loop device", || {
                sample(&self.erofs.path())
            }),
            Contender::new("kernel ext4 on a loop device", || sample(&self.ext4.path())),
        ]
    }
}

/// Reads all files, as `tar` does.
fn read_all(tree: &Path) -> Result<()> {
    // To a pipe, as tar does not read what goes to /dev/null.
    let script = "tar --one-file-system -C \"$1\" -cf - . | wc -c";
    run(Command::new("sh").args(["-c", script, "sh"]).arg(tree)).map(drop)
}

/// Looks at all files.
fn look_at_all(tree: &Path) -> Result<()> {
    let script = "find \"$1\" -xdev -ls | wc -l";
    run(Command::new("sh").args(["-c", script, "sh"]).arg(tree)).map(drop)
}

/// What the kernel kept of all file systems goes.
fn drop_caches() -> Result<()> {
    run(&mut Command::new("sync"))?;
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "3")?)
}

fn timed(tree: &Path, work: fn(&Path) -> Result<()>) -> Result<Sample> {
    Ok(Sample::of(seconds(|| work(tree))?))
}

/// The same, once the kernel's caches were dropped, or else after it was done once.
fn timed_after(drops: bool, tree: &Path, work: fn(&Path) -> Result<()>) -> Result<Sample> {
    match drops {
        true => drop_caches()?,
        false => work(tree)?,
    }
    timed(tree, work)
}

/// Whether the first is faster than the second.
fn faster(contenders: &[Contender<'_>]) -> &'static str {
    verdict(contenders[0].ratio_to(&contenders[1]) < 1.0)
}

/// R1: all files read, for the first time, with the kernel's caches dropped, and hot.
pub(crate) fn read(settings: Settings) -> Result<()> {
    let trees = Trees::new()?;
    println!("input: {}", trees.base.tree().display());
    let first = || -> Result<Sample> {
        if trees.shale.cache().exists() {
            std::fs::remove_dir_all(trees.shale.cache())?;
        }
        let _served = trees.serve()?;
        drop_caches()?;
        timed(&trees.point(), read_all)
    };
    let nydus_first = || -> Result<Sample> {
        trees.nydus.clear_cache()?;
        let _served = trees.nydus.serve()?;
        drop_caches()?;
        timed(&trees.nydus.point(), read_all)
    };
    let mut cold = [
        Contender::new("shale mount, empty cache, local repository", first),
        Contender::new("nydusd, empty cache, local blob", nydus_first),
    ];
    in_turns(settings.runs, &mut cold)?;
    println!("first:");
    print("s", &cold);
    println!("target: faster than nydusd: {}", faster(&cold));
    drop(cold);

    let _served = (trees.serve()?, trees.nydus.serve()?);
    for (name, drops) in [("caches dropped", true), ("hot", false)] {
        let sample = |tree: &Path| timed_after(drops, tree, read_all);
        let mut contenders = trees.contenders(&sample);
        in_turns(settings.runs, &mut contenders)?;
        println!("{name}:");
        print("s", &contenders);
        println!("target: faster than nydusd: {}", faster(&contenders));
        if !drops {
            let ratio = contenders[0].ratio_to(&contenders[2]);
            println!("target: within 1.25 x EROFS: {}", verdict(ratio <= 1.25));
        }
    }
    Ok(())
}

/// R2: all attributes, with the kernel's caches dropped, so that each comes from a daemon, and hot.
pub(crate) fn look(settings: Settings) -> Result<()> {
    let trees = Trees::new()?;
    println!("input: {}", trees.base.tree().display());
    let _served = (trees.serve()?, trees.nydus.serve()?);
    for (name, drops) in [("caches dropped", true), ("hot", false)] {
        let sample = |tree: &Path| timed_after(drops, tree, look_at_all);
        let mut contenders = trees.contenders(&sample);
        in_turns(settings.runs, &mut contenders)?;
        println!("{name}:");
        print("s", &contenders);
        let ratio = contenders[0].ratio_to(&contenders[1]);
        println!("target: half of nydusd's time: {}", verdict(ratio <= 0.5));
        if !drops {
            let ratio = contenders[0].ratio_to(&contenders[2]);
            println!(
                "target: the kernel's speed (1.25 x EROFS, as for R1): {}",
                verdict(ratio <= 1.25)
            );
        }
    }
    Ok(())
}
