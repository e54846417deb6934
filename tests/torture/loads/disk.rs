//! A writer of a mounted disk, which knows what it wrote and what it synced.
//!
//! The disk has slots, each of blocks of which each says whose it is, of which writing, and has bytes that follow from
//! that. What was synced is acknowledged by the number of its writing: the slot has that one or a later one, whatever
//! happens, and as long as the writer lives, the last one.

use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::Random;

use super::Load;
use super::tree::mounted;

/// What the program is told to be the writer.
pub(crate) const WRITER: &str = "--write-disk";

const SLOTS: u64 = 192;
const BLOCK: usize = 4096;
const BLOCKS: usize = 32;
const SLOT_BYTES: u64 = (BLOCK * BLOCKS) as u64;

/// Where they begin: behind all that the template has, in the middle of a group of its file system.
const AT: u64 = (2560 + 64) << 20;

/// Writes between two checks, at most.
const WRITES: u64 = 6;

/// Pause between passes: there are other loads.
const PAUSE: Duration = Duration::from_millis(200);

/// What it does, and what it is told before: the slots with their numbers.
pub(super) fn work(load: &Load) -> Result<(Command, String)> {
    let overlay = load.vms.shale.home().join("overlay-of-disk");
    let overlay = overlay.to_str().context("a path in UTF-8")?;
    let how = ["--disk", "--overlay", overlay, "--disk-size", "3G"];
    let point = mounted(load, &how)?;
    let mut command = load.vms.shale.command_of(&std::env::current_exe()?);
    command.arg(WRITER).arg(format!("{point}/disk.raw"));
    let saved = &load.heard().saved;
    let lines = saved.iter().map(|(slot, writing)| {
        let slot = slot.trim_start_matches("slot-");
        format!("{slot} {writing}\n")
    });
    Ok((command, lines.collect()))
}

/// What is known of a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The last writing that was begun.
    last: u64,
    /// The last one that was synced, by this writer or one before it.
    synced: u64,
    /// Whether this writer wrote the last one: then no other can be there.
    is_mine: bool,
}

/// Writes and checks until it is killed. Says what it did on standard output.
#[expect(clippy::print_stdout, reason = "this is what it says")]
pub(crate) fn write_for_ever(file: &Path) -> Result<()> {
    let mut slots = vec![Slot::default(); SLOTS as usize];
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (slot, writing) = line.split_once(' ').context("a slot and its number")?;
        let slot: usize = slot.parse()?;
        slots[slot].synced = writing.parse()?;
    }
    let disk = OpenOptions::new().read(true).write(true).open(file)?;
    for (number, slot) in slots.iter_mut().enumerate() {
        match read(&disk, number as u64) {
            Ok(found) if found.iter().all(|found| *found >= slot.synced) => {
                slot.last = found.into_iter().max().unwrap_or(0);
            }
            Ok(found) => println!("wrong: slot {number} has {found:?}, not {}", slot.synced),
            Err(error) => println!("wrong: slot {number}: {error:#}"),
        }
        slot.last = slot.last.max(slot.synced);
    }
    println!("checked {SLOTS}");
    let mut random = Random::seeded(std::process::id().into());
    loop {
        let count = 1 + random.below(WRITES);
        let written: Vec<u64> = (0..count).map(|_| random.below(SLOTS)).collect();
        for number in &written {
            let slot = &mut slots[*number as usize];
            slot.last += 1;
            slot.is_mine = true;
            disk.write_all_at(&content(*number, slot.last), AT + number * SLOT_BYTES)?;
        }
        disk.sync_all()?;
        let mut said = std::io::stdout().lock();
        for number in written {
            let slot = &mut slots[number as usize];
            slot.synced = slot.last;
            writeln!(said, "saved slot-{number} {}", slot.synced)?;
        }
        let checks = 8;
        for _ in 0..checks {
            let number = random.below(SLOTS);
            let slot = slots[number as usize];
            let found = read(&disk, number)?;
            let right = match slot.is_mine {
                true => found.iter().all(|found| *found == slot.last),
                false => found.iter().all(|found| *found >= slot.synced),
            };
            if !right {
                writeln!(said, "wrong: slot {number} has {found:?}, not {slot:?}")?;
            }
        }
        writeln!(said, "checked {checks}")?;
        drop(said);
        std::thread::sleep(PAUSE);
    }
}

/// The writings that the blocks of a slot are of: 0 for what was never written.
fn read(disk: &std::fs::File, slot: u64) -> Result<Vec<u64>> {
    let mut bytes = vec![0; SLOT_BYTES as usize];
    disk.read_exact_at(&mut bytes, AT + slot * SLOT_BYTES)
        .context("read")?;
    let blocks = bytes.chunks_exact(BLOCK).enumerate();
    let writings = blocks.map(|(number, found)| {
        if found.iter().all(|byte| *byte == 0) {
            return Ok(0);
        }
        let mut writing = [0; 8];
        writing.copy_from_slice(&found[16..24]);
        let writing = u64::from_le_bytes(writing);
        let is_right = found == block(slot, number as u64, writing);
        is_right
            .then_some(writing)
            .with_context(|| format!("block {number} has other bytes than any that were written"))
    });
    writings.collect()
}

fn content(slot: u64, writing: u64) -> Vec<u8> {
    let blocks = (0..BLOCKS as u64).map(|number| block(slot, number, writing));
    blocks.flatten().collect()
}

/// A block that was written.
fn block(slot: u64, number: u64, writing: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = [slot, number, writing]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let mut random =
        Random::seeded((slot << 40 | number << 32) ^ writing.wrapping_mul(0x9e37_79b9));
    while bytes.len() < BLOCK {
        bytes.extend(random.below(1 << 48).to_le_bytes());
    }
    bytes
}
