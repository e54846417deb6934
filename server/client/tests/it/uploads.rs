//! Packs uploaded in the background.

use shale_client::Deadlines;
use shale_model::{Catalog, Sink, Trouble};
use shale_repo::conformance::Sample;
use tokio::runtime::Runtime;

use crate::harness::{Running, SHORT, any_port, client, repository};

#[test]
fn what_the_registry_refuses_is_told_at_the_latest_with_the_layer() {
    let runtime = Runtime::new().unwrap();
    let spool = tempfile::tempdir().unwrap();
    let server = Running::open(&runtime, repository());
    let remote = client(&runtime, server.address, Deadlines::default());
    let push = remote.push(spool.path()).unwrap();
    let sample = Sample::new("demo/refused", 1);
    let good = &sample.packs[0];
    let mut flipped = good.bytes.clone();
    // In the first frame: the footer that the client checks is sound.
    flipped[40] ^= 1;
    let mut pack = push.new_pack().unwrap();
    pack.write(&flipped).unwrap();
    pack.finish(good.id, good.contents.clone()).unwrap();
    let refused = push.put_layer(&sample.root).unwrap_err();
    assert_eq!(refused.trouble, Trouble::Integrity, "{refused:?}");
    assert!(
        refused.action.contains(&good.id.to_string()),
        "{}",
        refused.action
    );
}

#[test]
fn two_pushes_of_the_same_at_once() {
    let runtime = Runtime::new().unwrap();
    let spool = tempfile::tempdir().unwrap();
    let server = Running::open(&runtime, repository());
    let samples: Vec<_> = (0..4)
        .map(|n| Sample::new(&format!("demo/n{n}"), 5))
        .collect();
    let remote = client(&runtime, server.address, Deadlines::default());
    std::thread::scope(|scope| {
        for sample in &samples {
            let push = remote.push(spool.path()).unwrap();
            scope.spawn(move || {
                sample.push(&push).unwrap();
                push.end().unwrap();
            });
        }
    });
    for sample in &samples {
        sample.check(&remote, &remote);
    }
    assert_eq!(remote.list_refs("demo").unwrap().len(), 4);
}

#[test]
fn an_upload_waits_for_its_place_longer_than_for_an_answer() {
    use std::io::Write;
    use std::time::Duration;
    let runtime = Runtime::new().unwrap();
    let spool = tempfile::tempdir().unwrap();
    let mut settings = shale_registry::Settings::new(shale_registry::Admission::Open);
    settings.limits.work.uploads = 1;
    settings.limits.work.wait = Duration::from_millis(20);
    let encryption = shale_registry::Encryption::None;
    let server = Running::start(&runtime, repository(), any_port(), settings, encryption);
    let remote = client(&runtime, server.address, SHORT);
    let push = remote.push(spool.path()).unwrap();
    let sample = Sample::new("demo/waits", 6);
    // Another pusher holds the only place.
    let mut other = std::net::TcpStream::connect(server.address).unwrap();
    let opened = "POST /api/v1/pushes HTTP/1.1\r\nhost: localhost\r\n\r\n";
    other.write_all(opened.as_bytes()).unwrap();
    let mut answer = [0; 4096];
    let len = std::io::Read::read(&mut other, &mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..len]);
    let id = answer.split("\"push\":\"").nth(1).unwrap()[..32].to_owned();
    let path = shale_wire::route::push_pack(id.parse().unwrap(), sample.packs[0].id);
    let head = format!("PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n");
    other.write_all(head.as_bytes()).unwrap();
    std::thread::scope(|scope| {
        let pushed = scope.spawn(|| sample.push(&push));
        std::thread::sleep(2 * SHORT.give_up);
        assert!(!pushed.is_finished(), "it waits");
        drop(other);
        pushed.join().unwrap().unwrap();
    });
    sample.check(&remote, &remote);
}

#[test]
fn a_spool_that_is_not_there_is_told_at_once() {
    let runtime = Runtime::new().unwrap();
    let server = Running::open(&runtime, repository());
    let remote = client(&runtime, server.address, Deadlines::default());
    let push = remote.push(std::path::Path::new("/none/such")).unwrap();
    assert_eq!(push.new_pack().err().unwrap().trouble, Trouble::Failed);
}
