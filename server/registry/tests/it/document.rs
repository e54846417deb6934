//! The OpenAPI document says what the router does.

use std::collections::BTreeSet;

use crate::harness::Running;

const METHODS: [&str; 6] = ["get", "head", "put", "post", "delete", "patch"];

fn document() -> serde_json::Value {
    serde_json::from_str(shale_registry::openapi_json()).unwrap()
}

/// Documented paths with their methods.
fn documented() -> Vec<(String, BTreeSet<String>)> {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .map(|(path, item)| {
            (
                path.clone(),
                item.as_object().unwrap().keys().cloned().collect(),
            )
        })
        .collect()
}

#[test]
fn every_documented_route_exists_with_these_methods_and_no_others() {
    let running = Running::start();
    assert!(documented().len() > 15);
    for (path, methods) in documented() {
        let mut concrete = String::new();
        for part in path.split_inclusive(['{', '}']) {
            match part.strip_suffix('}') {
                Some(_) => concrete.push('x'),
                None => concrete.push_str(part.trim_end_matches('{')),
            }
        }
        for method in METHODS {
            let answer = running.send(&method.to_uppercase(), &concrete, &[], b"");
            // `HEAD` comes with `GET`.
            let known = methods.contains(method) || method == "head" && methods.contains("get");
            assert_eq!(answer.status != 405, known, "{method} {path}: {answer:?}");
            let unrouted = method != "head" && answer.status == 404;
            assert!(!(unrouted && answer.problem() == "no_such_route"), "{path}");
        }
    }
}

/// Every route of the wire is documented, and the other way round: a route that is added to the router
/// without a document, or documented but known to nobody, fails here.
#[test]
fn the_document_has_the_routes_of_the_wire() {
    let source = include_str!("../../../wire/src/route.rs");
    let of_wire: BTreeSet<String> = source
        .lines()
        .filter(|line| line.starts_with("pub const"))
        .map(|line| line.split('"').nth(1).unwrap().to_owned())
        .collect();
    let of_document: BTreeSet<String> = documented().into_iter().map(|(path, _)| path).collect();
    assert_eq!(of_wire, of_document);
}

/// `routes!` adds a handler to router and document at once. Nothing may go around it.
#[test]
fn routes_are_added_in_one_way_only() {
    let router = include_str!("../../src/router.rs");
    for around in [".route(", ".nest(", ".route_service(", ".nest_service("] {
        assert!(!router.contains(around), "{around}");
    }
}

#[test]
fn the_server_sends_the_document() {
    let running = Running::start();
    let sent = running.get("/openapi.json", &[]).json();
    assert_eq!(sent, document());
    assert!(sent["openapi"].as_str().unwrap().starts_with("3."));
    assert!(sent["components"]["schemas"]["Problem"].is_object());
    assert_eq!(
        sent["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
}
