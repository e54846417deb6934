//! Registries that answer slowly, wrongly, or with other bytes than asked.

use std::io::Write as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use shale_client::{Deadlines, RemoteRegistry};
use shale_model::{
    Catalog, ChunkId, Fetch, Hearing, LayerId, PackId, SeamResult, TemplateId, Trouble,
};
use shale_wire::{Code, Problem};
use tokio::runtime::Runtime;

use crate::harness::{Liar, Lie, SHORT, answer, client};

/// What comes of an answer.
#[derive(Debug, PartialEq)]
struct Outcome {
    trouble: Option<Trouble>,
    asked_again: bool,
}

fn outcome<T>(lie: &Lie, ask: impl FnOnce(&Runtime, &RemoteRegistry) -> SeamResult<T>) -> Outcome {
    let runtime = Runtime::new().unwrap();
    let lie = lie.clone();
    let liar = Liar::start(&runtime, move |_| lie.clone());
    let remote = client(&runtime, liar.address, SHORT);
    let begun = Instant::now();
    let asked = ask(&runtime, &remote);
    // Bounded, whatever the other side does.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let outcome = Outcome {
        trouble: asked.err().map(|error| error.trouble),
        asked_again: liar.asked() > 1,
    };
    runtime.shutdown_background();
    outcome
}

fn read(runtime: &Runtime, remote: &RemoteRegistry) -> SeamResult<Vec<u8>> {
    runtime.block_on(remote.read(PackId::from_bytes([1; 32]), 5, 10))
}

/// A whole answer of this status and these headers.
fn say(head: &str, body: &[u8]) -> Lie {
    Lie::Say(answer(&format!("HTTP/1.1 {head}"), body))
}

/// An error answer as a registry sends it.
fn ours(code: Code) -> Lie {
    let problem = Problem::new(code, "no");
    say(&format!("{} No", problem.status), &problem.encode())
}

/// An answer to the reading of ten bytes from 5.
fn range(content_range: &str, bytes: usize) -> Lie {
    let head = format!("206 Part\ncontent-range: bytes {content_range}");
    say(&head, &vec![0; bytes])
}

const HALF: &[u8] =
    b"HTTP/1.1 206 Part\r\ncontent-range: bytes 5-14/99\r\ncontent-length: 10\r\n\r\n12345";
const NO_LENGTH: &[u8] = b"HTTP/1.1 206 Part\r\ncontent-range: bytes 5-14/99\r\n\r\n";
const NOT_FOUND: &[u8] = br#"{"type":"","title":"","status":404,"code":"not_found","detail":"no"}"#;

/// Answers, what comes of them, and whether it is asked again.
fn answers() -> Vec<(&'static str, Lie, Option<Trouble>, bool)> {
    use Trouble::{Denied, Integrity, Invalid, NotFound, Unavailable};
    let endless_head = b"HTTP/1.1 206 Part\r\nx: ".to_vec();
    let endless_body = [NO_LENGTH, &[0; 100_000]].concat();
    let late = "503 No\nretry-after: 60";
    let moved = "307 No\nlocation: http://example.invalid/";
    let again = true;
    vec![
        ("the truth", range("5-14/99", 10), None, !again),
        ("nothing", Lie::Say(vec![]), Some(Unavailable), again),
        ("silence", Lie::Stall(vec![]), Some(Unavailable), again),
        (
            "no HTTP",
            Lie::Say(b"SSH-2.0-x\r\n".to_vec()),
            Some(Unavailable),
            again,
        ),
        (
            "a head for ever",
            Lie::Trickle(endless_head),
            Some(Unavailable),
            again,
        ),
        ("half", Lie::Say(HALF.to_vec()), Some(Unavailable), again),
        (
            "half, then silence",
            Lie::Stall(HALF.to_vec()),
            Some(Unavailable),
            again,
        ),
        (
            "a head, then silence",
            Lie::Stall(NO_LENGTH.to_vec()),
            Some(Unavailable),
            again,
        ),
        ("fewer bytes", range("5-14/99", 9), Some(Integrity), !again),
        ("more bytes", range("5-14/99", 11), Some(Integrity), !again),
        (
            "bytes without end",
            Lie::Say(endless_body),
            Some(Integrity),
            !again,
        ),
        (
            "another range",
            range("0-9/99", 10),
            Some(Integrity),
            !again,
        ),
        (
            "no range",
            say("206 Part", &[0; 10]),
            Some(Integrity),
            !again,
        ),
        (
            "the whole",
            say("200 OK", &[0; 10]),
            Some(Integrity),
            !again,
        ),
        (
            "the end of the pack",
            range("5-9/10", 5),
            Some(Invalid),
            !again,
        ),
        ("500", say("500 No", b""), Some(Unavailable), again),
        (
            "502 of a proxy",
            say("502 No", b"<html>"),
            Some(Unavailable),
            again,
        ),
        ("503, too late", say(late, b""), Some(Unavailable), !again),
        (
            "404 of a proxy",
            say("404 No", b"<html>"),
            Some(Unavailable),
            !again,
        ),
        ("404", say("404 No", NOT_FOUND), Some(NotFound), !again),
        (
            "400 of a proxy",
            say("400 No", b""),
            Some(Unavailable),
            !again,
        ),
        (
            "401 of a proxy",
            say("401 No", b""),
            Some(Unavailable),
            !again,
        ),
        (
            "403 of a proxy",
            say("403 No", b"{}"),
            Some(Unavailable),
            !again,
        ),
        ("407", say("407 No", b"<html>"), Some(Unavailable), !again),
        (
            "410 of a proxy",
            say("410 No", b""),
            Some(Unavailable),
            !again,
        ),
        (
            "507 of a proxy",
            say("507 No", b""),
            Some(Unavailable),
            !again,
        ),
        ("401", ours(Code::Unauthenticated), Some(Denied), !again),
        ("403", ours(Code::Denied), Some(Denied), !again),
        ("400", ours(Code::Invalid), Some(Invalid), !again),
        ("a redirect", say(moved, b""), Some(Unavailable), !again),
    ]
}

#[test]
fn reading_a_range() {
    std::thread::scope(|scope| {
        for (name, lie, trouble, asked_again) in answers() {
            scope.spawn(move || {
                let expected = Outcome {
                    trouble,
                    asked_again,
                };
                assert_eq!(outcome(&lie, read), expected, "{name}");
            });
        }
    });
}

#[test]
fn what_a_proxy_says_of_a_push_or_a_name_is_told_and_not_believed() {
    let runtime = Runtime::new().unwrap();
    for status in ["403 No", "404 No", "409 No", "412 No", "413 No"] {
        let body = answer(&format!("HTTP/1.1 {status}"), b"<html>");
        let liar = Liar::start(&runtime, move |_| Lie::Say(body.clone()));
        let remote = client(&runtime, liar.address, SHORT);
        let opened = remote.push(std::path::Path::new("/")).map(drop);
        let read = remote.get_ref(&"demo/x".parse().unwrap()).map(drop);
        for asked in [opened, read] {
            let error = asked.unwrap_err();
            assert_eq!(error.trouble, Trouble::Unavailable, "{status}");
            let told = format!("the answer is {}", &status[..3]);
            assert!(error.action.contains(&told), "{}", error.action);
        }
    }
}

#[test]
fn what_is_named_by_its_content_is_checked_on_arrival() {
    let lie = &say("200 OK", b"other bytes");
    let integrity = Outcome {
        trouble: Some(Trouble::Integrity),
        asked_again: false,
    };
    assert_eq!(
        outcome(lie, |_, remote| remote.layer(LayerId::of(b"layer"))),
        integrity
    );
    assert_eq!(
        outcome(lie, |_, remote| remote
            .template(TemplateId::of(b"template"))),
        integrity
    );
    assert_eq!(
        outcome(lie, |_, remote| remote.get_ref(&"demo/x".parse().unwrap())),
        integrity
    );
    assert_eq!(outcome(lie, |_, remote| remote.list_refs("")), integrity);
    let ids = [ChunkId::of(b"chunk")];
    let locate = |runtime: &Runtime, remote: &RemoteRegistry| runtime.block_on(remote.locate(&ids));
    assert_eq!(outcome(lie, locate), integrity);
    assert_eq!(
        outcome(lie, |_, remote| remote
            .push(std::path::Path::new("/"))
            .map(drop)),
        integrity
    );
}

#[test]
fn a_listing_that_never_ends_or_goes_back_is_not_believed() {
    let name = |tag: &str| {
        let template = TemplateId::of(b"x");
        let index = shale_model::TemplateIndex::one(Default::default(), template);
        let index = String::from_utf8(index.encode()).unwrap();
        format!(r#"{{"name":"demo/x:{tag}","index":{index}}}"#)
    };
    let same_again = format!(r#"{{"refs":[{}],"next":"demo/x:1"}}"#, name("1"));
    let backwards = format!(r#"{{"refs":[{},{}]}}"#, name("2"), name("1"));
    let empty_page = r#"{"refs":[],"next":"demo/x:1"}"#.to_owned();
    for page in [same_again, backwards, empty_page] {
        let runtime = Runtime::new().unwrap();
        let body = answer("HTTP/1.1 200 OK", page.as_bytes());
        let liar = Liar::start(&runtime, move |_| Lie::Say(body.clone()));
        let listed = client(&runtime, liar.address, SHORT).list_refs("");
        assert_eq!(listed.unwrap_err().trouble, Trouble::Integrity, "{page}");
    }
}

#[test]
fn a_registry_that_comes_to_its_senses_is_heard() {
    let runtime = Runtime::new().unwrap();
    let liar = Liar::start(&runtime, |n| match n {
        0 => Lie::Say(answer("HTTP/1.1 503 No\nretry-after: 0", b"")),
        1 => Lie::Say(vec![]),
        _ => Lie::Say(answer(
            "HTTP/1.1 206 OK\ncontent-range: bytes 5-14/99",
            &[7; 10],
        )),
    });
    let remote = client(&runtime, liar.address, SHORT);
    assert_eq!(read(&runtime, &remote).unwrap(), [7; 10]);
    assert_eq!(liar.asked(), 3);
}

#[test]
fn nobody_there_is_unavailable_and_says_where() {
    let runtime = Runtime::new().unwrap();
    let liar = Liar::start(&runtime, |_| Lie::Say(vec![]));
    let address = liar.address;
    drop(liar);
    let error = client(&runtime, address, SHORT).list_refs("").unwrap_err();
    assert_eq!(error.trouble, Trouble::Unavailable);
    assert!(
        error.action.contains(&address.to_string()),
        "{}",
        error.action
    );
}

#[test]
fn a_registry_that_takes_connections_and_says_nothing_is_known_as_silent() {
    let runtime = Runtime::new().unwrap();
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = silent.local_addr().unwrap();
    let remote = client(&runtime, address, Deadlines::default());
    assert_eq!(remote.silence(), None, "nobody has asked it");
    let question = runtime.spawn({
        let remote = remote.clone();
        async move { remote.read(PackId::from_bytes([1; 32]), 5, 10).await }
    });
    let wait_for = |what: &str, is_so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(15), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let is_silent = || {
        let silence = remote.silence();
        silence.is_some_and(|it| it.failure.is_none() && it.time > Duration::from_millis(300))
    };
    wait_for("it is silent", &is_silent);
    // A head is something; half an answer is silent again.
    let (mut connection, _) = silent.accept().unwrap();
    connection.write_all(HALF).unwrap();
    let is_heard = || {
        let silence = remote.silence();
        silence.is_some_and(|it| it.time < Duration::from_millis(300))
    };
    wait_for("it is heard", &is_heard);
    wait_for("it is silent in the middle", &is_silent);
    drop(connection);
    let says_why = || remote.silence().is_some_and(|it| it.failure.is_some());
    wait_for("what came of it", &says_why);
    question.abort();
    wait_for("nobody waits for it any more", &|| {
        remote.silence().is_none()
    });
    runtime.shutdown_background();
}
