//! A disk that differs from its plan before its first boot: the blocks that differ go into its overlay.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use shale_files::DirFiles;
use shale_model::limits::BLOCK_BYTES;
use shale_model::{BlockDevice, DeviceError, DeviceResult, FormatError, Piece, Plan};
use shale_view::{Disk, Overlay, OverlayError, PlanFile, View};

use crate::compose::{Composer, Image};
use crate::dirs::{current_boot, private_dir};
use crate::error::{HostError, HostResult, system};
use crate::patience::Patience;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Bytes that are copied at once.
const STEP_BYTES: u64 = 1 << 20;

/// Sizes of disks are rounded up to this.
const DISK_STEP_BYTES: u64 = 1 << 20;

impl Image {
    /// Bytes of a disk of this image for which somebody asked for `asked` bytes, or for no size.
    pub fn disk_bytes(&self, asked: Option<u64>) -> HostResult<u64> {
        let least = self.plan.disk_bytes();
        match asked {
            None => Ok(least),
            Some(asked) if asked < least => Err(HostError::DiskTooSmall { asked, least }),
            Some(asked) => Ok(asked.next_multiple_of(DISK_STEP_BYTES)),
        }
    }
}

impl Composer {
    /// Makes an overlay in the directory `dir` over the plan of `image`, whose file system fills a disk of
    /// `disk_bytes`. Until all of it is durable there is no overlay. Blocks.
    pub fn sized_overlay(&self, image: &Image, disk_bytes: u64, dir: &Path) -> HostResult<Overlay> {
        let target = match disk_bytes == image.plan.disk_bytes() {
            true => None,
            false => Some(self.plan_of_size(image.id, &image.template, disk_bytes)?),
        };
        self.overlay(image, target, dir, &Patience::endless())
    }

    /// Makes an overlay in the directory `dir` over the plan of `image` that reads like the disk of
    /// `target`, or of the image, if what differs can be read with this patience. Until all of it is durable
    /// there is no overlay. Blocks.
    pub(crate) fn overlay(
        &self,
        image: &Image,
        target: Option<PlanFile>,
        dir: &Path,
        patience: &Patience,
    ) -> HostResult<Overlay> {
        private_dir(dir).map_err(system("make", dir))?;
        let files = DirFiles::open(dir)?;
        let boot = current_boot()?;
        let Some(target) = target else {
            let bytes = image.plan.disk_bytes();
            return Ok(Overlay::create(&files, image.plan_id, bytes, boot)?);
        };
        let target = Arc::new(View::for_command(target, self.reader.clone()));
        let disk = Disk::read_only(target.clone());
        Overlay::create_with(&files, image.plan_id, target.size(), boot, |overlay| {
            let seeded = async { Ok(seed(&image.plan, target.plan(), &disk, overlay).await?) };
            self.runtime.block_on(patience.wait(seeded))?;
            Ok(())
        })
    }
}

/// Why a disk cannot be seeded.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// A plan is damaged.
    #[error(transparent)]
    Plan(#[from] FormatError),
    /// The bytes that differ cannot be read.
    #[error("read the disk that the overlay is to become")]
    Read(#[source] DeviceError),
    /// They cannot be written.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
}

/// Makes an empty `overlay` over the plan `base` read like the disk of the plan `target`.
/// `disk` is that disk; both have the overlay's size. Returns how many bytes differ.
pub(crate) async fn seed(
    base: &Plan<impl AsRef<[u8]>>,
    target: &Plan<impl AsRef<[u8]>>,
    disk: &Disk,
    overlay: &Overlay,
) -> Result<u64, SeedError> {
    let mut bytes = 0;
    for range in differences(base, target)? {
        copy(disk, overlay, &range).await?;
        bytes += range.end - range.start;
    }
    Ok(bytes)
}

async fn copy(disk: &Disk, overlay: &Overlay, range: &Range<u64>) -> Result<(), SeedError> {
    let mut at = range.start;
    let mut buffer = vec![0; STEP_BYTES.min(range.end - range.start) as usize];
    while at < range.end {
        let part = &mut buffer[..STEP_BYTES.min(range.end - at) as usize];
        read(disk, at, part).await.map_err(SeedError::Read)?;
        match part.iter().all(|byte| *byte == 0) {
            true => overlay.zero(at, part.len() as u64)?,
            false => overlay.write(at, part)?,
        }
        at += part.len() as u64;
    }
    Ok(())
}

async fn read(disk: &Disk, offset: u64, buffer: &mut [u8]) -> DeviceResult<()> {
    disk.read(offset, buffer).await
}

/// The ranges of blocks of `target` whose bytes are not those of `base`, in order and apart from each
/// other. Behind its end, `base` counts as zeros.
///
/// No chunk is read: parts of chunks are equal if they are the same part of the same chunk, and count as
/// different otherwise.
pub(crate) fn differences(
    base: &Plan<impl AsRef<[u8]>>,
    target: &Plan<impl AsRef<[u8]>>,
) -> Result<Vec<Range<u64>>, FormatError> {
    let size = target.disk_bytes();
    let (base, target) = (pieces(base, size)?, pieces(target, size)?);
    let mut found = Vec::new();
    let (mut left, mut right) = (base.iter().peekable(), target.iter().peekable());
    while let (Some(&&a), Some(&&b)) = (left.peek(), right.peek()) {
        let start = a.start.max(b.start);
        let (a_end, b_end) = (a.end(), b.end());
        let end = a_end.min(b_end);
        compare(start..end, a, b, &mut found);
        if a_end == end {
            left.next();
        }
        if b_end == end {
            right.next();
        }
    }
    Ok(found)
}

/// A piece and where on the disk it is.
#[derive(Clone, Copy)]
struct Placed<'a> {
    start: u64,
    piece: Piece<'a>,
}

impl Placed<'_> {
    fn end(&self) -> u64 {
        self.start + self.piece.len()
    }
}

/// All pieces of the first `size` bytes, with zeros behind the plan's end.
fn pieces(plan: &Plan<impl AsRef<[u8]>>, size: u64) -> Result<Vec<Placed<'_>>, FormatError> {
    let inside = plan.disk_bytes().min(size);
    let mut all = Vec::new();
    let mut start = 0;
    plan.pieces(0, inside, |piece| {
        all.push(Placed { start, piece });
        start += piece.len();
        Ok::<(), FormatError>(())
    })?;
    if inside < size {
        let piece = Piece::Zero(size - inside);
        all.push(Placed { start, piece });
    }
    Ok(all)
}

/// Adds the blocks of `range`, which both pieces cover, that differ.
fn compare(range: Range<u64>, a: Placed<'_>, b: Placed<'_>, found: &mut Vec<Range<u64>>) {
    let within = |placed: &Placed<'_>| range.start - placed.start;
    match (a.piece, b.piece) {
        (Piece::Zero(_), Piece::Zero(_)) => {}
        (Piece::Chunk(x), Piece::Chunk(y)) => {
            let offsets = (
                u64::from(x.offset) + within(&a),
                u64::from(y.offset) + within(&b),
            );
            if x.id != y.id || offsets.0 != offsets.1 {
                add(range, found);
            }
        }
        (Piece::Chunk(_), _) | (_, Piece::Chunk(_)) => add(range, found),
        (Piece::Bytes(_) | Piece::Zero(_), Piece::Bytes(_) | Piece::Zero(_)) => {
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min((at / BLOCK + 1) * BLOCK);
                if part(&a, at..end) != part(&b, at..end) {
                    add(at..end, found);
                }
                at = end;
            }
        }
    }
}

/// Known bytes of a piece, at most a block of them.
fn part<'a>(placed: &Placed<'a>, range: Range<u64>) -> &'a [u8] {
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    let len = (range.end - range.start) as usize;
    match placed.piece {
        Piece::Bytes(bytes) => {
            let from = (range.start - placed.start) as usize;
            &bytes[from..from + len]
        }
        Piece::Zero(_) | Piece::Chunk(_) => &ZEROS[..len],
    }
}

/// Adds the blocks that `range` touches.
fn add(range: Range<u64>, found: &mut Vec<Range<u64>>) {
    let range = range.start / BLOCK * BLOCK..range.end.next_multiple_of(BLOCK);
    match found.last_mut() {
        Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
        _ => found.push(range),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use shale_model::{ChunkId, PlanParts, Run, RunSource, TemplateId};

    use super::*;

    /// What a run holds: where in the content or in the synthesised bytes.
    type Shape = (u8, bool, u16, u8);

    const CHUNK: usize = 3000;
    const CHUNKS: usize = 8;

    fn content() -> Vec<u8> {
        (0..CHUNK * CHUNKS).map(|n| (n / 7) as u8 | 1).collect()
    }

    /// A plan of these runs over the same content, and its disk.
    fn plan(shapes: &[Shape], tail: u8, synthesised: &[u8]) -> (Plan<Vec<u8>>, Vec<u8>) {
        let content = content();
        let (mut runs, mut disk) = (Vec::new(), Vec::new());
        for &(gap, from_content, len, at) in shapes {
            disk.resize(disk.len() + usize::from(gap) * BLOCK_BYTES, 0);
            let source = if from_content {
                &content[..]
            } else {
                synthesised
            };
            let at = usize::from(at) * 100 % source.len();
            let len = usize::from(len).clamp(1, source.len() - at);
            runs.push(Run {
                block: (disk.len() / BLOCK_BYTES) as u32,
                bytes: len as u64,
                source: match from_content {
                    true => RunSource::Content(at as u64),
                    false => RunSource::Synthesised(at as u64),
                },
            });
            disk.extend_from_slice(&source[at..at + len]);
            disk.resize(disk.len().next_multiple_of(BLOCK_BYTES), 0);
        }
        disk.resize(disk.len() + (usize::from(tail) + 1) * BLOCK_BYTES, 0);
        let chunks = content
            .chunks(CHUNK)
            .map(|c| (ChunkId::of(c), CHUNK as u32));
        let parts = PlanParts {
            template: TemplateId::of(b"t"),
            disk_bytes: disk.len() as u64,
            runs,
            chunks: chunks.collect(),
            synthesised: synthesised.to_vec(),
        };
        (Plan::open(parts.encode().1).unwrap(), disk)
    }

    fn shapes() -> impl Strategy<Value = Vec<Shape>> {
        vec((0u8..3, any::<bool>(), 1u16..12_000, 0u8..40), 0..8)
    }

    proptest! {
        /// Copying the differences makes one disk the other, and blocks of known bytes that are equal
        /// are not among them.
        #[test]
        fn differences_are_all_that_differs(
            first in shapes(),
            second in shapes(),
            shared in any::<prop::sample::Index>(),
            tails in (0u8..4, 0u8..4),
            mut bytes in vec(any::<bool>(), 20_000),
            change in any::<prop::sample::Index>(),
        ) {
            // Mostly zeros, so that some blocks of synthesised bytes are zeros.
            let to_bytes = |bytes: &[bool]| -> Vec<u8> {
                bytes.chunks(5000).flat_map(|part| {
                    let quiet = part[0];
                    part.iter().map(move |bit| u8::from(*bit && !quiet)).collect::<Vec<_>>()
                }).collect()
            };
            let before = to_bytes(&bytes);
            let at = change.index(bytes.len());
            bytes[at] = !bytes[at];
            let after = to_bytes(&bytes);
            // The two plans begin alike.
            let common = &first[..shared.index(first.len() + 1)];
            let second = [common, &second].concat();
            let (base, mut disk) = plan(&first, tails.0, &before);
            let (target, wanted) = plan(&second, tails.1, &after);
            let ranges = differences(&base, &target).unwrap();
            disk.resize(wanted.len(), 0);
            let mut end = 0;
            for range in ranges {
                prop_assert!(end == 0 || range.start > end, "apart and in order");
                end = range.end;
                let range = range.start as usize..range.end as usize;
                disk[range.clone()].copy_from_slice(&wanted[range]);
            }
            prop_assert!(disk == wanted);
        }

        #[test]
        fn a_plan_does_not_differ_from_itself(shapes in shapes(), bytes in vec(any::<u8>(), 9000)) {
            let (plan, _) = plan(&shapes, 0, &bytes);
            prop_assert_eq!(differences(&plan, &plan).unwrap(), vec![]);
        }
    }

    #[test]
    fn equal_bytes_of_other_runs_are_no_difference() {
        let bytes = [
            vec![1; BLOCK_BYTES],
            vec![0; BLOCK_BYTES],
            vec![1; BLOCK_BYTES],
        ]
        .concat();
        let (a, _) = plan(&[(0, false, 4096, 0)], 5, &bytes);
        let (b, disk) = plan(&[(0, false, 12_288, 0)], 3, &bytes);
        let ranges = differences(&a, &b).unwrap();
        assert_eq!(
            ranges,
            vec![Range {
                start: 8192,
                end: 12_288
            }]
        );
        assert_eq!(disk[8192], 1);
    }
}
