//! The blocks that a guest had written: out of its overlay, and into that of another machine.

use std::io::Write;
use std::path::Path;

use shale_view::{Overlay, UNIT_BYTES};

use crate::error::{HostError, HostResult, system};

/// Bytes of the disk that are asked about at once: bounds the answer to 16,384 runs.
const ASK_BYTES: u64 = 64 << 20;

/// Bytes that are read at once.
const STEP_BYTES: u64 = 1 << 20;

/// Runs of blocks: the first, and how many.
pub(crate) type Runs = Vec<(u64, u64)>;

/// Writes what is in `overlay` and no zeros to `file`, one block after the other. Returns the runs of these blocks, and those
/// of the zeros. Blocks.
pub(crate) fn take_blocks(
    overlay: &Overlay,
    file: &mut impl Write,
    path: &Path,
) -> HostResult<(Runs, Runs)> {
    let (mut written, mut zeroed) = (Runs::new(), Runs::new());
    let size = overlay.disk_bytes() / UNIT_BYTES * UNIT_BYTES;
    let mut buffer = vec![0; STEP_BYTES as usize];
    for ask in (0..size).step_by(ASK_BYTES as usize) {
        let runs = overlay.runs(ask, ASK_BYTES.min(size - ask));
        for (range, _) in runs.into_iter().filter(|(_, here)| *here) {
            let mut at = range.start;
            while at < range.end {
                let part = &mut buffer[..STEP_BYTES.min(range.end - at) as usize];
                overlay.read(at, part)?;
                for unit in part.chunks(UNIT_BYTES as usize) {
                    let block = at / UNIT_BYTES;
                    match unit.iter().all(|byte| *byte == 0) {
                        true => add(&mut zeroed, block),
                        false => {
                            add(&mut written, block);
                            file.write_all(unit).map_err(system("write", path))?;
                        }
                    }
                    at += unit.len() as u64;
                }
            }
        }
    }
    Ok((written, zeroed))
}

fn add(runs: &mut Runs, block: u64) {
    match runs.last_mut() {
        Some((first, count)) if *first + *count == block => *count += 1,
        _ => runs.push((block, 1)),
    }
}

/// Blocks on their way into an overlay: their bytes come in any portions, in order.
pub(crate) struct WrittenBlocks<'a> {
    overlay: &'a Overlay,
    runs: std::slice::Iter<'a, (u64, u64)>,
    /// Where on the disk the next byte belongs, and how many more belong behind it.
    at: u64,
    left: u64,
}

impl<'a> WrittenBlocks<'a> {
    /// Blocks whose places are these `runs`, which lie on the disk of `overlay`.
    pub(crate) fn new(overlay: &'a Overlay, runs: &'a [(u64, u64)]) -> Self {
        let runs = runs.iter();
        let (at, left) = (0, 0);
        Self {
            overlay,
            runs,
            at,
            left,
        }
    }

    /// Writes the next bytes.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> HostResult<()> {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (first, count) = self.runs.next().ok_or_else(|| damaged("more"))?;
                (self.at, self.left) = (first * UNIT_BYTES, count * UNIT_BYTES);
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.left as usize));
            self.overlay.write(self.at, now)?;
            self.at += now.len() as u64;
            self.left -= now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Fails if some have not come.
    pub(crate) fn end(mut self) -> HostResult<()> {
        match self.left == 0 && self.runs.next().is_none() {
            true => Ok(()),
            false => Err(damaged("fewer")),
        }
    }
}

fn damaged(how: &str) -> HostError {
    HostError::WarmSnapshot(format!("it has {how} blocks of its disk than it says"))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use shale_files::DirFiles;
    use shale_model::PlanId;
    use shale_view::BootId;

    use super::*;

    const BLOCKS: u64 = 300;

    fn overlay(dir: &tempfile::TempDir) -> Overlay {
        let files = DirFiles::open(dir.path()).unwrap();
        let size = BLOCKS * UNIT_BYTES;
        Overlay::create(&files, PlanId::of(b"p"), size, BootId([1; 16])).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// What was written is written again, in portions of any size, and nothing else.
        #[test]
        fn an_overlay_comes_back(
            written in vec((0..BLOCKS, 0u8..4), 0..60),
            portion in 1usize..20_000,
        ) {
            let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let [from, to] = [&dirs[0], &dirs[1]].map(overlay);
            for (block, byte) in written {
                from.write(block * UNIT_BYTES, &[byte; UNIT_BYTES as usize]).unwrap();
            }
            let mut file = Vec::new();
            let (runs, zeroed) = take_blocks(&from, &mut file, Path::new("disk")).unwrap();
            let mut blocks = WrittenBlocks::new(&to, &runs);
            for part in file.chunks(portion) {
                blocks.take(part).unwrap();
            }
            blocks.end().unwrap();
            for (first, count) in &zeroed {
                to.zero(first * UNIT_BYTES, count * UNIT_BYTES).unwrap();
            }
            let all = BLOCKS * UNIT_BYTES;
            prop_assert_eq!(from.runs(0, all), to.runs(0, all));
            let [mut left, mut right] = [vec![0; all as usize], vec![0; all as usize]];
            for (range, _) in from.runs(0, all).into_iter().filter(|(_, here)| *here) {
                let range = range.start as usize..range.end as usize;
                from.read(range.start as u64, &mut left[range.clone()]).unwrap();
                to.read(range.start as u64, &mut right[range]).unwrap();
            }
            prop_assert!(left == right);
            if !file.is_empty() {
                let mut short = WrittenBlocks::new(&to, &runs);
                short.take(&file[1..]).unwrap();
                prop_assert!(short.end().is_err());
                let mut long = WrittenBlocks::new(&to, &runs);
                long.take(&file).unwrap();
                prop_assert!(long.take(&[1]).is_err());
            }
        }
    }
}
