//! Tokens, and where a server may listen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shale_files::MemoryFiles;
use shale_model::{LayerId, TemplateId};
use shale_registry::{
    Admission, BindError, Certificate, Encryption, Registry, Scope, Settings, TokenStore,
};
use shale_wire::route;

use crate::harness::{Running, read_answer, repository};

fn guarded() -> (Running, Arc<TokenStore>) {
    let files = Arc::new(MemoryFiles::new());
    let tokens = Arc::new(TokenStore::new(files.clone(), Arc::new(Instant::now)));
    // What `shale token` does in another process.
    let other = Arc::new(TokenStore::new(files, Arc::new(Instant::now)));
    let running = Running::with(|settings| settings.admission = Admission::Tokens(tokens));
    (running, other)
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

#[test]
fn a_token_allows_its_scope() {
    let (running, tokens) = guarded();
    let sample = running.hold("demo/held", 1);
    let (read, _) = tokens.create("reader", Scope::Read, 1).unwrap();
    let (write, _) = tokens.create("writer", Scope::Write, 1).unwrap();
    let (read, write) = (bearer(read.reveal()), bearer(write.reveal()));
    let pack = route::pack(sample.packs[0].id);
    let none = running.get(&pack, &[]);
    assert_eq!((none.status, &*none.problem()), (401, "unauthenticated"));
    assert_eq!(
        none.header("www-authenticate"),
        Some("Bearer realm=\"shale\"")
    );
    let wrong = running.get(&pack, &[&bearer("shale_wrong")]);
    assert_eq!((wrong.status, &*wrong.problem()), (401, "unauthenticated"));
    for token in [&read, &write] {
        assert_eq!(running.get(&pack, &[token]).status, 200);
        assert_eq!(
            running.send("POST", route::LOCATE, &[token], b"").status,
            200
        );
        assert_eq!(running.get(route::METRICS, &[token]).status, 200);
        let traces = route::traces(TemplateId::of(&sample.template));
        assert_eq!(running.send("POST", &traces, &[token], b"").status, 204);
    }
    let denied = running.send("POST", route::PUSHES, &[&read], b"");
    assert_eq!((denied.status, &*denied.problem()), (403, "denied"));
    assert_eq!(
        running.send("POST", route::PUSHES, &[&write], b"").status,
        201
    );
    assert_eq!(running.get(route::METRICS, &[]).status, 401);
    for open in [route::HEALTH, route::READY, route::VERSION, route::OPENAPI] {
        assert_eq!(running.get(open, &[]).status, 200, "{open}");
    }
    let told = running.seen.lines().join("\n");
    assert!(
        !told.contains("shale_"),
        "a token in what the observer is told"
    );
}

/// A cache that many share must not give away what needs a token (RFC 9111, 3.5).
#[test]
fn what_needs_a_token_is_for_nobodys_shared_cache() {
    let open = Running::start();
    let (guarded, tokens) = guarded();
    let (token, _) = tokens.create("reader", Scope::Read, 1).unwrap();
    let token = bearer(token.reveal());
    let cases = [
        (&open, "x-none: 1", "public"),
        (&guarded, &token, "private"),
    ];
    for (running, token, whose) in cases {
        let sample = running.hold("demo/cached", 1);
        let layer = LayerId::of(&sample.root);
        let template = TemplateId::of(&sample.template);
        let paths = [
            (
                route::pack(sample.packs[0].id),
                sample.packs[0].id.to_string(),
            ),
            (route::layer(layer), layer.to_string()),
            (route::template(template), template.to_string()),
        ];
        let expected = format!("{whose}, max-age=31536000, immutable");
        for (path, id) in paths {
            let has_it = format!("if-none-match: \"{id}\"");
            for (headers, status) in [(vec![token], 200), (vec![token, &has_it], 304)] {
                let read = running.get(&path, &headers);
                let caching = read.header("cache-control");
                assert_eq!((read.status, caching), (status, Some(&*expected)), "{path}");
            }
        }
    }
}

#[test]
fn every_route_of_the_interface_wants_a_token() {
    let (running, _) = guarded();
    let document: serde_json::Value = serde_json::from_str(shale_registry::openapi_json()).unwrap();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|_| path.starts_with("/api/"))
        {
            let concrete = path.replace(['{', '}'], "");
            let answer = running.send(&method.to_uppercase(), &concrete, &[], b"");
            assert_eq!(answer.status, 401, "{method} {path}");
            asked += 1;
        }
    }
    assert!(asked > 12, "{asked}");
}

#[test]
fn a_removed_token_is_refused_soon() {
    let (running, tokens) = guarded();
    let (token, info) = tokens.create("short", Scope::Read, 1).unwrap();
    let token = bearer(token.reveal());
    let status = || running.get(route::REFS, &[&token]).status;
    assert_eq!(status(), 200);
    tokens.remove(&info.id).unwrap();
    let begun = Instant::now();
    while status() == 200 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The registry of somebody who has not made a token yet.
#[test]
fn the_first_token_closes_an_open_registry_and_its_removal_does_not_open_it() {
    let files = Arc::new(MemoryFiles::new());
    let tokens = Arc::new(TokenStore::new(files.clone(), Arc::new(Instant::now)));
    let other = TokenStore::new(files, Arc::new(Instant::now));
    let running = Running::with(|settings| settings.admission = Admission::OpenUntilTokens(tokens));
    let strange = running.send("POST", route::PUSHES, &["origin: http://evil.example"], b"");
    assert_eq!((strange.status, &*strange.problem()), (403, "denied"));
    let push = running.open_push();
    let missing = format!("{push}/missing");
    let ask = |headers: &[&str]| running.send("POST", &missing, headers, b"");
    assert_eq!(ask(&[]).status, 200);
    let (token, info) = other.create("first", Scope::Write, 1).unwrap();
    let begun = Instant::now();
    while ask(&[]).status == 200 {
        assert!(begun.elapsed() < Duration::from_secs(5), "it stays open");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(ask(&[]).problem(), "unauthenticated");
    let token = bearer(token.reveal());
    assert_eq!(running.get(route::REFS, &[&token]).status, 200);
    // Who opened it had no name; whoever has one now is somebody else.
    assert_eq!(ask(&[&token]).problem(), "push_not_found");
    other.remove(&info.id).unwrap();
    let begun = Instant::now();
    while running.get(route::REFS, &[&token]).status == 200 {
        assert!(begun.elapsed() < Duration::from_secs(5), "it is let in");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(running.get(route::REFS, &[]).status, 401);
}

#[test]
fn a_push_is_only_its_openers() {
    let (running, tokens) = guarded();
    let (one, _) = tokens.create("one", Scope::Write, 1).unwrap();
    let (two, _) = tokens.create("two", Scope::Write, 1).unwrap();
    let (one, two) = (bearer(one.reveal()), bearer(two.reveal()));
    let opened = running.send("POST", route::PUSHES, &[&one], b"").json();
    let path = format!(
        "/api/v1/pushes/{}/missing",
        opened["push"].as_str().unwrap()
    );
    assert_eq!(
        running.send("POST", &path, &[&two], b"").problem(),
        "push_not_found"
    );
    assert_eq!(running.send("POST", &path, &[&one], b"").status, 200);
}

#[test]
fn an_open_registry_is_not_for_the_pages_of_strangers() {
    let running = Running::start();
    let strange = running.send("POST", route::PUSHES, &["origin: http://evil.example"], b"");
    assert_eq!((strange.status, &*strange.problem()), (403, "denied"));
    let own = running.send("POST", route::PUSHES, &["origin: http://localhost"], b"");
    assert_eq!(own.status, 201);
    let mut stream = running.connect();
    let request = "GET /api/v1/refs HTTP/1.1\r\nhost: evil.example\r\n\r\n";
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream, "GET").status, 403);
}

#[test]
fn beyond_loopback_tls_and_tokens_are_needed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let everywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let files = Arc::new(MemoryFiles::new());
    let tls = || {
        let certificate = Certificate::self_signed(&*files, vec!["localhost".into()]);
        Encryption::Tls(certificate.unwrap())
    };
    let tokens = || {
        let tokens = TokenStore::new(files.clone(), Arc::new(Instant::now));
        Admission::Tokens(Arc::new(tokens))
    };
    let bind = |address: SocketAddr, admission: Admission, encryption: Encryption| {
        let registry = Registry::new(repository(), Settings::new(admission)).unwrap();
        runtime
            .block_on(registry.bind(address, encryption))
            .map(drop)
    };
    let no_tls = bind(everywhere, tokens(), Encryption::None);
    assert!(matches!(no_tls, Err(BindError::NeedsTls(_))));
    let until_tokens = || {
        let tokens = TokenStore::new(files.clone(), Arc::new(Instant::now));
        Admission::OpenUntilTokens(Arc::new(tokens))
    };
    for admission in [Admission::Open, until_tokens()] {
        let no_tokens = bind(everywhere, admission, tls());
        assert!(matches!(no_tokens, Err(BindError::NeedsTokens(_))));
    }
    let mapped: SocketAddr = "[::ffff:0.0.0.0]:0".parse().unwrap();
    assert!(matches!(
        bind(mapped, Admission::Open, Encryption::None),
        Err(BindError::NeedsTls(_))
    ));
    bind(everywhere, tokens(), tls()).unwrap();
    bind(
        everywhere,
        Admission::InsecureNoAuth,
        Encryption::InsecureNone,
    )
    .unwrap();
    bind(
        "127.0.0.1:0".parse().unwrap(),
        Admission::Open,
        Encryption::None,
    )
    .unwrap();
}
