//! Packs as immutable objects with ranges.

use shale_wire::route;

use crate::harness::Running;

#[test]
fn a_pack_is_read_whole_and_in_ranges() {
    let running = Running::start();
    let sample = running.hold("demo/packs", 1);
    let (path, bytes) = (route::pack(sample.packs[0].id), &sample.packs[0].bytes);
    let size = bytes.len();
    let whole = running.get(&path, &[]);
    assert_eq!((whole.status, &whole.body), (200, bytes));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let cases = [
        ("bytes=0-0", 0..1),
        ("bytes=5-11", 5..12),
        ("bytes=100-", 100..size),
        ("bytes=-7", size - 7..size),
    ];
    for (range, expected) in cases {
        let part = running.get(&path, &[&format!("range: {range}")]);
        assert_eq!(part.status, 206, "{range}");
        let shown = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
        assert_eq!(part.header("content-range"), Some(&*shown));
        assert!(part.body == bytes[expected], "{range}");
    }
}

#[test]
fn a_pack_longer_than_a_piece_arrives_whole() {
    use shale_model::{Codec, PackContents, PackId, Sink, pack_header};
    let running = Running::start();
    let chunk = [1; 200_000];
    let mut contents = PackContents::default();
    let mut bytes = pack_header().to_vec();
    for _ in 0..10 {
        contents.push_frame(
            Codec::Plain,
            200_000,
            &[(shale_model::ChunkId::of(&chunk), 200_000)],
        );
        bytes.extend_from_slice(&chunk);
    }
    bytes.extend_from_slice(&contents.encode_tail());
    let id = PackId::from_bytes(sha2::Sha256::digest(&bytes).into());
    use sha2::Digest;
    let push = running.repository.push();
    let mut pack = push.new_pack().unwrap();
    pack.write(&bytes).unwrap();
    pack.finish(id, contents).unwrap();
    assert!(running.get(&route::pack(id), &[]).body == bytes);
    let part = running.get(&route::pack(id), &["range: bytes=100000-1500000"]);
    assert!(part.body == bytes[100_000..=1_500_000]);
}

#[test]
fn caches_may_keep_a_pack_and_ask_for_it_by_its_name() {
    let running = Running::start();
    let sample = running.hold("demo/packs", 1);
    let id = sample.packs[0].id;
    let path = route::pack(id);
    let etag = format!("\"{id}\"");
    let size = sample.packs[0].bytes.len().to_string();
    let head = running.send("HEAD", &path, &[], b"");
    assert_eq!((head.status, head.header("etag")), (200, Some(&*etag)));
    assert_eq!(head.header("content-length"), Some(&*size));
    let ranged = running.send("HEAD", &path, &["range: bytes=0-9"], b"");
    assert_eq!(ranged.status, 200, "ranges are of GET alone");
    let cached = running.get(&path, &[&format!("if-none-match: {etag}")]);
    assert_eq!((cached.status, cached.header("etag")), (304, Some(&*etag)));
    let range = "range: bytes=0-9";
    let same = running.get(&path, &[range, &format!("if-range: {etag}")]);
    assert_eq!(same.status, 206);
    let other = running.get(&path, &[range, "if-range: \"other\""]);
    assert_eq!((other.status, other.body.len().to_string()), (200, size));
}

#[test]
fn what_cannot_be_read_says_why() {
    let running = Running::start();
    let sample = running.hold("demo/packs", 1);
    let path = route::pack(sample.packs[0].id);
    let outside = running.get(&path, &["range: bytes=9999999-"]);
    assert_eq!(
        (outside.status, &*outside.problem()),
        (416, "range_not_satisfiable")
    );
    let size = format!("bytes */{}", sample.packs[0].bytes.len());
    assert_eq!(outside.header("content-range"), Some(&*size));
    let unknown = format!("/api/v1/packs/sha256:{}", "0".repeat(64));
    let unknown = running.get(&unknown, &[]);
    assert_eq!((unknown.status, &*unknown.problem()), (404, "not_found"));
    for wrong in [
        "/api/v1/packs/x",
        "/api/v1/packs/..%2f..%2fformat",
        "/api/v1/packs/%ff",
    ] {
        let wrong = running.get(wrong, &[]);
        assert_eq!((wrong.status, &*wrong.problem()), (400, "invalid"));
    }
}

#[test]
fn manifests_are_read_by_their_ids() {
    let running = Running::start();
    let sample = running.hold("demo/manifests", 1);
    let layer = shale_model::LayerId::of(&sample.root);
    let template = shale_model::TemplateId::of(&sample.template);
    let cases = [
        (route::layer(layer), layer.to_string(), &sample.root),
        (
            route::template(template),
            template.to_string(),
            &sample.template,
        ),
    ];
    for (path, id, bytes) in cases {
        let read = running.get(&path, &[]);
        let etag = format!("\"{id}\"");
        assert_eq!((read.status, &read.body), (200, bytes));
        assert_eq!(read.header("etag"), Some(&*etag));
        let cached = running.get(&path, &[&format!("if-none-match: {etag}")]);
        assert_eq!(cached.status, 304);
        let none = running.get(
            &path.replace(&id, &format!("blake3:{}", "0".repeat(64))),
            &[],
        );
        assert_eq!(none.problem(), "not_found");
    }
}
