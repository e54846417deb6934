//! The chunk index in memory, and what every chunk index must do.

use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock};

use crate::id::{ChunkId, PackId};
use crate::pack::{Codec, PackContents};
use crate::seam::{ChunkIndex, Location, SeamResult};

/// A [`ChunkIndex`] in memory: the twin of the one on disk, and the one of small repositories that
/// rebuild it whenever they are opened.
#[derive(Debug, Default)]
pub struct MemoryIndex(RwLock<Tables>);

#[derive(Debug, Default)]
struct Tables {
    chunks: HashMap<ChunkId, Location>,
    packs: BTreeSet<PackId>,
}

impl MemoryIndex {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    fn change(&self, change: impl FnOnce(&mut Tables)) -> SeamResult<()> {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn ask<T>(&self, answer: impl FnOnce(&Tables) -> T) -> SeamResult<T> {
        Ok(answer(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

impl ChunkIndex for MemoryIndex {
    fn get(&self, ids: &[ChunkId]) -> SeamResult<Vec<Option<Location>>> {
        self.ask(|tables| {
            ids.iter()
                .map(|id| tables.chunks.get(id).copied())
                .collect()
        })
    }

    fn add_pack(&self, pack: PackId, contents: &PackContents) -> SeamResult<()> {
        self.change(|tables| {
            if tables.packs.insert(pack) {
                tables.chunks.extend(locations_of(pack, contents));
            }
        })
    }

    fn remove_pack(&self, pack: PackId) -> SeamResult<()> {
        self.change(|tables| {
            if tables.packs.remove(&pack) {
                tables.chunks.retain(|_, location| location.pack != pack);
            }
        })
    }

    fn packs(&self) -> SeamResult<Vec<PackId>> {
        self.ask(|tables| tables.packs.iter().copied().collect())
    }

    fn clear(&self) -> SeamResult<()> {
        self.change(|tables| *tables = Tables::default())
    }
}

/// Where each chunk of a pack lies, in the order of its footer.
pub fn locations_of(
    pack: PackId,
    contents: &PackContents,
) -> impl Iterator<Item = (ChunkId, Location)> {
    contents.chunks().iter().filter_map(move |chunk| {
        let location = Location {
            pack,
            frame: *contents.frames().get(chunk.frame as usize)?,
            offset: chunk.offset,
            len: chunk.len,
        };
        Some((chunk.id, location))
    })
}

/// Checks that an empty `index` does what [`ChunkIndex`] says; panics with what it saw.
pub fn check_chunk_index(index: &dyn ChunkIndex) {
    check_what_is_added(index);
    check_a_chunk_in_two_packs(index);
    check_threads(index);
}

/// A pack, by name, of one frame for each list of chunks.
fn pack(name: u8, frames: &[&[&str]]) -> (PackId, PackContents) {
    let mut contents = PackContents::default();
    for chunks in frames {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|text| (ChunkId::of(text.as_bytes()), text.len() as u32))
            .collect();
        contents.push_frame(Codec::Zstd, 7, &chunks);
    }
    (PackId::from_bytes([name; 32]), contents)
}

fn where_is(index: &dyn ChunkIndex, text: &str) -> Option<Location> {
    index
        .get(&[ChunkId::of(text.as_bytes())])
        .expect("an answer")[0]
}

fn check_what_is_added(index: &dyn ChunkIndex) {
    let (id, contents) = pack(1, &[&["a", "bb"], &["ccc"]]);
    assert_eq!(where_is(index, "a"), None, "it begins empty");
    assert_eq!(index.packs().expect("packs"), []);
    for time in ["once", "twice"] {
        index.add_pack(id, &contents).expect(time);
        assert_eq!(index.packs().expect("packs"), [id], "{time}");
        for (chunk, location) in locations_of(id, &contents) {
            assert_eq!(index.get(&[chunk]).expect("an answer"), [Some(location)]);
        }
    }
    let asked = ["none", "ccc", "a", "none", "ccc"].map(|text| ChunkId::of(text.as_bytes()));
    let answer = index.get(&asked).expect("an answer");
    let found: Vec<_> = answer
        .iter()
        .map(|l| l.map(|l| (l.offset, l.len)))
        .collect();
    let (a, ccc) = (Some((0, 1)), Some((0, 3)));
    assert_eq!(found, [None, ccc, a, None, ccc], "in the order asked");
    assert_eq!(index.get(&[]).expect("an answer"), []);

    let none = PackId::from_bytes([99; 32]);
    index.remove_pack(none).expect("a pack that is not there");
    index.remove_pack(id).expect("a removal");
    assert_eq!(where_is(index, "ccc"), None);
    assert_eq!(index.packs().expect("packs"), []);
    index.add_pack(id, &contents).expect("the pack again");
    assert_eq!(where_is(index, "bb").map(|l| l.pack), Some(id));
    let (empty, nothing) = pack(2, &[]);
    index
        .add_pack(empty, &nothing)
        .expect("a pack without chunks");
    assert_eq!(index.packs().expect("packs").len(), 2);
    index.clear().expect("a clearing");
    assert_eq!(where_is(index, "bb"), None);
    assert_eq!(index.packs().expect("packs"), []);
}

/// What a rewrite of packs relies on: the new pack is added, then the old one removed.
fn check_a_chunk_in_two_packs(index: &dyn ChunkIndex) {
    let (old, old_contents) = pack(3, &[&["dead", "shared"]]);
    let (new, new_contents) = pack(4, &[&["shared", "fresh"]]);
    index.add_pack(old, &old_contents).expect("the old pack");
    index.add_pack(new, &new_contents).expect("the new pack");
    assert!(where_is(index, "shared").is_some());
    index.remove_pack(old).expect("a removal");
    assert_eq!(where_is(index, "dead"), None);
    for text in ["shared", "fresh"] {
        assert_eq!(where_is(index, text).map(|l| l.pack), Some(new), "{text}");
    }
    index.clear().expect("a clearing");
}

fn check_threads(index: &dyn ChunkIndex) {
    const THREADS: u8 = 4;
    std::thread::scope(|scope| {
        for name in 0..THREADS {
            scope.spawn(move || {
                let own = format!("of {name}");
                let (id, contents) = pack(name, &[&["common", &own]]);
                index.add_pack(id, &contents).expect("a pack");
                assert_eq!(where_is(index, &own).map(|l| l.pack), Some(id));
                assert!(where_is(index, "common").is_some());
            });
        }
    });
    assert_eq!(index.packs().expect("packs").len(), usize::from(THREADS));
    index.clear().expect("a clearing");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_in_memory_does_what_an_index_must() {
        check_chunk_index(&MemoryIndex::new());
    }
}
