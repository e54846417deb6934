//! The chunks that a push has met: a chunk is asked for and packed once.

use std::collections::HashSet;

use shale_model::ChunkId;

/// Most ids that are remembered, in 18 MB: as many as the table holds before it doubles. A larger push forgets them all
/// and begins anew: the sink is asked again for those that come again, and those of packs that are not closed yet are
/// packed twice, which costs room and nothing else. This many chunks are some 50 GB of large files.
const MAX_SEEN: usize = 7 << 17;

/// A bounded set of ids. It keeps the first 16 bytes of each: two chunks that share them would have to be
/// made on purpose (2^64 hashes), and the sink would then refuse the layer because a chunk is missing.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashSet<[u8; 16]>);

impl Seen {
    /// Adds `id`; whether it was not there.
    pub(crate) fn add(&mut self, id: &ChunkId) -> bool {
        let mut prefix = [0; 16];
        prefix.copy_from_slice(&id.as_bytes()[..16]);
        if self.0.len() >= MAX_SEEN {
            // A full set is not to be inserted into, not even what it has: it would make room for one more first.
            if self.0.contains(&prefix) {
                return false;
            }
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

    #[test]
    fn a_full_set_forgets_and_stays_as_large_as_it_is() {
        let mut seen = Seen::default();
        let id = |number: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            ChunkId::from_bytes(bytes)
        };
        for number in 0..MAX_SEEN as u64 {
            assert!(seen.add(&id(number)));
        }
        assert!(!seen.add(&id(0)));
        let room = seen.0.capacity();
        assert!(seen.add(&id(MAX_SEEN as u64)));
        assert!(seen.add(&id(0)));
        assert_eq!((seen.0.len(), seen.0.capacity()), (2, room));
        assert_eq!(room, MAX_SEEN);
    }
}
