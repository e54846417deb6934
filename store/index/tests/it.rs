//! The index on disk: like the one in memory, through reopening, damage and kills.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use shale_index::{IndexReader, OpenError, RocksIndex};
use shale_model::{
    ChunkId, ChunkIndex, Codec, MemoryIndex, PackContents, PackId, Trouble, check_chunk_index,
    locations_of,
};

fn open(path: &Path) -> RocksIndex {
    RocksIndex::open(path).expect("an index")
}

/// A pack of this number: `count` chunks, some of which the packs before it hold, too.
fn pack(number: u64, count: u64) -> (PackId, PackContents) {
    let mut contents = PackContents::default();
    for chunk in 0..count {
        let name = if chunk % 5 == 0 {
            chunk
        } else {
            number << 32 | chunk
        };
        let id = ChunkId::of(&name.to_le_bytes());
        contents.push_frame(Codec::Zstd, 100 + chunk as u32, &[(id, 1000), (id, 24)]);
    }
    (
        PackId::from_bytes(*ChunkId::of(&number.to_be_bytes()).as_bytes()),
        contents,
    )
}

#[test]
fn it_does_what_an_index_must() {
    let dir = tempfile::tempdir().unwrap();
    check_chunk_index(&open(dir.path()));
}

#[test]
fn what_a_large_push_added_is_not_read_from_a_log_again() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    let packs: Vec<_> = (0..8).map(|number| pack(number, 15_000)).collect();
    for (id, contents) in &packs {
        index.add_pack(*id, contents).unwrap();
    }
    drop(index);
    let logs = std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
    let logs = logs.filter(|entry| entry.path().extension().is_some_and(|end| end == "log"));
    let bytes: u64 = logs.map(|entry| entry.metadata().unwrap().len()).sum();
    assert!(bytes < 1 << 20, "{bytes} bytes are in the log");
    for (_, contents) in &packs {
        let ids: Vec<ChunkId> = contents.chunks().iter().map(|chunk| chunk.id).collect();
        let reader = IndexReader::open(dir.path()).unwrap();
        for part in ids.chunks(5_000) {
            assert!(reader.get(part).unwrap().iter().all(Option::is_some));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(u64),
    Remove(u64),
    Clear,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6u64).prop_map(Step::Add),
        3 => (0..6u64).prop_map(Step::Remove),
        1 => Just(Step::Clear),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn it_agrees_with_the_index_in_memory(steps in proptest::collection::vec(step(), 1..20)) {
        let dir = tempfile::tempdir().unwrap();
        let mut index = Some(open(dir.path()));
        let model = MemoryIndex::new();
        for step in steps {
            if let Step::Reopen = step {
                drop(index.take());
                index = Some(open(dir.path()));
            }
            let both: [&dyn ChunkIndex; 2] = [index.as_ref().unwrap(), &model];
            for index in both {
                match step {
                    Step::Add(n) => index.add_pack(pack(n, 12).0, &pack(n, 12).1).unwrap(),
                    Step::Remove(n) => index.remove_pack(pack(n, 12).0).unwrap(),
                    Step::Clear => index.clear().unwrap(),
                    Step::Reopen => {}
                }
            }
            let ids: Vec<ChunkId> = (0..7)
                .flat_map(|n| pack(n, 12).1.chunks().to_vec())
                .map(|chunk| chunk.id)
                .collect();
            let [real, twin] = both.map(|index| {
                let packs: BTreeSet<_> = index.packs().unwrap().into_iter().collect();
                (packs, index.get(&ids).unwrap())
            });
            prop_assert_eq!(real, twin);
        }
    }
}

#[test]
fn one_process_at_a_time_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    let second = RocksIndex::open(dir.path()).err().unwrap();
    assert!(matches!(second, OpenError::InUse { .. }), "{second:?}");
    assert!(matches!(
        RocksIndex::discard(dir.path()),
        Err(OpenError::InUse { .. })
    ));
    drop(index);
    open(dir.path());
}

#[test]
fn a_damaged_index_is_told_discarded_and_made_anew() {
    // Of each kind of file that every index has.
    for (name, keep) in [
        ("MANIFEST", 20),
        ("MANIFEST", 0),
        ("CURRENT", 3),
        (".sst", 100),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (id, contents) = pack(1, 50);
        for round in 0..2 {
            // What the first round logged is a table file after the second opening.
            let index = open(dir.path());
            index
                .add_pack(pack(round, 50).0, &pack(round, 50).1)
                .unwrap();
        }
        let mut hit = 0;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().contains(name) {
                let file = std::fs::File::options()
                    .write(true)
                    .open(entry.path())
                    .unwrap();
                file.set_len(keep).unwrap();
                hit += 1;
            }
        }
        assert!(hit > 0, "{name}");
        let error = RocksIndex::open(dir.path()).err();
        assert!(
            matches!(error, Some(OpenError::Damaged { .. })),
            "{name}: {error:?}"
        );
        RocksIndex::discard(dir.path()).unwrap();
        let index = open(dir.path());
        assert_eq!(index.packs().unwrap(), []);
        index.add_pack(id, &contents).unwrap();
    }
}

#[test]
fn damage_that_a_look_up_finds_is_told_at_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    let (id, contents) = pack(1, 500);
    open(dir.path()).add_pack(id, &contents).unwrap();
    // What was logged is a table file after the second opening.
    drop(open(dir.path()));
    let tables = std::fs::read_dir(dir.path()).unwrap();
    let tables = tables.map(|entry| entry.unwrap().path());
    let tables = tables.filter(|path| path.extension().is_some_and(|e| e == "sst"));
    let largest = tables.max_by_key(|path| path.metadata().unwrap().len());
    let largest = largest.unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    // In its first block, which holds entries.
    bytes[40] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    let ids: Vec<ChunkId> = contents.chunks().iter().map(|chunk| chunk.id).collect();
    let error = IndexReader::open(dir.path())
        .unwrap()
        .get(&ids)
        .unwrap_err();
    assert_eq!(error.trouble, Trouble::Integrity, "{error}");
    for opened in [
        RocksIndex::open(dir.path()).err(),
        IndexReader::open(dir.path()).err(),
    ] {
        assert!(
            matches!(opened, Some(OpenError::Damaged { .. })),
            "{opened:?}"
        );
    }
    RocksIndex::discard(dir.path()).unwrap();
    open(dir.path()).add_pack(id, &contents).unwrap();
    let found = IndexReader::open(dir.path()).unwrap().get(&ids).unwrap();
    assert!(found.iter().all(Option::is_some));
}

#[test]
fn an_index_of_a_later_version_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let mut options = rocksdb::Options::default();
    options.create_missing_column_families(true);
    let tables = ["default", "packs", "chunks"];
    let db = rocksdb::DB::open_cf(&options, dir.path(), tables).unwrap();
    db.put(b"version", 2u16.to_le_bytes()).unwrap();
    drop(db);
    assert!(matches!(
        RocksIndex::open(dir.path()),
        Err(OpenError::Newer { .. })
    ));
    drop(rocksdb::DB::open_cf(&options, dir.path(), [&tables[..], &["domains"]].concat()).unwrap());
    assert!(matches!(
        RocksIndex::open(dir.path()),
        Err(OpenError::Newer { .. })
    ));
}

#[test]
fn readers_see_what_is_added_and_removed_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    assert!(matches!(
        IndexReader::open(&path),
        Err(OpenError::Damaged { .. })
    ));
    let writer = open(&path);
    let (one, two) = (
        IndexReader::open(&path).unwrap(),
        IndexReader::open(&path).unwrap(),
    );
    for number in 0..40 {
        let (id, contents) = pack(number, 200);
        writer.add_pack(id, &contents).unwrap();
        let ids: Vec<ChunkId> = contents.chunks().iter().map(|chunk| chunk.id).collect();
        assert_eq!(one.get(&ids).unwrap(), writer.get(&ids).unwrap());
    }
    // The other comes late, and the writer has gone: what it left is read.
    drop(writer);
    let packs: BTreeSet<PackId> = two.packs().unwrap().into_iter().collect();
    assert_eq!(packs.len(), 40);
    let writer = open(&path);
    let (gone, contents) = pack(3, 200);
    writer.remove_pack(gone).unwrap();
    assert!(!two.packs().unwrap().contains(&gone));
    let ids: Vec<ChunkId> = contents.chunks().iter().map(|chunk| chunk.id).collect();
    assert_eq!(two.get(&ids).unwrap(), writer.get(&ids).unwrap());
    assert!(one.add_pack(gone, &contents).is_err());
    // Nothing but what RocksDB keeps lies there: readers write no log.
    let names = std::fs::read_dir(&path).unwrap();
    let logs = names.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("LOG")
    });
    assert!(logs.count() <= 3);
}

/// Chunks of each pack that the killed process adds.
const KILLED_CHUNKS: u64 = 300;

/// A file in the working directory of a process that will be killed. Where it is missing nobody would end the
/// process, and it does nothing.
const KILLABLE: &str = "killable";

/// Not a test: what [`what_was_added_survives_kill_9`] kills. Adds packs to the index in its working
/// directory, and says so after each.
#[test]
fn child_adds_packs() {
    if !Path::new(KILLABLE).exists() {
        return;
    }
    let index = open(Path::new("index"));
    let known = index.packs().unwrap().len() as u64;
    for number in known.. {
        let (id, contents) = pack(number, KILLED_CHUNKS);
        index.add_pack(id, &contents).unwrap();
        println!("added {number}");
    }
}

#[test]
fn what_was_added_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    std::fs::write(dir.path().join(KILLABLE), "").unwrap();
    let mut added = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_adds_packs", "--nocapture"])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = lines.map_while(Result::ok).filter_map(|line| {
            let number = line.rsplit_once("added ")?.1;
            number.parse::<u64>().ok()
        });
        let first = acknowledged.next();
        // From right after an answer into the middle of the next.
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        let last = acknowledged.last().or(first).expect("it added a pack");
        child.wait().unwrap();

        let index = open(&path);
        let packs: BTreeSet<PackId> = index.packs().unwrap().into_iter().collect();
        added = packs.len() as u64;
        assert!(
            added > last,
            "round {round}: {last} was added, {added} are there"
        );
        for number in 0..added {
            assert!(
                packs.contains(&pack(number, 0).0),
                "round {round}: pack {number}"
            );
        }
        let (newest, contents) = pack(added - 1, KILLED_CHUNKS);
        for (id, location) in locations_of(newest, &contents).skip(1).step_by(2) {
            assert_eq!(index.get(&[id]).unwrap(), [Some(location)], "round {round}");
        }
        let (_, next) = pack(added, KILLED_CHUNKS);
        let ids: Vec<_> = next.chunks().iter().map(|chunk| chunk.id).collect();
        let known = index.get(&ids).unwrap().into_iter().flatten();
        assert!(
            known
                .into_iter()
                .all(|location| location.pack != pack(added, 0).0)
        );
    }
    assert!(added >= 8);
}
