//! The flow: what is sent, in which form, and what happens when something fails.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use shale_ingest::{DirSource, Progress, ProgressEvent, PushError, push_tree};
use shale_model::limits::{FRAME_TARGET_BYTES, MAX_CHUNK_BYTES, MAX_FRAME_BYTES};
use shale_model::*;

use crate::sink::{Fail, MemorySink};
use crate::trees::noise;

/// Many small files, and more bytes than the queues hold.
fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for dir in 0..20 {
        let dir = root.path().join(dir.to_string());
        fs::create_dir(&dir).unwrap();
        for file in 0..20 {
            let seed = dir.as_os_str().len() as u64 * 100 + file;
            fs::write(dir.join(file.to_string()), noise(seed, 700 + file as usize)).unwrap();
        }
    }
    for large in 0..9 {
        let path = root.path().join(format!("large{large}"));
        fs::write(path, noise(1_000_000 + large, 9_000_000)).unwrap();
    }
    root
}

fn push(
    root: &Path,
    sink: &MemorySink,
    progress: &dyn Progress,
) -> Result<shale_ingest::Pushed, PushError> {
    let mut source = DirSource::open(root).unwrap();
    push_tree(&mut source, sink, Chunker::FastCdc, progress)
}

#[test]
fn a_second_push_sends_nothing() {
    let root = tree();
    let sink = MemorySink::new();
    let first = push(root.path(), &sink, &()).unwrap();
    assert!(first.stats.packs > 1);
    let second = push(root.path(), &sink, &()).unwrap();
    assert_eq!(second.layer, first.layer);
    assert_eq!((second.stats.packs, second.stats.sent_chunks), (0, 0));
}

#[test]
fn the_same_push_makes_the_same_packs() {
    let root = tree();
    let packs = [(), ()].map(|()| {
        let sink = MemorySink::new();
        push(root.path(), &sink, &()).unwrap();
        sink.packs()
    });
    assert_eq!(packs[0], packs[1]);
}

#[test]
fn neighbours_share_frames_and_pages_come_last() {
    let root = tree();
    let sink = MemorySink::new();
    let pushed = push(root.path(), &sink, &()).unwrap();
    let packs = sink.packs();
    let frames: Vec<_> = packs
        .iter()
        .flat_map(|(_, contents)| contents.frames())
        .collect();
    let small = frames
        .iter()
        .filter(|f| (f.plain as usize) < FRAME_TARGET_BYTES)
        .count();
    // The last of the content and the last of the pages.
    assert!(small <= 2, "{small} of {}", frames.len());
    let most = FRAME_TARGET_BYTES + MAX_CHUNK_BYTES;
    assert!(
        frames
            .iter()
            .all(|f| f.plain as usize <= most.min(MAX_FRAME_BYTES))
    );
    let chunks: Vec<_> = packs
        .iter()
        .flat_map(|(_, contents)| contents.chunks())
        .collect();
    let pages: Vec<_> = pushed.root.pages.iter().map(|page| page.id).collect();
    let last: Vec<_> = chunks[chunks.len() - pages.len()..]
        .iter()
        .map(|c| c.id)
        .collect();
    assert_eq!(last, pages);
}

#[test]
fn an_empty_directory_is_a_layer_without_packs() {
    let root = tempfile::tempdir().unwrap();
    let sink = MemorySink::new();
    let pushed = push(root.path(), &sink, &()).unwrap();
    assert!(pushed.root.root.is_some() && pushed.root.pages.is_empty());
    assert_eq!(pushed.stats.packs, 0);
}

#[test]
fn a_failing_sink_ends_the_push_with_its_error() {
    let root = tree();
    for fail in [
        Fail::Missing,
        Fail::NewPack,
        Fail::Write,
        Fail::Finish,
        Fail::PutLayer,
    ] {
        let mut sink = MemorySink::new();
        sink.fail = fail;
        match push(root.path(), &sink, &()) {
            Err(PushError::Sink(error)) => {
                assert_eq!(error.trouble, Trouble::NoSpace);
                assert_eq!(error.action, format!("{fail:?}"));
            }
            other => panic!("{fail:?}: {other:?}"),
        }
    }
}

#[test]
fn a_failing_source_finishes_no_pack() {
    // The walk comes to the last name when most of the content is on its way.
    let root = tree();
    let sink = MemorySink::new();
    let gone = root.path().join("zz");
    fs::write(&gone, b"").unwrap();
    struct Remove(std::path::PathBuf);
    impl Progress for Remove {
        fn report(&self, event: ProgressEvent) {
            if let ProgressEvent::Read { bytes: 9_000_000 } = event {
                let _ = fs::remove_file(&self.0);
            }
        }
    }
    let error = push(root.path(), &sink, &Remove(gone))
        .map(drop)
        .expect_err("an error");
    assert!(matches!(error, PushError::Source(_)), "{error:?}");
    let finished: u64 = sink.packs().iter().map(|(_, c)| c.pack_bytes()).sum();
    // One full pack may be done; the rest is not.
    assert!(finished < 75_000_000, "{finished}");
    assert!(sink.packs().len() <= 1);
}

#[derive(Default)]
struct Sums(Mutex<[u64; 4]>);

impl Progress for Sums {
    fn report(&self, event: ProgressEvent) {
        let mut sums = self.0.lock().unwrap();
        match event {
            ProgressEvent::Read { bytes } => sums[0] += bytes,
            ProgressEvent::Entry => sums[1] += 1,
            ProgressEvent::Present { bytes, .. } => sums[2] += bytes,
            ProgressEvent::Sent { bytes } => sums[3] += bytes,
        }
    }
}

#[test]
fn progress_adds_up() {
    let root = tree();
    let (sink, sums) = (MemorySink::new(), Sums::default());
    let pushed = push(root.path(), &sink, &sums).unwrap();
    let [read, entries, present, sent] = *sums.0.lock().unwrap();
    let totals = pushed.root.totals;
    assert_eq!((read, entries), (totals.bytes, totals.entries));
    assert_eq!(read, pushed.stats.read_bytes);
    assert_eq!(sent, pushed.stats.pack_bytes);
    let pages: u64 = pushed
        .root
        .pages
        .iter()
        .map(|page| u64::from(page.len))
        .sum();
    assert_eq!(present + pushed.stats.sent_chunk_bytes, read + pages);
}
