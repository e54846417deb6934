//! A registry whose disk is full.

use std::sync::Arc;

use shale_client::Deadlines;
use shale_files::{Fault, FaultyFiles, MemoryFiles};
use shale_model::{
    Catalog, ChunkId, Codec, MemoryIndex, PackContents, PackId, Sink, Trouble, pack_header,
};
use shale_repo::conformance::Sample;
use shale_repo::{Access, Repository};
use tokio::runtime::Runtime;

use crate::harness::{Running, client};

fn faulty() -> (FaultyFiles, Arc<Repository>) {
    let files = FaultyFiles::new(Arc::new(MemoryFiles::new()));
    Repository::init(&files).unwrap();
    let index = Arc::new(MemoryIndex::new());
    let opened = Repository::open(Arc::new(files.clone()), index, Access::Shared);
    (files, Arc::new(opened.unwrap()))
}

#[test]
fn a_full_disk_is_told_wherever_it_happens_and_room_heals() {
    let runtime = Runtime::new().unwrap();
    let spool = tempfile::tempdir().unwrap();
    let mut failed = 0;
    for after in 0.. {
        let (files, repository) = faulty();
        let server = Running::open(&runtime, repository);
        let remote = client(&runtime, server.address, Deadlines::default());
        let push = remote.push(spool.path()).unwrap();
        let sample = Sample::new("demo/full", 1);
        files.fail_at(Some((files.operations() + after, Fault::Full)));
        match sample.push(&push) {
            Ok(()) => break,
            Err(error) => assert_eq!(error.trouble, Trouble::NoSpace, "{after}: {error:?}"),
        }
        failed += 1;
        assert_eq!(remote.get_ref(&sample.name).unwrap(), None);
        files.fail_at(None);
        // Other packs may have been under way; that they failed is told once more.
        let healed = (0..4).any(|_| match sample.push(&push) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.trouble, Trouble::NoSpace, "{after}: {error:?}");
                false
            }
        });
        assert!(healed, "{after}: the push goes on failing");
        sample.check(&remote, &remote);
        server.kill(&runtime);
    }
    assert!(failed > 10, "{failed}");
}

/// The registry knows after the first piece; the client has most of it still to send.
#[test]
fn a_full_disk_in_the_middle_of_a_large_pack_is_told() {
    let runtime = Runtime::new().unwrap();
    let spool = tempfile::tempdir().unwrap();
    let (files, repository) = faulty();
    let server = Running::open(&runtime, repository);
    let remote = client(&runtime, server.address, Deadlines::default());
    let push = remote.push(spool.path()).unwrap();
    files.fail_at(Some((files.operations() + 4, Fault::Full)));
    let mut contents = PackContents::default();
    let mut pack = push.new_pack().unwrap();
    pack.write(&pack_header()).unwrap();
    let chunk = vec![1; 1 << 20];
    for _ in 0..32 {
        contents.push_frame(Codec::Plain, 1 << 20, &[(ChunkId::of(&chunk), 1 << 20)]);
        pack.write(&chunk).unwrap();
    }
    pack.write(&contents.encode_tail()).unwrap();
    pack.finish(PackId::from_bytes([1; 32]), contents).unwrap();
    let refused = push.put_layer(b"").unwrap_err();
    assert_eq!(refused.trouble, Trouble::NoSpace, "{refused:?}");
}
