//! References over HTTP.

use shale_repo::conformance::Sample;
use shale_wire::{RefPage, ref_etag, route};

use crate::harness::Running;

#[test]
fn a_reference_is_set_by_compare_and_set() {
    let running = Running::start();
    let one = running.hold("demo/held", 1).index;
    let two = running.hold("demo/other", 2).index;
    let name = "/api/v1/refs/demo/fresh/1.0";
    let put = |condition: &str, index: &shale_model::TemplateIndex| {
        running.send("PUT", name, &[condition], &index.encode())
    };
    assert_eq!(running.get(name, &[]).problem(), "not_found");
    let matches = |index| format!("if-match: {}", ref_etag(index));
    assert_eq!(put(&matches(&one), &one).problem(), "changed");
    let set = put("if-none-match: *", &one);
    assert_eq!(
        (set.status, set.header("etag")),
        (204, Some(&*ref_etag(&one)))
    );
    assert_eq!(put("if-none-match: *", &two).status, 412);
    assert_eq!(put(&matches(&two), &two).problem(), "changed");
    assert_eq!(put(&matches(&one), &two).status, 204);
    let read = running.get(name, &[]);
    assert_eq!((read.status, read.body), (200, two.encode()));
    let cached = running.get(name, &[&format!("if-none-match: {}", ref_etag(&two))]);
    assert_eq!(cached.status, 304);
    for none in [
        "x-none: 1",
        "if-match: *",
        "if-match: W/\"x\"",
        "if-none-match: \"x\"",
    ] {
        assert_eq!(put(none, &one).problem(), "condition_required", "{none}");
    }
    let both = ["if-none-match: *", &matches(&two)];
    assert_eq!(running.send("PUT", name, &both, &one.encode()).status, 428);
}

#[test]
fn a_reference_needs_its_template_and_its_form() {
    let running = Running::start();
    let absent = ["if-none-match: *"];
    let sample = Sample::new("demo/none", 1);
    let path = route::reference(&sample.name);
    let put = |path: &str, body: &[u8]| running.send("PUT", path, &absent, body).problem();
    assert_eq!(put(&path, &sample.index.encode()), "conflict");
    assert_eq!(put(&path, b"{}"), "invalid");
    let spaced = [&sample.index.encode()[..], b" "].concat();
    assert_eq!(put(&path, &spaced), "invalid");
    for name in ["Demo/x/1", "demo/..%2fx/1", "demo/x/-1", "%2e%2e/x/1"] {
        let path = format!("/api/v1/refs/{name}");
        assert_eq!(put(&path, &sample.index.encode()), "invalid", "{name}");
        assert_eq!(running.get(&path, &[]).problem(), "invalid", "{name}");
    }
}

#[test]
fn only_one_of_many_wins_a_race() {
    let running = Running::start();
    // Who wants what another has set has won with it, so each wants something else.
    let held = (0..8).map(|n| running.hold(&format!("demo/held{n}"), n).index.encode());
    let held: Vec<Vec<u8>> = held.collect();
    let put = &|index: &[u8]| {
        running.send(
            "PUT",
            "/api/v1/refs/demo/raced/1",
            &["if-none-match: *"],
            index,
        )
    };
    let won: u16 = std::thread::scope(|scope| {
        let racers: Vec<_> = held
            .iter()
            .map(|index| scope.spawn(move || put(index)))
            .collect();
        let statuses = racers.into_iter().map(|racer| racer.join().unwrap().status);
        statuses.map(|status| u16::from(status == 204)).sum()
    });
    assert_eq!(won, 1);
}

#[test]
fn references_are_listed_in_pages() {
    let running = Running::start();
    let names: Vec<_> = (0..5).map(|n| format!("demo/n{n}:latest")).collect();
    for (seed, name) in names.iter().enumerate() {
        running.hold(name, seed as u64);
    }
    running.hold("other/x", 9);
    let page = |query: &str| -> RefPage {
        let page = running.get(&format!("/api/v1/refs{query}"), &[]);
        assert_eq!(page.status, 200, "{page:?}");
        serde_json::from_slice(&page.body).unwrap()
    };
    let all = page("");
    assert_eq!((all.refs.len(), all.next), (6, None));
    let (mut found, mut query) = (Vec::new(), "?project=demo&limit=2".to_owned());
    loop {
        let page = page(&query);
        found.extend(page.refs.into_iter().map(|entry| entry.name));
        let Some(next) = page.next else { break };
        query = format!("?project=demo&limit=2&after={next}");
    }
    assert_eq!(found, names);
    assert_eq!(page("?project=nobody").refs, []);
    for wrong in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=x",
        "project=..",
        "unknown=1",
    ] {
        let refused = running.get(&format!("/api/v1/refs?{wrong}"), &[]);
        assert_eq!(
            (refused.status, &*refused.problem()),
            (400, "invalid"),
            "{wrong}"
        );
    }
}
