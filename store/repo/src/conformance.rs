//! What every place for pushes and mounts must do: the repository, and a registry over HTTP. Each check
//! panics with what it saw.

mod boot_sets;
mod sample;
mod shared;
mod wait;

pub use sample::Sample;
pub use wait::wait_for;

use shale_model::{
    BootSets, Catalog, ChunkId, Fetch, LayerId, MAX_MISSING_IDS, PackContents, PackId, RefName,
    SeamResult, Sink, TemplateId, TemplateIndex, Trouble,
};

/// One place, seen through its seams.
pub struct Store {
    /// A push into it.
    pub sink: Box<dyn Sink>,
    /// Its names and manifests.
    pub catalog: Box<dyn Catalog>,
    /// Its chunks.
    pub fetch: Box<dyn Fetch>,
    /// Its boot sets.
    pub boots: Box<dyn BootSets>,
}

/// Runs every check on stores that `make` makes, each on a fresh, empty one.
///
/// Futures of [`Fetch`] are polled on this thread ([`wait_for`]): a runtime that they need must be
/// entered, and run on other threads.
pub fn check_store(make: impl Fn() -> Store) {
    check_nothing_is_there(&make());
    check_what_is_pushed_is_read(&make());
    check_order(&make());
    check_compare_and_set(&make());
    check_bad_packs(&make());
    check_bad_manifests(&make());
    check_unfinished_pack(&make());
    check_threads(&make());
    check_limits(&make());
    boot_sets::check_boot_sets(&make());
}

#[track_caller]
fn fails<T>(result: SeamResult<T>, trouble: Trouble) {
    let found = result.err().map(|error| (error.trouble, error.action));
    assert!(
        matches!(&found, Some((t, _)) if *t == trouble),
        "{trouble:?}, not {found:?}"
    );
}

fn check_nothing_is_there(store: &Store) {
    let name: RefName = "demo/none".parse().expect("a name");
    assert_eq!(store.catalog.get_ref(&name).expect("an answer"), None);
    assert_eq!(store.catalog.list_refs("").expect("a list"), []);
    fails(store.catalog.layer(LayerId::of(b"none")), Trouble::NotFound);
    fails(
        store.catalog.template(TemplateId::of(b"none")),
        Trouble::NotFound,
    );
    let ids = [ChunkId::of(b"none")];
    assert_eq!(store.sink.missing(&ids).expect("an answer"), [true]);
    assert_eq!(
        wait_for(store.fetch.locate(&ids)).expect("an answer"),
        [None]
    );
    let read = wait_for(store.fetch.read(PackId::from_bytes([1; 32]), 0, 1));
    fails(read, Trouble::NotFound);
}

fn check_what_is_pushed_is_read(store: &Store) {
    let (one, two) = (Sample::new("demo/one", 1), Sample::new("demo/two", 2));
    one.push(&*store.sink).expect("a push");
    two.push(&*store.sink).expect("another push");
    for sample in [&one, &two] {
        sample.check(&*store.catalog, &*store.fetch);
        let missing = store.sink.missing(&sample.chunk_ids()).expect("an answer");
        assert!(missing.iter().all(|missing| !missing));
    }
    let asked = [ChunkId::of(b"none"), one.chunk_ids()[0]];
    assert_eq!(
        store.sink.missing(&asked).expect("an answer"),
        [true, false]
    );
    let listed = store.catalog.list_refs("demo").expect("a list");
    let names: Vec<_> = listed.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["demo/one:latest", "demo/two:latest"]);

    let (pack, bytes) = (one.packs[0].id, &one.packs[0].bytes);
    let read = |offset, len| wait_for(store.fetch.read(pack, offset, len));
    assert_eq!(read(0, bytes.len() as u64).expect("all of a pack"), *bytes);
    assert_eq!(read(5, 7).expect("a part of a pack"), bytes[5..12]);
    fails(read(5, bytes.len() as u64), Trouble::Invalid);
    fails(read(u64::MAX, 2), Trouble::Invalid);
}

/// Nothing is stored before what it depends on.
fn check_order(store: &Store) {
    let sample = Sample::new("demo/order", 3);
    let set = || store.sink.set_ref(&sample.name, None, &sample.index);
    fails(store.sink.put_layer(&sample.root), Trouble::Conflict);
    fails(store.sink.put_template(&sample.template), Trouble::Conflict);
    fails(set(), Trouble::Conflict);
    // The pages are in the last pack; without the others there is no content.
    sample.packs[2].push(&*store.sink).expect("a pack");
    fails(store.sink.put_layer(&sample.root), Trouble::Conflict);
    fails(
        store.catalog.layer(LayerId::of(&sample.root)),
        Trouble::NotFound,
    );
    sample.push(&*store.sink).expect("a whole push");
    sample.check(&*store.catalog, &*store.fetch);
}

fn check_compare_and_set(store: &Store) {
    let (one, two) = (Sample::new("demo/raced", 4), Sample::new("demo/raced", 5));
    one.push(&*store.sink).expect("a push");
    fails(two.push(&*store.sink), Trouble::Conflict);
    one.check(&*store.catalog, &*store.fetch);
    let set = |expected: Option<&TemplateIndex>, new| store.sink.set_ref(&one.name, expected, new);
    fails(set(Some(&two.index), &two.index), Trouble::Conflict);
    set(None, &one.index).expect("what is set already");
    set(Some(&two.index), &one.index).expect("what is set already");
    one.check(&*store.catalog, &*store.fetch);
    set(Some(&one.index), &two.index).expect("a change");
    fails(set(Some(&one.index), &one.index), Trouble::Conflict);
    two.check(&*store.catalog, &*store.fetch);
}

/// A pack that is not what it should be is refused, at the latest when a layer needs it.
fn check_bad_packs(store: &Store) {
    let sample = Sample::new("demo/bad", 6);
    let good = &sample.packs[0];
    let mut other = PackContents::default();
    other.push_frame(shale_model::Codec::Plain, 1, &[(ChunkId::of(b"x"), 1)]);
    let end = good.bytes.len() - 1;
    let wrong_id = PackId::from_bytes([7; 32]);
    let cases = [
        ("another id", &good.bytes[..], wrong_id, &good.contents),
        ("cut off", &good.bytes[..end], good.id, &good.contents),
        ("other contents", &good.bytes, good.id, &other),
        ("empty", &[], good.id, &good.contents),
    ];
    for (name, bytes, id, contents) in cases {
        let written = sample::push_pack(&*store.sink, bytes, id, contents.clone());
        let used = written.and_then(|()| store.sink.put_layer(&sample.root));
        assert!(used.is_err(), "{name}");
        let located = wait_for(store.fetch.locate(&sample.chunk_ids())).expect("an answer");
        assert!(located.iter().all(Option::is_none), "{name}");
    }
}

fn check_bad_manifests(store: &Store) {
    let sample = Sample::new("demo/bad", 7);
    for pack in &sample.packs {
        pack.push(&*store.sink).expect("a pack");
    }
    for at in 0..sample.root.len() {
        let mut root = sample.root.clone();
        root[at] ^= 1;
        assert!(store.sink.put_layer(&root).is_err(), "flip at {at}");
    }
    fails(store.sink.put_layer(b""), Trouble::Invalid);
    store.sink.put_layer(&sample.root).expect("the layer");
    let spaced = [&sample.template[..], b" "].concat();
    fails(store.sink.put_template(&spaced), Trouble::Invalid);
    fails(store.sink.put_template(b"{}"), Trouble::Invalid);
    sample.push(&*store.sink).expect("the same again, whole");
    sample.check(&*store.catalog, &*store.fetch);
}

fn check_unfinished_pack(store: &Store) {
    let sample = Sample::new("demo/unfinished", 8);
    let mut pack = store.sink.new_pack().expect("a pack");
    pack.write(&sample.packs[0].bytes).expect("its bytes");
    drop(pack);
    let missing = store.sink.missing(&sample.chunk_ids()).expect("an answer");
    assert!(missing.iter().all(|missing| *missing));
}

/// Several packs at once, and the same things by several threads.
fn check_threads(store: &Store) {
    let samples: Vec<_> = (0..4)
        .map(|number| Sample::new(&format!("demo/thread-{number}"), 9))
        .collect();
    std::thread::scope(|scope| {
        for sample in &samples {
            scope.spawn(|| {
                sample.push(&*store.sink).expect("a push");
                sample.check(&*store.catalog, &*store.fetch);
            });
        }
    });
}

fn check_limits(store: &Store) {
    let most = vec![ChunkId::of(b"none"); MAX_MISSING_IDS];
    let found = store.sink.missing(&most).expect("as many as are allowed");
    assert_eq!(found.len(), MAX_MISSING_IDS);
    let found = wait_for(store.fetch.locate(&most)).expect("as many as are allowed");
    assert_eq!(found.len(), MAX_MISSING_IDS);
    let more = vec![ChunkId::of(b"none"); MAX_MISSING_IDS + 1];
    fails(store.sink.missing(&more), Trouble::Invalid);
    fails(wait_for(store.fetch.locate(&more)), Trouble::Invalid);
}
