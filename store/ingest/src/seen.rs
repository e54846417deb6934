//! The chunks that a push has met: a chunk is asked for and packed once.

use std::collections::HashSet;

use shale_model::ChunkId;

/// Most ids that are remembered: about 70 MB. A larger push forgets them all and begins anew, and may
/// pack a chunk twice, which costs room and nothing else. This many chunks are some 200 GB of large files.
const MAX_SEEN: usize = 3_600_000;

/// A bounded set of ids. It keeps the first 16 bytes of each: two chunks that share them would have to be
/// made on purpose (2^64 hashes), and the sink would then refuse the layer because a chunk is missing.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashSet<[u8; 16]>);

impl Seen {
    /// Adds `id`; whether it was not there.
    pub(crate) fn add(&mut self, id: &ChunkId) -> bool {
        let mut prefix = [0; 16];
        prefix.copy_from_slice(&id.as_bytes()[..16]);
        if self.0.len() >= MAX_SEEN && !self.0.contains(&prefix) {
            self.0.clear();
        }
        self.0.insert(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once() {
        let mut seen = Seen::default();
        let (a, b) = (ChunkId::of(b"a"), ChunkId::of(b"b"));
        assert_eq!(
            [a, b, a, b].map(|id| seen.add(&id)),
            [true, true, false, false]
        );
    }
}
