//! The service itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shale_files::{Files, MemoryFiles, OpenMode};
use shale_model::MemoryIndex;
use shale_registry::Encryption;
use shale_wire::{decode_locations, encode_ids};

use crate::harness::{Running, read_answer, repository_on, write_request};

#[test]
fn it_says_that_it_lives_and_which_it_is() {
    let running = Running::start();
    assert_eq!(running.get("/healthz", &[]).body, b"ok\n");
    assert_eq!(running.get("/readyz", &[]).body, b"ready\n");
    let version = running.get("/version", &[]).json();
    assert_eq!(version["name"], "shale");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

/// The probe of readiness reads a reference that nobody has: here it is, and damaged.
#[test]
fn a_repository_that_cannot_be_read_is_not_ready() {
    let files = Arc::new(MemoryFiles::new());
    let repository = repository_on(files.clone(), Arc::new(MemoryIndex::new()));
    let running = Running::over(repository, Encryption::None, |_| {});
    assert_eq!(running.get("/readyz", &[]).status, 200);
    let name = "shale/readiness:probe".parse().unwrap();
    let path = shale_repo::paths::reference(&name);
    let directory = path.parent().unwrap();
    files.create_dir(&directory.parent().unwrap()).unwrap();
    files.create_dir(&directory).unwrap();
    files.open(&path, OpenMode::CreateNew).unwrap();
    let unready = running.get("/readyz", &[]);
    assert_eq!((unready.status, &*unready.problem()), (503, "unavailable"));
    let told = running.seen.lines().join("\n");
    assert!(
        told.contains("read reference shale/readiness:probe"),
        "{told}"
    );
    assert_eq!(running.get("/healthz", &[]).status, 200, "it lives");
}

#[test]
fn what_is_not_there_is_a_problem_too() {
    let running = Running::start();
    let none = running.get("/api/v1/nothing", &[]);
    assert_eq!((none.status, &*none.problem()), (404, "no_such_route"));
    let method = running.send("PATCH", "/api/v1/refs", &[], b"");
    assert_eq!(
        (method.status, &*method.problem()),
        (405, "method_not_allowed")
    );
    assert_eq!(method.header("allow"), Some("GET,HEAD"));
}

#[test]
fn every_answer_has_its_own_request_id_and_is_told() {
    let running = Running::start();
    let mut stream = running.connect();
    let mut ids = Vec::new();
    for _ in 0..3 {
        write_request(&mut stream, ("GET", "/healthz"), &[], b"");
        let answer = read_answer(&mut stream, "GET");
        ids.push(answer.header("x-request-id").unwrap().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
    let lines = running.seen.lines();
    assert!(
        ids.iter()
            .all(|id| lines.iter().any(|line| line.contains(id))),
        "{lines:?}"
    );
}

#[test]
fn requests_are_counted_by_route() {
    let running = Running::start();
    let sample = running.hold("demo/counted", 1);
    let path = shale_wire::route::pack(sample.packs[0].id);
    running.get(&path, &["range: bytes=0-99"]);
    running.get(&path, &["range: bytes=0-99"]);
    running.send("BREW", "/pot", &[], b"");
    let expected = [
        "shale_http_requests_total{method=\"GET\",route=\"/api/v1/packs/{pack}\",status=\"206\"} 2",
        "shale_http_requests_total{method=\"other\",route=\"\",status=\"404\"} 1",
        "shale_http_request_duration_seconds_count{route=\"/api/v1/packs/{pack}\"} 2",
        "shale_registry_pack_sent_bytes_total 200",
        "shale_http_connections 1",
        "# EOF",
    ];
    // A body is counted when it is sent, which its reader may know first.
    let begun = Instant::now();
    loop {
        let metrics = running.get("/metrics", &[]);
        let text = String::from_utf8(metrics.body).unwrap();
        let missing = expected.iter().find(|line| !text.contains(**line));
        let Some(missing) = missing else {
            return;
        };
        let late = begun.elapsed() > Duration::from_secs(10);
        assert!(!late, "{missing}\n{text}");
    }
}

#[test]
fn chunks_are_located() {
    let running = Running::start();
    let sample = running.hold("demo/located", 1);
    let mut ids = sample.chunk_ids();
    ids.push(shale_model::ChunkId::of(b"none"));
    let table = running.send("POST", "/api/v1/chunks/locate", &[], &encode_ids(&ids));
    let table = decode_locations(&table.body, ids.len()).unwrap();
    let (last, others) = table.split_last().unwrap();
    assert!(last.is_none() && others.iter().all(Option::is_some));
}
