//! A registry that dies and returns.

use std::time::Duration;

use shale_client::Deadlines;
use shale_model::{Catalog, Fetch, Sink, Trouble};
use shale_registry::{Admission, Encryption, Settings};
use shale_repo::conformance::Sample;
use tokio::runtime::Runtime;

use crate::harness::{Running, SHORT, client, repository};

#[test]
fn a_read_outlasts_a_restart() {
    let runtime = Runtime::new().unwrap();
    let repository = repository();
    let sample = Sample::new("demo/returning", 1);
    sample.push(&repository.push()).unwrap();
    let server = Running::open(&runtime, repository.clone());
    let remote = client(&runtime, server.address, Deadlines::default());
    sample.check(&remote, &remote);
    let address = server.kill(&runtime);
    let pack = sample.packs[0].id;
    let read = {
        let remote = remote.clone();
        runtime.spawn(async move { remote.read(pack, 0, 10).await })
    };
    std::thread::sleep(Duration::from_millis(500));
    assert!(!read.is_finished(), "it waits");
    let settings = Settings::new(Admission::Open);
    let server = Running::start(&runtime, repository, address, settings, Encryption::None);
    let bytes = runtime.block_on(read).unwrap().unwrap();
    assert_eq!(bytes, sample.packs[0].bytes[..10]);
    sample.check(&remote, &remote);
    server.kill(&runtime);
}

#[test]
fn who_has_others_to_ask_is_told_at_once_that_a_registry_is_gone() {
    let runtime = Runtime::new().unwrap();
    let server = Running::open(&runtime, repository());
    let remote = client(&runtime, server.address, SHORT);
    server.kill(&runtime);
    let read = |remote: &shale_client::RemoteRegistry| {
        let pack = shale_model::PackId::from_bytes([1; 32]);
        runtime.block_on(remote.read(pack, 0, 10)).unwrap_err()
    };
    let (once, again) = (read(&remote.asked_once()), read(&remote));
    assert_eq!(once.trouble, Trouble::Unavailable);
    assert!(once.action.contains(", 1 times"), "{}", once.action);
    assert!(!again.action.contains(", 1 times"), "{}", again.action);
}

#[test]
fn a_push_that_the_registry_forgot_can_be_made_again() {
    let runtime = Runtime::new().unwrap();
    let spool = tempfile::tempdir().unwrap();
    let repository = repository();
    let sample = Sample::new("demo/again", 2);
    let server = Running::open(&runtime, repository.clone());
    let remote = client(&runtime, server.address, SHORT);
    let push = remote.push(spool.path()).unwrap();
    sample.packs[0].push(&push).unwrap();
    let address = server.kill(&runtime);
    let settings = Settings::new(Admission::Open);
    let server = Running::start(&runtime, repository, address, settings, Encryption::None);
    let forgotten = push.missing(&sample.chunk_ids()).unwrap_err();
    assert_eq!(forgotten.trouble, Trouble::Unavailable);
    assert!(
        forgotten.action.contains("push again"),
        "{}",
        forgotten.action
    );
    let again = remote.push(spool.path()).unwrap();
    sample.push(&again).unwrap();
    again.end().unwrap();
    sample.check(&remote, &remote);
    server.kill(&runtime);
}

/// The registry sets the reference, and the answer is lost.
#[test]
fn a_reference_that_was_set_unheard_is_set() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let runtime = Runtime::new().unwrap();
    let spool = tempfile::tempdir().unwrap();
    let repository = repository();
    let server = Running::open(&runtime, repository.clone());
    let behind = server.address;
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    static SETS: AtomicUsize = AtomicUsize::new(0);
    // A link that swallows the first answer to a reference being set.
    runtime.spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(behind).await.unwrap();
                let mut question = vec![0; 1 << 16];
                loop {
                    let len = near.read(&mut question).await.unwrap_or(0);
                    if len == 0 || far.write_all(&question[..len]).await.is_err() {
                        return;
                    }
                    let mut answer = vec![0; 1 << 16];
                    let sets = question.starts_with(b"PUT /api/v1/refs");
                    let read = far.read(&mut answer).await.unwrap_or(0);
                    if sets && SETS.fetch_add(1, Ordering::SeqCst) == 0 {
                        return;
                    }
                    if near.write_all(&answer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let sample = Sample::new("demo/unheard", 3);
    sample.push(&repository.push()).unwrap();
    let name = "demo/other:1".parse().unwrap();
    let remote = client(&runtime, address, Deadlines::default());
    let push = remote.push(spool.path()).unwrap();
    push.set_ref(&name, None, &sample.index).unwrap();
    assert_eq!(SETS.load(Ordering::SeqCst), 2);
    assert_eq!(
        repository.get_ref(&name).unwrap(),
        Some(sample.index.clone())
    );
    let other = Sample::new("demo/unheard", 4);
    let refused = push.set_ref(&name, Some(&other.index), &other.index);
    assert_eq!(refused.unwrap_err().trouble, Trouble::Conflict);
}
