//! A repository, plans, a cache and an overlay in which bytes changed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::{Background, Random, Shale, run};
use rustix::fs::{SeekFrom, seek};

use super::{Ended, ended, limited, limited_command};

/// A name, and what happens to a file's bytes.
type Damage = (&'static str, fn(&mut Vec<u8>));

/// Ways in which a file can be wrong.
const DAMAGES: [Damage; 6] = [
    ("a bit of the first byte", |bytes| flip(bytes, |_| 0)),
    ("a bit in the middle", |bytes| flip(bytes, |len| len / 2)),
    ("a bit of the last byte", |bytes| flip(bytes, |len| len - 1)),
    ("cut in the middle", |bytes| bytes.truncate(bytes.len() / 2)),
    ("empty", Vec::clear),
    ("zeros", |bytes| bytes.fill(0)),
];

/// Flips a bit of the byte that is chosen by the length, which is not zero.
fn flip(bytes: &mut [u8], at: impl Fn(usize) -> usize) {
    let at = at(bytes.len());
    bytes[at] ^= 0x10;
}

/// A base and an application on it, pushed; `disk.raw` is the application's disk.
fn pushed() -> Result<Shale> {
    let shale = Shale::new()?;
    let tree = tempfile::tempdir()?;
    let mut random = Random::printed("damage");
    fs::create_dir(tree.path().join("d"))?;
    fs::write(tree.path().join("d/random"), random.bytes(300_000))?;
    fs::write(tree.path().join("text"), "again and again. ".repeat(5000))?;
    run(shale
        .command()
        .arg("push")
        .arg(tree.path())
        .arg("test/base"))?;
    fs::write(tree.path().join("d/more"), random.bytes(50_000))?;
    let mut push = shale.command();
    run(push
        .args(["push", "--base", "test/base"])
        .arg(tree.path())
        .arg("test/app"))?;
    run(shale.command().args(["export", "test/app", "disk.raw"]))?;
    Ok(shale)
}

/// Exports once more and compares: the same disk, or an error and no disk.
fn export(shale: &Shale) -> Result<Ended> {
    let ended = limited(shale, &["export", "test/app", "again.raw"], b"")?;
    let again = shale.home().join("again.raw");
    match ended.code {
        0 => {
            let same = data(&again)? == data(&shale.home().join("disk.raw"))?;
            ensure!(same, "other bytes");
            fs::remove_file(again)?;
        }
        _ => ensure!(!again.exists(), "an export that failed left a disk"),
    }
    Ok(ended)
}

/// The blocks of a disk that are not zeros, with their places: of 2 GiB some hundred KiB.
fn data(disk: &Path) -> Result<Vec<(u64, Vec<u8>)>> {
    let file = fs::File::open(disk)?;
    let end = file.metadata()?.len();
    let mut blocks = Vec::new();
    let mut at = 0;
    // There is an error after the last data, which is where this ends.
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(start))?;
        for offset in (start..at).step_by(4096) {
            let mut block = vec![0; (end - offset).min(4096) as usize];
            file.read_exact_at(&mut block, offset)?;
            if block.iter().any(|byte| *byte != 0) {
                blocks.push((offset, block));
            }
        }
    }
    Ok(blocks)
}

/// Every file below a directory, or the file itself.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    if directory.is_file() {
        return Ok(vec![directory.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => files.extend(self::files(&entry.path())?),
            false => files.push(entry.path()),
        }
    }
    files.sort();
    Ok(files)
}

/// Damages each file of `kind` in each way, with `before` done first, and gives the exit codes that came of it.
fn damage_each(shale: &Shale, kind: &str, before: impl Fn() -> Result<()>) -> Result<Vec<i32>> {
    let mut codes = Vec::new();
    for path in files(&shale.home().join(kind))? {
        let right = fs::read(&path)?;
        if right.is_empty() {
            continue;
        }
        for (how, damage) in DAMAGES {
            before()?;
            let mut wrong = right.clone();
            damage(&mut wrong);
            replace(&path, &wrong)?;
            let ended = export(shale).with_context(|| format!("{}: {how}", path.display()))?;
            ensure!(
                [0, 1, 3, 7].contains(&ended.code),
                "{}: {how}: {ended:?}",
                path.display()
            );
            codes.push(ended.code);
            replace(&path, &right)?;
        }
    }
    before()?;
    export(shale)?
        .expect(0, "")
        .context("with the damage undone")?;
    Ok(codes)
}

/// Writes a file anew: some are read-only.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// Removes plans and cache, so that everything is read again.
fn forget(shale: &Shale) -> Result<()> {
    for directory in [".state/plans", ".cache"] {
        let path = shale.home().join(directory);
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

#[test]
fn damaged_content_is_an_error_and_never_other_bytes() -> Result<()> {
    let shale = pushed()?;
    let again = || forget(&shale);
    for kind in ["layers", "templates", "refs"] {
        let codes = damage_each(&shale, &format!(".state/repository/{kind}"), again)?;
        // Each of these is read by an export, or belongs to the base whose reference is not.
        ensure!(
            codes.iter().filter(|code| **code == 7).count() >= 6,
            "{kind}: {codes:?}"
        );
    }
    // A pack's header, footer and trailer are not read when a chunk is; the rest of it is.
    let codes = damage_each(&shale, ".state/repository/packs", again)?;
    let failed: Vec<i32> = codes.into_iter().filter(|code| *code != 0).collect();
    ensure!(
        failed.len() >= 6 && failed.iter().all(|code| *code == 7),
        "packs: {failed:?}"
    );
    damage_each(&shale, ".state/repository/shale-repository", again).map(drop)
}

#[test]
fn damaged_plans_and_caches_are_made_again() -> Result<()> {
    let shale = pushed()?;
    for kind in [".state/plans", ".cache"] {
        let codes = damage_each(&shale, kind, || Ok(()))?;
        ensure!(codes.iter().all(|code| *code == 0), "{kind}: {codes:?}");
    }
    Ok(())
}

#[test]
fn a_damaged_index_is_made_again_or_an_error() -> Result<()> {
    let shale = pushed()?;
    let index = shale.repository().join("index");
    let names: Vec<PathBuf> = files(&index)?;
    let kept: Vec<Vec<u8>> = names.iter().map(fs::read).collect::<Result<_, _>>()?;
    let full = names
        .iter()
        .zip(&kept)
        .filter(|(_, bytes)| !bytes.is_empty());
    for (path, right) in full {
        for (how, damage) in DAMAGES {
            forget(&shale)?;
            fs::remove_dir_all(&index)?;
            fs::create_dir(&index)?;
            for (path, bytes) in names.iter().zip(&kept) {
                fs::write(path, bytes)?;
            }
            let mut wrong = right.clone();
            damage(&mut wrong);
            fs::write(path, wrong)?;
            let ended = export(&shale).with_context(|| format!("{}: {how}", path.display()))?;
            ensure!(
                [0, 7].contains(&ended.code),
                "{}: {how}: {ended:?}",
                path.display()
            );
            // What it found is mended by the next command.
            if ended.errors.contains("in the chunk index") {
                let again = export(&shale)?;
                ensure!(again.code == 0, "{}: {how}: {again:?}", path.display());
            }
        }
    }
    Ok(())
}

#[test]
fn a_damaged_overlay_is_refused() -> Result<()> {
    let shale = pushed()?;
    let args = ["nbd", "test/app", "--socket", "s", "--overlay", "overlay"];
    Background::start_until(shale.command().args(args), "serving")?.terminate()?;
    let head = shale.home().join("overlay/head");
    let right = fs::read(&head)?;
    // Its first 96 bytes say what it is over; the others are reserved.
    for at in [0, 8, 16, 24, 33, 70, 95] {
        let mut wrong = right.clone();
        flip(&mut wrong, |_| at);
        replace(&head, &wrong)?;
        let ended = ended(&mut limited_command(&shale, &args))?;
        // Another version or feature may be a newer program's.
        let code = if [8, 16].contains(&at) { 1 } else { 7 };
        ended
            .expect(code, "overlay")
            .with_context(|| format!("bit flipped at {at}"))?;
    }
    // What is missing of the others would read as never written.
    for name in ["bits", "data", "live"] {
        let path = shale.home().join("overlay").join(name);
        let file = fs::OpenOptions::new().write(true).open(&path)?;
        let len = file.metadata()?.len();
        for wrong in [0, len - 1, len + 1] {
            file.set_len(wrong)?;
            let ended = ended(&mut limited_command(&shale, &args))?;
            ended
                .expect(7, "overlay")
                .with_context(|| format!("{name} of {wrong} bytes"))?;
        }
        file.set_len(len)?;
        if name == "live" {
            // It ends with the id of the boot, which cutting it has lost; another only means that nothing counts.
            file.write_all_at(&[0; 16], len - 16)?;
        }
    }
    for len in [0, 1, 50] {
        replace(&head, &right[..len])?;
        let ended = ended(&mut limited_command(&shale, &args))?;
        ended
            .expect(7, "overlay")
            .with_context(|| format!("cut to {len}"))?;
    }
    replace(&head, &right)?;
    Background::start_until(shale.command().args(args), "serving")?.terminate()
}
