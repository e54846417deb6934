//! Where chunks lie, as far as it is known.

use std::collections::{HashMap, HashSet};

use shale_model::{ChunkId, Location, PackContents, PackId};

use super::FrameKey;

/// Most locations kept in memory; about 150 bytes each. Cleared when full: they are a question away.
const MAX_LOCATIONS: usize = 400_000;

/// Where chunks lie, as far as anybody asked; a hint (I9).
#[derive(Debug, Default)]
pub(super) struct Locations {
    pub(super) by_id: HashMap<ChunkId, Location>,
    by_frame: HashMap<FrameKey, Vec<ChunkId>>,
    /// Packs of boot sets: a chunk in one is read from there, among what is read next to it.
    boot_sets: HashSet<PackId>,
}

impl Locations {
    /// Takes up where the chunks of a boot set lie in its pack.
    pub(super) fn take_boot_set(&mut self, pack: PackId, contents: &PackContents) {
        for chunk in contents.chunks() {
            let (offset, len) = (chunk.offset, chunk.len);
            // The footer was checked: its chunks lie in its frames.
            let Some(&frame) = contents.frames().get(chunk.frame as usize) else {
                continue;
            };
            let at = Location {
                pack,
                frame,
                offset,
                len,
            };
            self.put(chunk.id, at);
        }
        self.boot_sets.insert(pack);
    }

    /// Takes up an answer to the question where `id` lies.
    pub(super) fn insert(&mut self, id: ChunkId, at: Location) {
        let known = self.by_id.get(&id);
        if !known.is_some_and(|known| self.boot_sets.contains(&known.pack)) {
            self.put(id, at);
        }
    }

    fn put(&mut self, id: ChunkId, at: Location) {
        if self.by_id.len() >= MAX_LOCATIONS {
            *self = Self::default();
        }
        if self.by_id.insert(id, at) != Some(at) {
            let frame = (at.pack, at.frame.offset);
            self.by_frame.entry(frame).or_default().push(id);
        }
    }

    /// A pack cannot be had: the chunks that are thought to lie in it. Where they lie else is taken up from now on.
    pub(super) fn lost(&mut self, pack: PackId) -> Vec<ChunkId> {
        self.boot_sets.remove(&pack);
        let there = self.by_id.iter().filter(|(_, at)| at.pack == pack);
        there.map(|(id, _)| *id).collect()
    }

    /// These chunks do not lie in the frame of `at`.
    pub(super) fn forget(&mut self, ids: &[ChunkId], at: &Location) {
        for id in ids {
            let lies_there = |other: &Location| other.pack == at.pack && other.frame == at.frame;
            if self.by_id.get(id).is_some_and(lies_there) {
                self.by_id.remove(id);
            }
        }
    }

    /// The chunks that lie in the frame of `at`.
    pub(super) fn in_frame(&self, at: &Location) -> Vec<(ChunkId, Location)> {
        let ids = self.by_frame.get(&(at.pack, at.frame.offset));
        let known = ids
            .into_iter()
            .flatten()
            .filter_map(|id| Some((*id, *self.by_id.get(id)?)));
        known
            .filter(|(_, other)| other.pack == at.pack && other.frame == at.frame)
            .collect()
    }
}
