//! Pushing over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shale_model::{Catalog, Fetch, LayerId, TemplateId};
use shale_repo::conformance::{Sample, wait_for};
use shale_wire::{decode_missing, encode_ids, route};

use crate::harness::{Running, write_request};

fn put_packs(running: &Running, push: &str, sample: &Sample) {
    for pack in &sample.packs {
        let path = format!("{push}/packs/{}", pack.id);
        assert_eq!(running.send("PUT", &path, &[], &pack.bytes).status, 204);
    }
}

#[test]
fn a_whole_push() {
    let running = Running::start();
    let sample = Sample::new("demo/whole", 1);
    let push = running.open_push();
    let ids = encode_ids(&sample.chunk_ids());
    let missing = |body: &[u8]| running.send("POST", &format!("{push}/missing"), &[], body);
    let count = sample.chunk_ids().len();
    assert_eq!(
        decode_missing(&missing(&ids).body, count),
        Ok(vec![true; count])
    );
    put_packs(&running, &push, &sample);
    assert_eq!(
        decode_missing(&missing(&ids).body, count),
        Ok(vec![false; count])
    );
    let layer = format!("{push}/layers/{}", LayerId::of(&sample.root));
    assert_eq!(running.send("PUT", &layer, &[], &sample.root).status, 204);
    let template = format!("{push}/templates/{}", TemplateId::of(&sample.template));
    assert_eq!(
        running.send("PUT", &template, &[], &sample.template).status,
        204
    );
    let name = route::reference(&sample.name);
    let absent = ["if-none-match: *"];
    assert_eq!(
        running
            .send("PUT", &name, &absent, &sample.index.encode())
            .status,
        204
    );
    sample.check(&*running.repository, &*running.repository);
    assert_eq!(running.send("DELETE", &push, &[], b"").status, 204);
    assert_eq!(
        running.send("DELETE", &push, &[], b"").problem(),
        "push_not_found"
    );
    assert_eq!(missing(&ids).problem(), "push_not_found");
}

#[test]
fn a_pack_that_is_not_sound_is_refused_and_leaves_nothing() {
    let running = Running::start();
    let sample = Sample::new("demo/bad", 2);
    let push = running.open_push();
    let good = &sample.packs[0];
    let path = format!("{push}/packs/{}", good.id);
    let mut flipped = good.bytes.clone();
    flipped[100] ^= 1;
    for bytes in [&flipped[..], &good.bytes[1..], b"x"] {
        let refused = running.send("PUT", &path, &[], bytes);
        assert_eq!((refused.status, &*refused.problem()), (422, "integrity"));
    }
    // Named rightly, but the bytes of a chunk are others than the footer says.
    use sha2::Digest;
    let id = shale_model::PackId::from_bytes(sha2::Sha256::digest(&flipped).into());
    let refused = running.send("PUT", &format!("{push}/packs/{id}"), &[], &flipped);
    assert_eq!((refused.status, &*refused.problem()), (422, "integrity"));
    let located = wait_for(running.repository.locate(&sample.chunk_ids())).unwrap();
    assert!(located.iter().all(Option::is_none));
}

#[test]
fn an_upload_that_is_cut_off_leaves_nothing() {
    let running = Running::start();
    let sample = Sample::new("demo/cut", 3);
    let push = running.open_push();
    let good = &sample.packs[0];
    let mut stream = running.connect();
    let path = format!("{push}/packs/{}", good.id);
    let length = format!("content-length: {}", good.bytes.len() + 1);
    write_request(&mut stream, ("PUT", &path), &[&length], b"");
    std::io::Write::write_all(&mut stream, &good.bytes).unwrap();
    drop(stream);
    // A second upload of the same waits for nothing and works.
    assert_eq!(running.send("PUT", &path, &[], &good.bytes).status, 204);
}

#[test]
fn what_depends_on_something_missing_is_a_conflict() {
    let running = Running::start();
    let sample = Sample::new("demo/order", 4);
    let push = running.open_push();
    let layer = format!("{push}/layers/{}", LayerId::of(&sample.root));
    let refused = running.send("PUT", &layer, &[], &sample.root);
    assert_eq!((refused.status, &*refused.problem()), (409, "conflict"));
    let other = format!("{push}/layers/{}", LayerId::of(b"other"));
    assert_eq!(
        running.send("PUT", &other, &[], &sample.root).problem(),
        "integrity"
    );
    let id = TemplateId::of(&sample.template);
    let template = format!("{push}/templates/{id}");
    assert_eq!(
        running
            .send("PUT", &template, &[], &sample.template)
            .problem(),
        "conflict"
    );
    assert_eq!(
        running.send("PUT", &template, &[], b"{}").problem(),
        "integrity"
    );
    let id = TemplateId::of(b"{}");
    let template = format!("{push}/templates/{id}");
    assert_eq!(
        running.send("PUT", &template, &[], b"{}").problem(),
        "invalid"
    );
    assert!(running.repository.list_refs("").unwrap().is_empty());
}

#[test]
fn several_packs_at_once_and_two_pushes_of_the_same() {
    let running = Running::start();
    let samples: Vec<_> = (0..6)
        .map(|n| Sample::new(&format!("demo/n{n}"), n % 3))
        .collect();
    std::thread::scope(|scope| {
        for sample in &samples {
            scope.spawn(|| put_packs(&running, &running.open_push(), sample));
        }
    });
    let metrics = String::from_utf8(running.get("/metrics", &[]).body).unwrap();
    let accepted = "shale_registry_packs_received_total{result=\"accepted\"} 18";
    assert!(metrics.contains(accepted), "{metrics}");
    assert!(
        metrics.contains("shale_registry_pushes_open 6"),
        "{metrics}"
    );
}

#[test]
fn a_push_that_is_not_heard_of_ends() {
    let seconds = Arc::new(AtomicU64::new(0));
    let (ticks, start) = (Arc::clone(&seconds), Instant::now());
    let running = Running::with(|settings| {
        settings.clock =
            Arc::new(move || start + Duration::from_secs(ticks.load(Ordering::SeqCst)));
        settings.limits.work.pushes = 1;
    });
    let push = running.open_push();
    let refused = running.send("POST", "/api/v1/pushes", &[], b"");
    assert_eq!(
        (refused.status, &*refused.problem()),
        (429, "too_many_pushes")
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    seconds.fetch_add(599, Ordering::SeqCst);
    let missing = || running.send("POST", &format!("{push}/missing"), &[], b"");
    assert_eq!(missing().status, 200);
    seconds.fetch_add(599, Ordering::SeqCst);
    assert_eq!(missing().status, 200);
    seconds.fetch_add(600, Ordering::SeqCst);
    assert_eq!(missing().problem(), "push_not_found");
    running.open_push();
}
