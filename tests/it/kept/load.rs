//! Thirty services killed under load.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Background, Random, need_root, run, tool};
use rustix::fs::OFlags;

use super::Mounts;
use crate::nbd::Kills;

/// Tells the test binary what to read and compare: a seed, the files as they should be, and as they are mounted. It ends
/// when there is a file `stop` beside the former, and leaves in `stall` how many milliseconds the longest read took.
const READ: &str = "SHALE_KEPT_READ";
const FILES: u64 = 8;
const FILE_BYTES: u64 = 1 << 20;
const READ_BYTES: u64 = 16 << 10;
const PAGE: usize = 4096;

/// Not a test of its own: the process that reads, when the test below starts it.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test is told what to do by its environment"
)]
fn privileged_read_for_another_process() -> Result<()> {
    let Ok(told) = std::env::var(READ) else {
        return Ok(());
    };
    let mut told = told.split(',');
    let mut next = || told.next().context("a part of what to do");
    let mut random = Random::seeded(next()?.parse()?);
    let (source, mounted) = (PathBuf::from(next()?), PathBuf::from(next()?));
    let stop = source.with_file_name("stop");
    let mut longest = Duration::ZERO;
    // Reads past what the kernel keeps want memory that begins with a page.
    let mut room = vec![0; READ_BYTES as usize + PAGE];
    let start = room.as_ptr().align_offset(PAGE);
    let page = &mut room[start..start + READ_BYTES as usize];
    while !stop.exists() {
        let name = format!("file-{}", random.below(FILES));
        let at = random.below(FILE_BYTES / READ_BYTES) * READ_BYTES;
        let mut expected = vec![0; READ_BYTES as usize];
        File::open(source.join(&name))?.read_exact_at(&mut expected, at)?;
        let begun = Instant::now();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(mounted.join(&name))?;
        file.read_exact_at(page, at)?;
        longest = longest.max(begun.elapsed());
        ensure!(page[..] == expected, "{name} is wrong at {at}");
    }
    fs::write(
        source.with_file_name("stall"),
        longest.as_millis().to_string(),
    )?;
    Ok(())
}

/// Writes to the disk and reads it again, many requests at a time.
fn write_and_check(disk: &Path) -> Result<()> {
    let mut fio = tool("fio")?;
    fio.args([
        "--name=verify",
        "--ioengine=libaio",
        "--iodepth=8",
        "--direct=1",
        "--rw=randwrite",
        "--bsrange=4k-128k",
        "--size=12m",
        "--offset=2560m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--allow_file_create=0",
    ]);
    let log = run(fio.arg(format!("--filename={}", disk.display())))?;
    ensure!(log.contains("err= 0"), "{log}");
    Ok(())
}

#[test]
fn privileged_thirty_killed_services_of_two_copies_of_the_program_lose_nothing() -> Result<()> {
    need_root()?;
    let mut random = Random::printed("killed services");
    let content: Vec<Vec<u8>> = (0..FILES)
        .map(|_| random.bytes(FILE_BYTES as usize))
        .collect();
    let names: Vec<String> = (0..FILES).map(|n| format!("file-{n}")).collect();
    let files = names.iter().zip(&content);
    let files: Vec<_> = files.map(|(name, bytes)| (&name[..], &bytes[..])).collect();
    let mut mounts = Mounts::of(&files)?;
    let source = mounts.shale.home().join("source");
    fs::create_dir(&source)?;
    for (name, bytes) in &files {
        fs::write(source.join(name), bytes)?;
    }
    let (tree, disk) = (mounts.point("tree")?, mounts.point("disk")?);
    // Another build would be at another place, too, with what is kept on disk and in the keeper as its only inheritance.
    let program = |round: usize| match round % 2 {
        0 => Ok(mounts.shale.command()),
        _ => mounts.shale.copied("shale-of-an-upgrade"),
    };
    let mut service = Some(mounts.service(program(0)?)?);
    mounts.mount(&tree, &[])?;
    mounts.mount(
        &disk,
        &["--disk", "--overlay", "overlay", "--disk-size", "3G"],
    )?;

    // This process must not have files of the mounts open: they would be closed in each service that it starts, before
    // that serves, and closing asks the service.
    let told = format!(
        "{},{},{}",
        random.below(1 << 40),
        source.display(),
        tree.display()
    );
    let mut reader = Command::new(std::env::current_exe()?);
    reader
        .args(["--exact", "kept::load::privileged_read_for_another_process"])
        .env(READ, told)
        .stdout(Stdio::null());
    let mut reader = Background::start(&mut reader)?;
    let stop = AtomicBool::new(false);
    let (mut kills, mut told_to_end) = (Kills::default(), 0);
    let (mut started, mut requests) = (0, 0);
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                write_and_check(&disk.join("disk.raw"))?;
                rounds += 1;
            }
            anyhow::Ok(rounds)
        });
        let replace = &mut || -> Result<()> {
            while kills.go_on()? {
                std::thread::sleep(Duration::from_millis(30 + random.below(150)));
                let ending = service.take().context("a service")?;
                // Some more are told to end, as an upgrade does it.
                let is_told = random.below(8) == 0;
                match is_told {
                    true => ending.terminate()?,
                    false => drop(ending.kill()?),
                }
                started += 1;
                service = Some(mounts.service(program(started)?)?);
                let listed = mounts.listed()?;
                let taken = listed
                    .iter()
                    .filter_map(|mount| mount["taken_over"].as_u64());
                let taken: u64 = taken.sum();
                requests += taken;
                match is_told {
                    true => told_to_end += 1,
                    false => kills.hit(taken > 0),
                }
                ensure!(reader.ended()?.is_none(), "the reader ended");
                ensure!(!writer.is_finished(), "the writer ended");
            }
            Ok(())
        };
        let replaced = replace();
        stop.store(true, Ordering::Relaxed);
        fs::write(source.with_file_name("stop"), "")?;
        let rounds = writer.join().ok().context("the writer panicked")??;
        replaced?;
        println!("fio wrote and verified {rounds} times");
        Ok(())
    })?;
    super::wait_until("the reader ends", || Ok(reader.ended()?.is_some()))?;
    ensure!(
        reader.ended()?.is_some_and(|status| status.success()),
        "a read was wrong"
    );
    println!(
        "{kills:?}, and {told_to_end} told to end; {requests} requests taken over; no read took longer than {} ms",
        fs::read_to_string(source.with_file_name("stall"))?
    );
    for point in [&tree, &disk] {
        run(&mut mounts.umount(point))?;
    }
    ensure!(mounts.listed()?.is_empty());
    service.context("a service")?.terminate()?;
    mounts.keeper_ends()
}
