//! Listening, stopping, counting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shale_nbd::{
    Access, ConnectionError, Export, Exports, ReplyStyle, Server, Settings, listen_unix,
};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::client::*;
use crate::limits::eventually;
use crate::memory::{Fault, Memory};

const SIZE: usize = 1 << 20;
const STYLE: ReplyStyle = ReplyStyle::Structured;

fn one(memory: &Arc<Memory>) -> Exports {
    Exports::single(Export::new(memory.clone(), Access::ReadWrite)).unwrap()
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight_and_closes() {
    let memory = Memory::new(SIZE);
    memory.fault(0..1, Fault::Hold);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let server = Server::new(one(&memory), Settings::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let listener = listen_unix(&path).unwrap();
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve(listener, async { drop(stopped.await) }).await }
    });
    let mut busy = Client::new(UnixStream::connect(&path).await.unwrap());
    let mut idle = Client::new(UnixStream::connect(&path).await.unwrap());
    let mut new = Client::new(UnixStream::connect(&path).await.unwrap());
    busy.go("", STYLE).await;
    idle.go("", STYLE).await;
    new.greet(3).await;
    let write = busy.send(WRITE, FUA, 0, 3, b"abc").await;
    eventually("the write waits", || memory.open_calls() == 1).await;
    stop.send(()).unwrap();
    assert!(idle.is_closed().await);
    assert!(new.is_closed().await);
    assert!(UnixStream::connect(&path).await.is_err());
    assert!(!serving.is_finished());
    memory.release(1);
    assert_eq!(busy.receive().await.unwrap(), (write, Answer::Done));
    assert!(busy.is_closed().await);
    serving.await.unwrap().unwrap();
    assert_eq!(memory.bytes()[..3], *b"abc");
    let counters = server.counters();
    assert_eq!(get(&counters.connections_opened), 3);
    assert_eq!(get(&counters.connections_closed), 3);
    assert_eq!(get(&counters.connections_failed), 0);
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_given_up() {
    let memory = Memory::new(SIZE);
    memory.fault(0..1, Fault::Hold);
    let settings = Settings {
        drain_deadline: Duration::from_millis(50),
        ..Settings::default()
    };
    let (mut client, served, server) = connect_with(one(&memory), settings);
    client.go("", STYLE).await;
    client.send(READ, 0, 0, 1, b"").await;
    client.send(DISC, 0, 0, 0, b"").await;
    let error = served.await.unwrap().unwrap_err();
    assert!(matches!(error, ConnectionError::DrainDeadline));
    assert!(client.is_closed().await);
    assert_eq!(memory.open_calls(), 0);
    assert_eq!(get(&server.counters().connections_failed), 1);
}

#[tokio::test]
async fn goodbye_waits_for_the_answers_before_it() {
    let memory = Memory::new(SIZE);
    memory.fault(0..1, Fault::Hold);
    let (mut client, served, _) = connect(one(&memory));
    client.go("", STYLE).await;
    let write = client.send(WRITE, 0, 0, 3, b"abc").await;
    let goodbye = client.send(DISC, 0, 0, 0, b"").await;
    // Whatever follows a goodbye is not looked at.
    client.send(WRITE, 0, 8192, 3, b"xyz").await;
    assert_ne!(write, goodbye);
    memory.release(1);
    assert_eq!(client.receive().await.unwrap(), (write, Answer::Done));
    assert!(client.is_closed().await);
    served.await.unwrap().unwrap();
    assert_eq!(memory.bytes()[8192..8195], [0; 3]);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let memory = Memory::patterned(SIZE);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let settings = Settings {
        max_connections: 2,
        ..Settings::default()
    };
    let server = Server::new(one(&memory), settings);
    let listener = listen_unix(&path).unwrap();
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve(listener, std::future::pending()).await }
    });
    let mut first = Client::new(UnixStream::connect(&path).await.unwrap());
    first.go("", STYLE).await;
    let mut second = Client::new(UnixStream::connect(&path).await.unwrap());
    second.go("", STYLE).await;
    let mut third = Client::new(UnixStream::connect(&path).await.unwrap());
    let early = tokio::time::timeout(Duration::from_millis(50), third.stream.readable()).await;
    assert!(early.is_err(), "the third connection was greeted");
    // Connections share the disk: what one flushed, another reads.
    assert_eq!(first.write(FUA, 0, b"abc").await, Answer::Done);
    assert_eq!(second.read(0, 3).await, b"abc");
    drop(first);
    third.go("", STYLE).await;
    assert_eq!(third.read(0, 3).await, b"abc");
    serving.abort();
}

#[tokio::test]
async fn counters_count() {
    let memory = Memory::new(SIZE);
    let (mut client, served, server) = connect(one(&memory));
    client.go("", STYLE).await;
    client.read(0, 512).await;
    client.read(0, 1024).await;
    client.write(0, 0, &[1; 100]).await;
    client.call(TRIM, 0, 0, 512, b"").await;
    client.call(FLUSH, 0, 0, 0, b"").await;
    client.error(READ, 0, SIZE as u64, 1, b"").await;
    drop(client);
    served.await.unwrap().unwrap();
    let counters = server.counters();
    let got = [
        &counters.connections_opened,
        &counters.connections_closed,
        &counters.connections_failed,
        &counters.reads,
        &counters.read_bytes,
        &counters.writes,
        &counters.written_bytes,
        &counters.zeroes,
        &counters.flushes,
        &counters.errors,
    ]
    .map(get);
    assert_eq!(got, [1, 1, 0, 2, 1536, 1, 100, 1, 1, 1]);
}

#[tokio::test]
async fn any_stream_can_be_served() {
    // A stream in memory with a buffer smaller than a reply: everything goes in pieces.
    let memory = Memory::patterned(SIZE);
    let server = Server::new(one(&memory), Settings::default());
    let (ours, theirs) = tokio::io::duplex(100);
    let served = tokio::spawn(async move {
        server
            .serve_connection(theirs, std::future::pending())
            .await
    });
    let (near, far) = UnixStream::pair().unwrap();
    let bridge = tokio::spawn(async move {
        let (mut ours, mut far) = (ours, far);
        drop(tokio::io::copy_bidirectional(&mut ours, &mut far).await);
    });
    let mut client = Client::new(near);
    client.go("", STYLE).await;
    assert_eq!(client.write(0, 4096, &[3; 70_000]).await, Answer::Done);
    assert!(client.read(0, 100_000).await == memory.bytes()[..100_000]);
    client.send(DISC, 0, 0, 0, b"").await;
    served.await.unwrap().unwrap();
    drop(client);
    bridge.await.unwrap();
}
