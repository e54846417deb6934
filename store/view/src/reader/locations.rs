//! Where chunks lie, as far as it is known.

use std::collections::HashMap;

use shale_model::{ChunkId, Location};

use super::FrameKey;

/// Most locations kept in memory; about 150 bytes each. Cleared when full: they are a question away.
const MAX_LOCATIONS: usize = 400_000;

/// Where chunks lie, as far as anybody asked; a hint (I9).
#[derive(Debug, Default)]
pub(super) struct Locations {
    pub(super) by_id: HashMap<ChunkId, Location>,
    by_frame: HashMap<FrameKey, Vec<ChunkId>>,
}

impl Locations {
    pub(super) fn insert(&mut self, id: ChunkId, at: Location) {
        if self.by_id.len() >= MAX_LOCATIONS {
            *self = Self::default();
        }
        if self.by_id.insert(id, at) != Some(at) {
            let frame = (at.pack, at.frame.offset);
            self.by_frame.entry(frame).or_default().push(id);
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
