//! The overlay over storage that loses what was not synced.

use std::sync::Arc;

use shale_files::{Fault, FaultyFiles, FilePath, Files, MemoryFiles, OpenMode};
use shale_model::PlanId;
use shale_view::{BootId, Overlay, OverlayError, UNIT_BYTES};

const UNITS: u64 = 100;
const BOOT: BootId = BootId([1; 16]);
const NEXT_BOOT: BootId = BootId([2; 16]);

fn plan() -> PlanId {
    PlanId::of(b"plan")
}

fn unit_of(n: u64, round: u8) -> Vec<u8> {
    vec![(n as u8).wrapping_mul(31) ^ round; UNIT_BYTES as usize]
}

/// Each unit that is here, with its bytes.
fn content(overlay: &Overlay) -> Vec<Option<Vec<u8>>> {
    (0..UNITS)
        .map(|unit| {
            let mut bytes = vec![0; UNIT_BYTES as usize];
            let here = overlay.contains(unit);
            here.then(|| {
                overlay
                    .read(unit * UNIT_BYTES, &mut bytes)
                    .map(|()| bytes)
                    .unwrap()
            })
        })
        .collect()
}

#[test]
fn after_a_power_cut_the_disk_is_what_was_flushed() {
    for seed in 0..200u64 {
        let files = MemoryFiles::new();
        let overlay = Overlay::create(&files, plan(), UNITS * UNIT_BYTES, BOOT).unwrap();
        let mut model = vec![None; UNITS as usize];
        for step in 0..40 {
            let unit = (seed * 7 + step * 13) % UNITS;
            let bytes = unit_of(unit, step as u8);
            overlay.write(unit * UNIT_BYTES, &bytes).unwrap();
            model[unit as usize] = Some(bytes);
        }
        overlay.flush().unwrap();
        // Units that were not there at the flush: whole afterwards, or not there.
        let late: Vec<u64> = (0..UNITS)
            .filter(|u| model[*u as usize].is_none())
            .take(20)
            .collect();
        for unit in &late {
            overlay
                .write(unit * UNIT_BYTES, &unit_of(*unit, 99))
                .unwrap();
        }
        let after = files.after_power_cut(seed);
        drop(overlay);
        let after = content(&Overlay::open(&after, plan(), NEXT_BOOT).unwrap());
        for unit in 0..UNITS {
            let found = &after[unit as usize];
            match late.contains(&unit) {
                false => assert_eq!(found, &model[unit as usize], "seed {seed}, unit {unit}"),
                true => assert_eq!(found, &None, "seed {seed}: no bit before its flush"),
            }
        }
    }
}

#[test]
fn a_flush_that_fails_is_done_again_by_the_next() {
    let mut failed = 0;
    for at in 0..60 {
        let memory = Arc::new(MemoryFiles::new());
        let files = FaultyFiles::new(memory.clone());
        files.fail_at(Some((at, Fault::Full)));
        let Ok(overlay) = Overlay::create(&files, plan(), UNITS * UNIT_BYTES, BOOT) else {
            continue;
        };
        let mut written = vec![];
        for unit in 0..10 {
            if overlay.write(unit * UNIT_BYTES, &unit_of(unit, 1)).is_ok() {
                written.push(unit);
            }
        }
        if overlay.flush().is_err() {
            failed += 1;
            files.fail_at(None);
            overlay.flush().unwrap();
        }
        drop(overlay);
        files.fail_at(None);
        let after = memory.after_power_cut(at);
        let after = content(&Overlay::open(&after, plan(), NEXT_BOOT).unwrap());
        for unit in written {
            assert_eq!(
                after[unit as usize],
                Some(unit_of(unit, 1)),
                "fault at {at}"
            );
        }
    }
    assert!(failed > 0, "no fault hit a flush");
}

#[test]
fn a_creation_that_is_cut_off_can_be_done_again() {
    for seed in 0..50 {
        let files = MemoryFiles::new();
        drop(Overlay::create(&files, plan(), 1 << 30, BOOT).unwrap());
        let after = files.after_power_cut(seed);
        drop(Overlay::open(&after, plan(), NEXT_BOOT).unwrap());
    }
    for at in 0..30 {
        let memory = Arc::new(MemoryFiles::new());
        let files = FaultyFiles::new(memory.clone());
        files.fail_at(Some((at, Fault::Full)));
        let first = Overlay::create(&files, plan(), 1 << 30, BOOT).is_ok();
        files.fail_at(None);
        let again = Overlay::create(&files, plan(), 1 << 30, BOOT);
        match first {
            true => assert!(matches!(again, Err(OverlayError::Exists))),
            false => assert!(again.is_ok(), "fault at {at}"),
        }
    }
}

#[test]
fn what_does_not_fit_together_is_told_apart() {
    let files = MemoryFiles::new();
    drop(Overlay::create(&files, plan(), 1 << 20, BOOT).unwrap());
    let other = PlanId::of(b"other");
    assert!(matches!(
        Overlay::open(&files, other, BOOT),
        Err(OverlayError::OtherPlan { .. })
    ));
    let head = files
        .open(&FilePath::new("head").unwrap(), OpenMode::Write)
        .unwrap();
    head.write_at(30, &[1]).unwrap();
    let error = Overlay::open(&files, plan(), BOOT).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "overlay: the bytes do not match their checksum (at byte 96)"
    );
    head.write_at(8, &[9]).unwrap();
    let error = Overlay::open(&files, plan(), BOOT).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("version 9 is newer"), "{error}");
}

#[test]
fn one_writer_at_a_time() {
    let files = Arc::new(MemoryFiles::new());
    let _first = Overlay::create(&*files, plan(), 1 << 20, BOOT).unwrap();
    assert!(matches!(
        Overlay::open(&*files, plan(), BOOT),
        Err(OverlayError::Lock(_))
    ));
}

#[test]
fn after_a_kill_the_disk_is_what_was_written() {
    let files = MemoryFiles::new();
    let overlay = Overlay::create(&files, plan(), UNITS * UNIT_BYTES, BOOT).unwrap();
    let mut model = vec![None; UNITS as usize];
    for step in 0..60u64 {
        let unit = step * 37 % UNITS;
        overlay
            .write(unit * UNIT_BYTES, &unit_of(unit, step as u8))
            .unwrap();
        model[unit as usize] = Some(unit_of(unit, step as u8));
        if step == 20 {
            overlay.flush().unwrap();
        }
        let after = files.after_kill();
        let killed = Overlay::open(&after, plan(), BOOT).unwrap();
        assert_eq!(content(&killed), model);
        // What was taken over is flushed like anything else, and then outlives the machine.
        killed.flush().unwrap();
        drop(killed);
        let after = after.after_power_cut(step);
        assert_eq!(
            content(&Overlay::open(&after, plan(), NEXT_BOOT).unwrap()),
            model
        );
    }
}

#[test]
fn runs_are_those_of_the_single_units() {
    let files = MemoryFiles::new();
    // Two pages of bits, and a third that is never written to.
    let units = 3 * 32_768;
    let overlay = Overlay::create(&files, plan(), units * UNIT_BYTES, BOOT).unwrap();
    for unit in (0..40)
        .chain(32_760..32_780)
        .chain([100, 108, 32_700, 32_768 + 77])
    {
        overlay.write(unit * UNIT_BYTES, &unit_of(unit, 1)).unwrap();
    }
    for (from, to) in [
        (0, units),
        (7, 33_000),
        (38, 109),
        (101, 32_765),
        (50_000, units),
    ] {
        let (offset, len) = (from * UNIT_BYTES + 17, (to - from) * UNIT_BYTES - 17);
        let mut at = offset;
        let runs = overlay.runs(offset, len);
        for (number, (range, here)) in runs.iter().enumerate() {
            assert_eq!(range.start, at);
            let units = range.start / UNIT_BYTES..range.end.div_ceil(UNIT_BYTES);
            assert!(
                units.clone().all(|unit| overlay.contains(unit) == *here),
                "{range:?}"
            );
            assert!(
                number == 0 || runs[number - 1].1 != *here,
                "runs are as long as they can be"
            );
            at = range.end;
        }
        assert_eq!(at, offset + len);
    }
}

/// Writes a unit with a fault at each of its operations, heals, and does `then`; after a kill, the units that were
/// answered are there.
fn check_after_fault(before: &[u64], failing: std::ops::Range<u64>, then: &[u64]) {
    const PAGES: u64 = 3 * 32_768;
    let mut failed = 0;
    for at in 0..6 {
        let memory = Arc::new(MemoryFiles::new());
        let files = FaultyFiles::new(memory.clone());
        let overlay = Overlay::create(&files, plan(), PAGES * UNIT_BYTES, BOOT).unwrap();
        let write = |unit: u64| overlay.write(unit * UNIT_BYTES, &unit_of(unit, 1));
        before.iter().try_for_each(|unit| write(*unit)).unwrap();
        files.fail_at(Some((files.operations() + at, Fault::Full)));
        let units: Vec<u8> = failing.clone().flat_map(|unit| unit_of(unit, 1)).collect();
        failed += u32::from(overlay.write(failing.start * UNIT_BYTES, &units).is_err());
        files.fail_at(None);
        then.iter().try_for_each(|unit| write(*unit)).unwrap();
        let killed = memory.after_kill();
        let killed = Overlay::open(&killed, plan(), BOOT).unwrap();
        for unit in before.iter().chain(then) {
            assert!(killed.contains(*unit), "fault at {at}: unit {unit} is lost");
        }
    }
    assert!(failed > 0, "no fault hit the write");
}

#[test]
fn what_is_written_after_the_disk_was_full_outlives_a_kill() {
    // The same again, and its neighbours in a page that the failure would have begun.
    check_after_fault(&[], 7..8, &[7]);
    check_after_fault(&[], 7..8, &[8, 9]);
    check_after_fault(&[3], 7..8, &[7, 8]);
    // Over the border of two pages, of which only one is written again.
    check_after_fault(&[], 32_767..32_769, &[32_768]);
    check_after_fault(&[1, 40_000], 32_767..32_769, &[32_767]);
    check_after_fault(&[1, 40_000], 32_767..32_769, &[32_768]);
}

#[test]
fn after_a_restart_and_a_kill_the_disk_is_what_was_written() {
    let files = MemoryFiles::new();
    let overlay = Overlay::create(&files, plan(), UNITS * UNIT_BYTES, BOOT).unwrap();
    overlay.write(0, &unit_of(0, 1)).unwrap();
    overlay.flush().unwrap();
    let files = files.after_power_cut(1);
    let overlay = Overlay::open(&files, plan(), NEXT_BOOT).unwrap();
    // Into the page of bits that was there before the machine restarted.
    overlay.write(UNIT_BYTES, &unit_of(1, 2)).unwrap();
    let killed = Overlay::open(&files.after_kill(), plan(), NEXT_BOOT).unwrap();
    let content = content(&killed);
    assert_eq!(content[..2], [Some(unit_of(0, 1)), Some(unit_of(1, 2))]);
}

#[test]
fn a_file_of_another_length_is_damage_and_never_zeros() {
    for name in ["bits", "data", "live"] {
        for change in [-1i64, 1, -17, -4096] {
            let files = MemoryFiles::new();
            let overlay = Overlay::create(&files, plan(), UNITS * UNIT_BYTES, BOOT).unwrap();
            overlay.write(0, &unit_of(0, 1)).unwrap();
            overlay.flush().unwrap();
            let after = files.after_kill();
            let path = FilePath::new(name).unwrap();
            let file = after.open(&path, OpenMode::Write).unwrap();
            let size = file.size().unwrap();
            file.set_size(size.saturating_add_signed(change)).unwrap();
            for boot in [BOOT, NEXT_BOOT] {
                let opened = Overlay::open(&after, plan(), boot).map(|_| ());
                let right = matches!(&opened, Err(OverlayError::Format(error)) if error.what.contains(name));
                assert!(right, "{name} by {change}: {opened:?}");
            }
        }
    }
}
