//! One test for each limit. Each shows that the limit holds, and that what is within it passes.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shale_files::MemoryFiles;
use shale_model::{ChunkId, TemplateId};
use shale_registry::limits::{MAX_HEADER_BYTES, MAX_HEADERS};
use shale_registry::{Certificate, Encryption};
use shale_wire::limits::{
    MAX_IDS, MAX_LAYER_BODY_BYTES, MAX_PACK_BODY_BYTES, MAX_TEMPLATE_BODY_BYTES,
};
use shale_wire::{encode_ids, route};

use crate::harness::{
    HoldingIndex, Running, read_answer, repository, repository_on, write_request,
};

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn bytes_of_a_body_that_is_announced() {
    let running = Running::start();
    let sample = running.hold("demo/held", 1);
    let path = shale_wire::route::reference(&sample.name);
    let body = vec![b' '; MAX_TEMPLATE_BODY_BYTES + 1];
    let put = |body: &[u8]| running.send("PUT", &path, &["if-none-match: *"], body);
    let refused = put(&body);
    assert_eq!((refused.status, &*refused.problem()), (413, "too_large"));
    assert_eq!(put(&body[1..]).problem(), "invalid");
}

#[test]
fn bytes_of_a_pack_are_refused_by_their_announcement() {
    let running = Running::start();
    let push = running.open_push();
    let path = format!("{push}/packs/sha256:{}", "0".repeat(64));
    let mut stream = running.connect();
    let length = format!("content-length: {}", MAX_PACK_BODY_BYTES + 1);
    write_request(&mut stream, ("PUT", &path), &[&length], b"");
    assert_eq!(read_answer(&mut stream, "PUT").problem(), "too_large");
}

#[test]
fn bytes_of_a_body_that_is_not_announced() {
    let running = Running::start();
    let sample = running.hold("demo/held", 1);
    let path = shale_wire::route::reference(&sample.name);
    let mut stream = running.connect();
    let headers = ["if-none-match: *", "transfer-encoding: chunked"];
    write_request(&mut stream, ("PUT", &path), &headers, b"");
    let piece = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
    for _ in 0..17 {
        let _ = stream.write_all(&piece);
    }
    assert_eq!(read_answer(&mut stream, "PUT").problem(), "too_large");
}

#[test]
fn bytes_of_a_pack_that_is_not_announced() {
    let sample = shale_repo::conformance::Sample::new("demo/long", 1);
    let pack = &sample.packs[0];
    let put = |limit: usize| {
        let running = Running::with(|settings| {
            settings.limits.connection.pack_bytes = limit as u64;
        });
        let path = format!("{}/packs/{}", running.open_push(), pack.id);
        let mut stream = running.connect();
        let headers = ["transfer-encoding: chunked"];
        write_request(&mut stream, ("PUT", &path), &headers, b"");
        let length = format!("{:x}\r\n", pack.bytes.len());
        let body = [length.as_bytes(), &pack.bytes, b"\r\n0\r\n\r\n"].concat();
        stream.write_all(&body).unwrap();
        let answer = read_answer(&mut stream, "PUT");
        assert_eq!(
            running.repository.open_pack(pack.id).is_ok(),
            answer.status == 204
        );
        answer
    };
    assert_eq!(put(pack.bytes.len()).status, 204);
    assert_eq!(put(pack.bytes.len() - 1).problem(), "too_large");
}

#[test]
fn bytes_of_a_layer_root() {
    let running = Running::start();
    let layer = format!("{}/layers/blake3:{}", running.open_push(), "0".repeat(64));
    let most = vec![0; MAX_LAYER_BODY_BYTES];
    let whole = running.send("PUT", &layer, &[], &most);
    assert_eq!(whole.problem(), "integrity", "all of it was read");
    let mut stream = running.connect();
    let length = format!("content-length: {}", MAX_LAYER_BODY_BYTES + 1);
    write_request(&mut stream, ("PUT", &layer), &[&length], b"");
    assert_eq!(read_answer(&mut stream, "PUT").problem(), "too_large");
}

#[test]
fn ids_of_a_request() {
    let running = Running::start();
    let push = running.open_push();
    let ids = encode_ids(&vec![ChunkId::of(b"none"); MAX_IDS + 1]);
    for path in [&*format!("{push}/missing"), "/api/v1/chunks/locate"] {
        let most = running.send("POST", path, &[], &ids[32..]);
        assert_eq!(most.status, 200, "{path}");
        let refused = running.send("POST", path, &[], &ids);
        assert_eq!((refused.status, &*refused.problem()), (413, "too_large"));
        let refused = running.send("POST", path, &[], &ids[..33]);
        assert_eq!(refused.problem(), "invalid");
    }
}

#[test]
fn ranges_of_a_request() {
    let running = Running::start();
    let sample = running.hold("demo/held", 1);
    let path = shale_wire::route::pack(sample.packs[0].id);
    let many = running.get(&path, &["range: bytes=0-1,5-6"]);
    assert_eq!(
        (many.status, many.body.len()),
        (200, sample.packs[0].bytes.len())
    );
    assert_eq!(running.get(&path, &["range: bytes=0-1"]).body.len(), 2);
}

#[test]
fn bytes_of_headers() {
    let running = Running::start();
    let long = |bytes: usize| {
        let header = format!("x-long: {}", "x".repeat(bytes));
        running.get("/healthz", &[&header]).status
    };
    assert_eq!(long(MAX_HEADER_BYTES - 200), 200);
    assert_eq!(long(MAX_HEADER_BYTES), 431);
}

#[test]
fn number_of_headers() {
    let running = Running::start();
    // `host` is one too.
    assert_eq!(
        running
            .get("/healthz", &vec!["x: y"; MAX_HEADERS - 1])
            .status,
        200
    );
    assert_eq!(
        running.get("/healthz", &vec!["x: y"; MAX_HEADERS]).status,
        431
    );
}

#[test]
fn time_of_headers() {
    let running = Running::with(|settings| settings.limits.connection.header_time = SHORT);
    let begun = Instant::now();
    let mut stream = running.connect();
    stream.write_all(b"GET /healthz HT").unwrap();
    // Whatever it says, it ends the connection.
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(begun.elapsed() >= SHORT && begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn time_of_a_handshake() {
    let certificate = Certificate::self_signed(&MemoryFiles::new(), vec!["localhost".into()]);
    let encryption = Encryption::Tls(certificate.unwrap());
    let running = Running::over(repository(), encryption, |settings| {
        settings.limits.connection.header_time = SHORT;
    });
    let begun = Instant::now();
    let mut stream = running.connect();
    // The first bytes of a handshake: a record that says it is longer.
    stream.write_all(&[22, 3, 1, 2, 0]).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(begun.elapsed() >= SHORT && begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn time_between_requests() {
    let running = Running::with(|settings| settings.limits.connection.header_time = SHORT);
    let mut stream = running.connect();
    write_request(&mut stream, ("GET", "/healthz"), &[], b"");
    assert_eq!(read_answer(&mut stream, "GET").status, 200);
    let begun = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn time_without_a_byte_of_a_body() {
    let running = Running::with(|settings| settings.limits.connection.body_idle_time = SHORT);
    let mut stream = running.connect();
    write_request(
        &mut stream,
        ("POST", "/api/v1/chunks/locate"),
        &["content-length: 32"],
        b"",
    );
    stream.write_all(b"half").unwrap();
    let refused = read_answer(&mut stream, "POST");
    assert_eq!((refused.status, &*refused.problem()), (408, "too_slow"));
}

#[test]
fn time_of_a_whole_body() {
    let running = Running::with(|settings| {
        settings.limits.connection.body_time = SHORT;
        settings.limits.connection.pack_time = SHORT;
    });
    let push = running.open_push();
    let pack = format!("{push}/packs/sha256:{}", "0".repeat(64));
    for (method, path) in [("POST", "/api/v1/chunks/locate"), ("PUT", &*pack)] {
        let mut stream = running.connect();
        write_request(&mut stream, (method, path), &["content-length: 320"], b"");
        for _ in 0..20 {
            // A byte now and then keeps no connection.
            let _ = stream.write_all(b"x");
            std::thread::sleep(SHORT / 10);
        }
        assert_eq!(
            read_answer(&mut stream, method).problem(),
            "too_slow",
            "{path}"
        );
    }
}

#[test]
fn time_of_a_client_that_takes_nothing() {
    use sha2::Digest;
    use shale_model::{Codec, PackContents, PackId, Sink, pack_header};
    let running = Running::with(|settings| settings.limits.connection.write_stall_time = SHORT);
    // Larger than all socket buffers.
    let chunk = vec![3; 1 << 20];
    let mut contents = PackContents::default();
    let mut bytes = pack_header().to_vec();
    for _ in 0..32 {
        contents.push_frame(Codec::Plain, 1 << 20, &[(ChunkId::of(&chunk), 1 << 20)]);
        bytes.extend_from_slice(&chunk);
    }
    bytes.extend_from_slice(&contents.encode_tail());
    let id = PackId::from_bytes(sha2::Sha256::digest(&bytes).into());
    let push = running.repository.push();
    let mut pack = push.new_pack().unwrap();
    pack.write(&bytes).unwrap();
    pack.finish(id, contents).unwrap();
    let mut stream = running.connect();
    write_request(&mut stream, ("GET", &shale_wire::route::pack(id)), &[], b"");
    std::thread::sleep(5 * SHORT);
    let mut taken = Vec::new();
    let _ = stream.read_to_end(&mut taken);
    assert!(taken.len() < bytes.len(), "{} bytes", taken.len());
}

#[test]
fn connections() {
    let running = Running::with(|settings| {
        settings.limits.connection.connections = 2;
    });
    let ask = |stream: &mut std::net::TcpStream| {
        write_request(stream, ("GET", "/healthz"), &[], b"");
    };
    let (mut one, mut two, mut three) = (running.connect(), running.connect(), running.connect());
    for stream in [&mut one, &mut two] {
        ask(stream);
        assert_eq!(read_answer(stream, "GET").status, 200);
    }
    ask(&mut three);
    three.set_read_timeout(Some(SHORT)).unwrap();
    assert!(
        three.read(&mut [0]).is_err(),
        "a third connection was served"
    );
    drop(one);
    three
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(read_answer(&mut three, "GET").status, 200);
}

#[test]
fn packs_received_at_once() {
    let running = Running::with(|settings| {
        settings.limits.work.uploads = 1;
        settings.limits.work.wait = SHORT;
    });
    let push = running.open_push();
    let sample = shale_repo::conformance::Sample::new("demo/one", 1);
    let pack = &sample.packs[0];
    let path = format!("{push}/packs/{}", pack.id);
    let mut first = running.connect();
    let length = format!("content-length: {}", pack.bytes.len());
    write_request(&mut first, ("PUT", &path), &[&length], b"");
    first.write_all(&pack.bytes[..10]).unwrap();
    std::thread::sleep(SHORT);
    let busy = running.send("PUT", &path, &[], &pack.bytes);
    assert_eq!((busy.status, &*busy.problem()), (503, "unavailable"));
    assert_eq!(busy.header("retry-after"), Some("1"));
    first.write_all(&pack.bytes[10..]).unwrap();
    assert_eq!(read_answer(&mut first, "PUT").status, 204);
}

/// Asks where a chunk lies, and does not wait for the answer.
fn ask(running: &Running) -> std::net::TcpStream {
    let mut stream = running.connect();
    let ids = encode_ids(&[ChunkId::of(b"none")]);
    write_request(&mut stream, ("POST", "/api/v1/chunks/locate"), &[], &ids);
    stream
}

#[track_caller]
fn assert_busy(answer: &crate::harness::Answer) {
    assert_eq!((answer.status, &*answer.problem()), (503, "unavailable"));
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[test]
fn work_at_once() {
    let index = HoldingIndex::new();
    let repository = repository_on(Arc::new(MemoryFiles::new()), index.clone());
    let running = Running::over(repository, Encryption::None, |settings| {
        settings.limits.work.work = 1;
        settings.limits.work.wait = SHORT;
    });
    index.hold_the_next();
    let mut first = ask(&running);
    index.wait_until_held();
    assert_busy(&running.get("/api/v1/refs", &[]));
    assert_eq!(running.get("/readyz", &[]).status, 503);
    assert_eq!(running.get("/healthz", &[]).status, 200, "it lives");
    index.let_go();
    assert_eq!(read_answer(&mut first, "POST").status, 200);
    assert_eq!(running.get("/api/v1/refs", &[]).status, 200);
}

#[test]
fn boot_sets_made_at_once() {
    let index = HoldingIndex::new();
    let repository = repository_on(Arc::new(MemoryFiles::new()), index.clone());
    let running = Running::over(repository, Encryption::None, |settings| {
        settings.limits.work.boot_sets = 1;
        settings.limits.work.wait = SHORT;
    });
    let sample = running.hold("demo/booted", 1);
    let path = route::traces(TemplateId::of(&sample.template));
    let trace = encode_ids(&sample.chunk_ids()[..2]);
    index.hold_the_next();
    let mut first = running.connect();
    write_request(&mut first, ("POST", &path), &[], &trace);
    index.wait_until_held();
    assert_busy(&running.send("POST", &path, &[], &trace));
    assert_eq!(
        running.get("/api/v1/refs", &[]).status,
        200,
        "readers go on"
    );
    index.let_go();
    assert_eq!(read_answer(&mut first, "POST").status, 204);
    assert_eq!(running.send("POST", &path, &[], &trace).status, 204);
}

#[test]
fn packs_verified_at_once() {
    let index = HoldingIndex::new();
    let repository = repository_on(Arc::new(MemoryFiles::new()), index.clone());
    let running = Running::over(repository, Encryption::None, |settings| {
        settings.limits.memory.verifying = 1;
        settings.limits.work.wait = SHORT;
    });
    let push = running.open_push();
    let sample = shale_repo::conformance::Sample::new("demo/two", 1);
    let upload = |number: usize| {
        let pack = &sample.packs[number];
        let mut stream = running.connect();
        let path = format!("{push}/packs/{}", pack.id);
        write_request(&mut stream, ("PUT", &path), &[], &pack.bytes);
        stream
    };
    index.hold_the_next();
    let mut first = upload(0);
    index.wait_until_held();
    // It has come as a whole and is not turned away, though it waits longer than others do.
    let mut second = upload(1);
    second.set_read_timeout(Some(2 * SHORT)).unwrap();
    assert!(second.read(&mut [0]).is_err(), "two were verified at once");
    index.let_go();
    let time = Some(Duration::from_secs(20));
    second.set_read_timeout(time).unwrap();
    for stream in [&mut first, &mut second] {
        assert_eq!(read_answer(stream, "PUT").status, 204);
    }
}

#[test]
fn bodies_in_memory_at_once() {
    let running = Running::with(|settings| {
        settings.limits.memory.layer_bodies_bytes = 100;
        settings.limits.memory.small_bodies_bytes = 100;
        settings.limits.work.wait = SHORT;
    });
    let push = running.open_push();
    let layer = format!("{push}/layers/blake3:{}", "0".repeat(64));
    let cases = [
        ("PUT", &*layer, "integrity"),
        ("POST", "/api/v1/chunks/locate", "invalid"),
    ];
    for (method, path, let_in) in cases {
        // One that takes room, and does not send what it announced.
        let mut first = running.connect();
        write_request(&mut first, (method, path), &["content-length: 99"], b"");
        std::thread::sleep(SHORT);
        assert_busy(&running.send(method, path, &[], b"xx"));
        assert_eq!(running.send(method, path, &[], b"x").problem(), let_in);
        for (other, path, let_in) in cases.iter().filter(|case| case.1 != path) {
            let beside = running.send(other, path, &[], b"xx");
            assert_eq!(beside.problem(), *let_in, "the other kind has room");
        }
        drop(first);
        assert_eq!(running.send(method, path, &[], b"xx").problem(), let_in);
    }
    // As much is taken as there may come when nothing is announced.
    let mut chunked = running.connect();
    let headers = ["transfer-encoding: chunked"];
    write_request(&mut chunked, ("PUT", &layer), &headers, b"");
    assert_busy(&read_answer(&mut chunked, "PUT"));
}

#[test]
fn ids_looked_up_at_once() {
    let running = Running::with(|settings| {
        settings.limits.memory.look_up_ids = 2;
        settings.limits.work.wait = SHORT;
    });
    let push = running.open_push();
    for path in ["/api/v1/chunks/locate", &format!("{push}/missing")] {
        assert_busy(&running.send("POST", path, &[], &[7; 3 * 32]));
        assert_eq!(running.send("POST", path, &[], &[7; 2 * 32]).status, 200);
    }
}

#[test]
fn listings_at_once() {
    let running = Running::with(|settings| {
        settings.limits.memory.listings = 0;
        settings.limits.work.wait = SHORT;
    });
    assert_busy(&running.get("/api/v1/refs", &[]));
    assert_eq!(running.get("/api/v1/refs/demo/x/1", &[]).status, 404);
}
