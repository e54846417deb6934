//! The merge of one file by its records, from bytes to bytes.

use shale_model::{ChunkId, Content, Extent, Kind, LayerId, limits::MAX_CHUNK_BYTES};

use super::ids::{GROUP_IDS, IdKind, PASSWD_IDS};
use super::layer::{Compared, Job, group, passwd};
use super::loader_cache::LoaderCache;
use super::records::{self, Malformed, Sides};
use super::rules::{Format, How, OnClash};
use super::state::{State, What, same};
use super::sub_ids::part_ranges;
use super::{ChunkBytes, MergeError, MergeNote};

/// Merges a file that a rule names. `false` if one side has something other than a regular file there, so
/// that there is nothing to merge by record.
pub(super) fn unite_file(
    job: &mut Job<'_, '_>,
    compared: &Compared<'_>,
    how: How,
) -> Result<bool, MergeError> {
    let content = |what: Option<What<'_>>| what.and_then(|what| what.content().cloned());
    let (base, ours) = (compared.base_what(), compared.our_what());
    let (Some(theirs), Some(ours_now)) = (content(compared.theirs), content(ours)) else {
        return Ok(false);
    };
    let base_then = content(base);
    if base.is_some() && base_then.is_none() {
        return Ok(false);
    }
    let columns: &[(usize, IdKind)] = match compared.path {
        path if *path == passwd() => PASSWD_IDS,
        path if *path == group() => GROUP_IDS,
        _ => &[],
    };
    let remapped = !columns.is_empty() && !job.map.is_empty();
    if !remapped && (same(ours, base, job.map) || Some(&theirs) == Some(&ours_now)) {
        return Ok(true);
    }
    let layer_of = |seen: Option<super::state::Seen<'_>>| seen.map_or(job.id, |seen| seen.layer);
    let layers = Sides {
        base: layer_of(compared.base),
        ours: layer_of(compared.ours),
        theirs: job.id,
    };
    let path = compared.path;
    let read =
        |state: &State<'_>, content: &Content, layer| state.read(content, job.bytes, (path, layer));
    let base_then = base_then.unwrap_or_default();
    let original = read(job.base, &theirs, layers.theirs)?;
    let mut files = Sides {
        base: read(job.base, &base_then, layers.base)?,
        ours: read(job.ours, &ours_now, layers.ours)?,
        theirs: original.clone(),
    };
    if remapped {
        files.base = job.map.rewrite(&files.base, columns);
        files.theirs = job.map.rewrite(&files.theirs, columns);
    }
    let merged = if files.base == files.ours || files.ours == files.theirs {
        files.theirs.clone()
    } else if files.base == files.theirs {
        files.ours.clone()
    } else {
        unite_bytes(job, compared, how, (&files, &layers))?
    };
    finish(job, compared, merged, (&original, &files.ours, ours_now));
    Ok(true)
}

/// Puts the merged bytes in place of the layer's, unless they are the same.
fn finish(
    job: &mut Job<'_, '_>,
    compared: &Compared<'_>,
    merged: Vec<u8>,
    (theirs, ours, our_content): (&[u8], &[u8], Content),
) {
    let attrs = job.merged_attrs(compared);
    let unchanged = compared.theirs.is_some_and(|what| *what.attrs == attrs);
    if merged == theirs && unchanged {
        return;
    }
    let content = if merged == ours {
        our_content
    } else {
        synthesise(&merged, &mut job.over.synthetic)
    };
    job.put_over(compared, attrs, Kind::File(content));
    let (layer, path) = (job.id, compared.path.clone());
    job.findings.note(MergeNote::United { layer, path });
}

/// Cuts bytes into chunks.
pub(crate) fn synthesise(bytes: &[u8], chunks: &mut ChunkBytes) -> Content {
    let extent = |chunk: &[u8]| {
        let id = ChunkId::of(chunk);
        chunks.insert(id, chunk.to_vec());
        let len = chunk.len() as u32;
        Extent::Chunk { id, len }
    };
    let extents = bytes.chunks(MAX_CHUNK_BYTES).map(extent).collect();
    // The chunks are neither empty nor too large, and there are no holes.
    Content::new(extents).unwrap_or_default()
}

fn unite_bytes(
    job: &mut Job<'_, '_>,
    compared: &Compared<'_>,
    how: How,
    (files, layers): (&Sides<Vec<u8>>, &Sides<LayerId>),
) -> Result<Vec<u8>, MergeError> {
    let malformed = |layer: &LayerId, fault: Malformed| MergeError::Malformed {
        path: compared.path.clone(),
        layer: *layer,
        line: fault.line,
        problem: fault.problem,
    };
    let (format, on_clash) = match how {
        How::Records(format, on_clash) => (format, on_clash),
        How::LoaderCache => {
            let parse = |file, layer: &LayerId| {
                let whole_file = |problem| malformed(layer, Malformed { line: 0, problem });
                LoaderCache::parse(file).map_err(whole_file)
            };
            let theirs = parse(&files.theirs, &layers.theirs)?;
            let base = if files.base.is_empty() {
                theirs.without_libraries()
            } else {
                parse(&files.base, &layers.base)?
            };
            let ours = parse(&files.ours, &layers.ours)?;
            let sides = Sides { base, ours, theirs };
            return Ok(LoaderCache::unite(sides).write());
        }
        How::LastWins(_) => return Ok(files.theirs.clone()),
    };
    let parse =
        |file, layer| records::parse(&format, file).map_err(|fault| malformed(layer, fault));
    let mut sides = Sides {
        base: parse(&files.base, &layers.base)?,
        ours: parse(&files.ours, &layers.ours)?,
        theirs: parse(&files.theirs, &layers.theirs)?,
    };
    if matches!(format, Format::SubIds) {
        let (layer, path) = (job.id, compared.path);
        let moved = part_ranges(&mut sides).map_err(|fault| match fault {
            Some(fault) => malformed(&layer, fault),
            None => MergeError::NoFreeId { layer },
        })?;
        for range in moved {
            job.findings.note(MergeNote::MovedRange {
                layer,
                path: path.clone(),
                name: range.name,
                from: range.from,
                to: range.to,
            });
        }
    }
    let united = records::unite(&format, sides);
    for key in &united.clashes {
        let record = String::from_utf8_lossy(key).into_owned();
        match on_clash {
            OnClash::Conflict => job.conflict(compared, Some(record)),
            OnClash::LastWins => job.findings.note(MergeNote::LastWon {
                layer: job.id,
                path: compared.path.clone(),
                record: Some(record),
                reason: "a note of an installer, which can be set again",
            }),
        }
    }
    Ok(records::write(&format, &united.records))
}
