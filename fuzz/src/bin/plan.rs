//! A plan, as it lies on a host: opened, and read in several ways.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale_model::limits::BLOCK_BYTES;
use shale_model::{FormatError, Piece, Plan};

/// Most pieces and runs that are looked at: a plan may have millions.
const MOST: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Ok(plan) = Plan::open(data) else {
        return;
    };
    let disk = plan.disk_bytes();
    read(&plan, 0, disk);
    read(&plan, disk / 2, disk - disk / 2);
    for index in 0..plan.run_count().min(MOST) {
        if let Ok(run) = plan.run(index) {
            let at = u64::from(run.block) * BLOCK_BYTES as u64;
            read(&plan, at, run.bytes);
            read(&plan, at + 1, (run.bytes - 1).min(9000));
        }
    }
    for index in 0..plan.chunk_count().min(MOST) {
        let _ = plan.chunk(index);
    }
    read(&plan, disk, 1);
    read(&plan, u64::MAX, u64::MAX);
});

enum Stop {
    Enough,
    Bad,
}

impl From<FormatError> for Stop {
    fn from(_: FormatError) -> Self {
        Stop::Bad
    }
}

fn read(plan: &Plan<&[u8]>, offset: u64, len: u64) {
    let (mut covered, mut pieces) = (0, 0);
    let result = plan.pieces(offset, len, |piece| {
        assert_ne!(piece.len(), 0);
        if let Piece::Chunk(slice) = piece {
            assert!(slice.offset + slice.len <= slice.chunk_len);
        }
        covered += piece.len();
        pieces += 1;
        match pieces < MOST {
            true => Ok(()),
            false => Err(Stop::Enough),
        }
    });
    assert!(covered <= len);
    if result.is_ok() {
        assert_eq!(covered, len);
    }
    if len > 0 && offset >= plan.disk_bytes() {
        assert!(matches!(result, Err(Stop::Bad)));
    }
}
