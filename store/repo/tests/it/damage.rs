//! Bad bytes: in what lies in the repository, and in what arrives.

use std::sync::Arc;

use shale_files::{File, FilePath, Files, MemoryFiles, OpenMode};
use shale_model::{
    Attrs, Catalog, ChunkId, Chunker, Codec, Content, Entry, Extent, Kind, LayerDir, LayerEncoder,
    LayerId, MemoryIndex, Name, PackContents, PackId, RefName, SeamError, Sink, TemplateId,
    TreeLayer, TreePath, Trouble, pack_header,
};
use shale_repo::conformance::Sample;
use shale_repo::{Access, PackFault, Repository, paths};

use crate::{new_repository, open};

fn with_sample() -> (MemoryFiles, Arc<Repository>, Sample) {
    let files = MemoryFiles::new();
    let repository = new_repository(Arc::new(files.clone()));
    let sample = Sample::new("demo/base", 1);
    sample.push(&repository.push()).expect("a push");
    (files, repository, sample)
}

fn open_file(files: &MemoryFiles, path: &FilePath) -> Box<dyn File> {
    files.open(path, OpenMode::Write).expect("a file")
}

/// Flips a bit at `at`, counted from the end if negative.
fn flip(files: &MemoryFiles, path: &FilePath, at: i64) {
    let file = open_file(files, path);
    let at = match at < 0 {
        true => file.size().expect("a size") - at.unsigned_abs(),
        false => at.unsigned_abs(),
    };
    let mut byte = [0];
    file.read_at(at, &mut byte).expect("a byte");
    file.write_at(at, &[byte[0] ^ 4]).expect("a write");
}

#[track_caller]
fn integrity<T>(result: Result<T, SeamError>) {
    assert_eq!(
        result.err().map(|error| error.trouble),
        Some(Trouble::Integrity)
    );
}

#[test]
fn damaged_manifests_are_told_on_reading() {
    let (files, repository, sample) = with_sample();
    let (layer, template) = (LayerId::of(&sample.root), TemplateId::of(&sample.template));
    flip(&files, &paths::layer(layer), 40);
    integrity(repository.layer(layer));
    open_file(&files, &paths::template(template))
        .set_size(9)
        .unwrap();
    integrity(repository.template(template));
    // A huge file in place of a small one costs no memory.
    open_file(&files, &paths::template(template))
        .set_size(1 << 50)
        .unwrap();
    integrity(repository.template(template));
    // Nothing builds on what is damaged.
    let other: RefName = "demo/other".parse().unwrap();
    let push = repository.push();
    integrity(push.set_ref(&other, None, &sample.index));
    // The same push repairs it.
    push.put_layer(&sample.root).unwrap();
    push.put_template(&sample.template).unwrap();
    sample.check(&*repository, &*repository);
}

#[test]
fn a_damaged_frame_is_told_when_its_chunk_is_read_and_mended_by_a_push() {
    let (files, repository, sample) = with_sample();
    for pack in &sample.packs {
        flip(&files, &paths::pack(pack.id), 40);
    }
    let damaged = sample
        .chunk_ids()
        .into_iter()
        .map(|id| repository.chunk(id));
    let damaged: Vec<_> = damaged.filter_map(Result::err).collect();
    assert_eq!(damaged.len(), sample.packs.len());
    assert!(
        damaged
            .iter()
            .all(|error| error.trouble == Trouble::Integrity)
    );
    // A page that cannot be read keeps its layer away.
    let push = repository.push();
    integrity(push.put_layer(&sample.root));
    for pack in &sample.packs {
        pack.push(&push).expect("the pack again");
    }
    sample.check(&*repository, &*repository);
}

#[test]
fn packs_with_damaged_footers_are_reported_and_the_others_used() {
    let (files, repository, sample) = with_sample();
    drop(repository);
    flip(&files, &paths::pack(sample.packs[0].id), -100);
    open_file(&files, &paths::pack(sample.packs[1].id))
        .set_size(50)
        .unwrap();
    let opened = Repository::open(
        Arc::new(files.clone()),
        Arc::new(MemoryIndex::new()),
        Access::Exclusive,
    );
    let repository = opened.unwrap();
    let rebuilt = repository.rebuild_index().unwrap();
    for found in [repository.reconciled(), &rebuilt] {
        assert_eq!(found.added, [sample.packs[2].id]);
        let mut damaged: Vec<PackId> = found.damaged.iter().map(|(pack, _)| *pack).collect();
        damaged.sort();
        let mut expected = [sample.packs[0].id, sample.packs[1].id];
        expected.sort();
        assert_eq!(damaged, expected);
    }
}

#[test]
fn a_pack_that_is_gone_is_forgotten() {
    let (files, repository, sample) = with_sample();
    let index = Arc::new(MemoryIndex::new());
    drop(repository);
    drop(open(Arc::new(files.clone()), Arc::clone(&index)));
    files.remove(&paths::pack(sample.packs[1].id)).unwrap();
    let repository = open(Arc::new(files), index);
    assert_eq!(repository.reconciled().lost, [sample.packs[1].id]);
    let missing = repository.push().missing(&sample.chunk_ids()).unwrap();
    assert_eq!(missing.iter().filter(|missing| **missing).count(), 2);
}

#[test]
fn a_foreign_pack_is_checked_chunk_by_chunk() {
    let (_, repository, _) = with_sample();
    let push = repository.push();
    let sample = Sample::new("demo/foreign", 2);
    let receive = |bytes: &[u8], id| {
        let mut pack = push.receive_pack().unwrap();
        bytes
            .chunks(7000)
            .try_for_each(|piece| pack.write(piece))
            .unwrap();
        pack.finish(id)
    };
    // Honestly hashed, but its first chunk is not what the footer says.
    let pack = &sample.packs[0];
    let mut lying = pack.bytes.clone();
    lying[33] ^= 1;
    let id = id_of(&lying);
    integrity(receive(&pack.bytes, id));
    let error = receive(&lying, id).err().unwrap();
    assert_eq!(error.trouble, Trouble::Integrity);
    let cause = error.cause.unwrap();
    assert!(
        matches!(cause.downcast_ref(), Some(PackFault::Chunk { .. })),
        "{cause}"
    );
    assert!(repository.open_pack(id).is_err());
    integrity(receive(b"", pack.id));
    integrity(receive(b"", id_of(b"")));

    assert_eq!(receive(&pack.bytes, pack.id).unwrap(), pack.contents);
    assert!(repository.chunk(pack.contents.chunks()[0].id).is_ok());
}

fn id_of(bytes: &[u8]) -> PackId {
    use sha2::Digest;
    PackId::from_bytes(sha2::Sha256::digest(bytes).into())
}

#[test]
fn a_layer_that_is_wrong_about_the_length_of_a_chunk_is_refused() {
    let (_, repository, sample) = with_sample();
    let mut tree = TreeLayer::default();
    let id = sample.chunk_ids()[0];
    tree.dirs.push(LayerDir {
        path: TreePath::root(),
        entries: vec![Entry {
            name: Name::new(b"file").unwrap(),
            attrs: Attrs::default(),
            kind: Kind::File(Content::new(vec![Extent::Chunk { id, len: 5 }]).unwrap()),
        }],
    });
    let (pages, root) = LayerEncoder::encode(&tree, Chunker::FastCdc).unwrap();
    let push = repository.push();
    let (bytes, contents) = one_chunk_pack(&pages[0].bytes);
    let mut pack = push.new_pack().unwrap();
    pack.write(&bytes).unwrap();
    pack.finish(id_of(&bytes), contents).unwrap();
    let error = push.put_layer(&root.encode()).err().unwrap();
    assert_eq!(error.trouble, Trouble::Invalid);
    assert!(error.action.contains("length"), "{}", error.action);
}

fn one_chunk_pack(chunk: &[u8]) -> (Vec<u8>, PackContents) {
    let mut contents = PackContents::default();
    let len = chunk.len() as u32;
    contents.push_frame(Codec::Plain, len, &[(ChunkId::of(chunk), len)]);
    let header = pack_header();
    let bytes = [&header[..], chunk, &contents.encode_tail()].concat();
    (bytes, contents)
}
