//! What a larger disk, and what another layer, leave where it is.

use std::collections::HashSet;

use shale_model::{Filesystem, Kind, PlanParts, RunSource, TreeLayer};
use tempfile::TempDir;

use crate::support::{LayerBuilder, PROFILES, Store, attrs, check, plan, write_disk, xattrs};

/// What each block of a disk holds, without zeros: a digest of chunks and offsets, or of bytes.
fn blocks(parts: &PlanParts) -> HashSet<(u64, blake3::Hash)> {
    let mut chunks = parts.chunks.iter();
    let mut found = HashSet::new();
    let mut chunk_end = 0;
    let mut chunk = None;
    let mut runs = parts.runs.clone();
    runs.sort_by_key(|run| match run.source {
        RunSource::Synthesised(at) => (0, at),
        RunSource::Content(at) => (1, at),
    });
    for run in runs {
        for index in 0..run.bytes.div_ceil(4096) {
            let number = u64::from(run.block) + index;
            let len = (run.bytes - index * 4096).min(4096);
            let hash = match run.source {
                RunSource::Synthesised(at) => {
                    let from = (at + index * 4096) as usize;
                    blake3::hash(&parts.synthesised[from..from + len as usize])
                }
                RunSource::Content(at) => {
                    let at = at + index * 4096;
                    while at >= chunk_end {
                        chunk = chunks.next();
                        chunk_end += u64::from(chunk.unwrap().1);
                    }
                    blake3::hash(format!("{chunk:?} {len} {}", chunk_end - at).as_bytes())
                }
            };
            found.insert((number, hash));
        }
    }
    found
}

fn base(store: &mut Store) -> TreeLayer {
    let mut layer = LayerBuilder::default();
    let mut acl = attrs(0o755);
    acl.xattrs = xattrs(&[(b"user.large", &[1; 500])]);
    layer
        .dir("usr")
        .dir("usr/doc")
        .add(b"usr/acl", Kind::Directory, acl.clone());
    for at in 0..3000u32 {
        let file = store.file(&at.to_le_bytes().repeat(1 + at as usize % 3000));
        let attrs = if at % 100 == 0 {
            acl.clone()
        } else {
            attrs(0o644)
        };
        layer.add(format!("usr/doc/{at}").as_bytes(), file, attrs);
    }
    layer.build()
}

/// A layer that touches a bit of everything.
fn update(store: &mut Store, number: usize) -> TreeLayer {
    let mut layer = LayerBuilder::default();
    let file = store.file(format!("{number}").repeat(5000).as_bytes());
    let mut again = attrs(0o700);
    again.xattrs = xattrs(&[(b"user.other", &[2; 700])]);
    layer
        .add(
            format!("usr/doc/new-{number}").as_bytes(),
            file.clone(),
            attrs(0o644),
        )
        .add(
            format!("usr/doc/{}", number * 7).as_bytes(),
            file,
            attrs(0o600),
        )
        .add(
            format!("usr/doc/{}", number * 11 + 1).as_bytes(),
            Kind::Whiteout,
            attrs(0),
        )
        .add(b"usr/acl", Kind::Directory, again)
        .dir(&format!("opt-{number}"));
    layer.build()
}

#[test]
fn a_larger_disk_changes_superblocks_descriptors_and_the_last_group() {
    let mut store = Store::default();
    let layer = base(&mut store);
    for filesystem in PROFILES {
        let sizes = [(1u64 << 30) + (60 << 20), 3 << 30, 20 << 30, 300 << 30];
        let disks = sizes.map(|bytes| plan(std::slice::from_ref(&layer), filesystem, bytes).1);
        for pair in disks.windows(2) {
            assert_eq!(pair[0].chunks, pair[1].chunks);
            let (small, large) = (blocks(&pair[0]), blocks(&pair[1]));
            let end = pair[0].disk_bytes / 4096;
            // In the smaller disk's groups: a superblock, descriptors, and the bitmaps of its last group.
            let last = (end - 1) / 32_768 * 32_768;
            let changed = small
                .symmetric_difference(&large)
                .map(|(number, _)| *number);
            for number in changed.filter(|number| *number < end) {
                assert!(number % 32_768 <= 1 || number >= last, "block {number}");
            }
        }
    }
}

#[test]
fn another_layer_moves_nothing_of_those_below() {
    let mut store = Store::default();
    let mut layers = vec![base(&mut store)];
    layers.extend((1..8).map(|number| update(&mut store, number)));
    let temp = TempDir::new().unwrap();
    let disk = temp.path().join("disk");
    let mut before: Option<HashSet<_>> = None;
    for count in 1..=layers.len() {
        let (_, parts) = plan(&layers[..count], Filesystem::Ext4V1, 4 << 30);
        write_disk(&parts, &store, &disk);
        check(&disk);
        let now = blocks(&parts);
        if let Some(before) = before {
            let changed: HashSet<u64> = before.difference(&now).map(|(at, _)| *at).collect();
            // 30 were seen: the leaves of the directory of 3000 names, which share its names anew,
            // superblocks, descriptors, bitmaps, inodes, and the content that was removed.
            assert!(changed.len() <= 40, "{count}: {}", changed.len());
            let kept = before.intersection(&now).count();
            assert!(kept > 3000, "{kept}");
        }
        before = Some(now);
    }
}

/// Without the layers above, every file of the lower ones lies where it lies with them.
#[test]
fn content_of_lower_layers_stays_where_it_is() {
    let mut store = Store::default();
    let mut layers = vec![base(&mut store)];
    layers.extend((1..8).map(|number| update(&mut store, number)));
    let places = |count: usize| {
        let (_, parts) = plan(&layers[..count], Filesystem::Ext4V1, 4 << 30);
        let content = parts.runs.iter().filter_map(|run| match run.source {
            RunSource::Content(_) => Some(run.block),
            RunSource::Synthesised(_) => None,
        });
        content.collect::<HashSet<u32>>()
    };
    let all = places(layers.len());
    for count in 1..layers.len() {
        let some = places(count);
        // Each layer above replaces and removes a file of those below.
        let gone = some.difference(&all).count();
        assert!(gone <= 3 * (layers.len() - count), "{count}: {gone}");
    }
}
