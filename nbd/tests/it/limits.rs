//! Clients that ask for too much, do not listen, or die.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use shale_nbd::limits::{
    INPUT_BYTES, MAX_BYTES_IN_FLIGHT, MAX_PAYLOAD_BYTES, MAX_REQUESTS_IN_FLIGHT, MAX_UNSENT_BYTES,
};
use shale_nbd::{Access, ConnectionError, Export, Exports, ReplyStyle, TransmissionError};
use tokio::io::AsyncWriteExt;

use crate::client::*;
use crate::memory::{Fault, Memory};

const MIB: usize = 1 << 20;
const STYLE: ReplyStyle = ReplyStyle::Structured;

fn one(memory: &Arc<Memory>) -> Exports {
    Exports::single(Export::new(memory.clone(), Access::ReadWrite)).unwrap()
}

/// Waits until a condition holds that another task brings about.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Lets other tasks do what they would do, if they did.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn reads_and_writes_beyond_the_largest_are_refused_and_the_largest_work() {
    let memory = Memory::new(40 * MIB);
    let (mut client, ..) = connect(one(&memory));
    client.go("", STYLE).await;
    let long = MAX_PAYLOAD_BYTES + 1;
    assert_eq!(client.error(READ, 0, 0, long, b"").await, EINVAL);
    assert_eq!(client.error(CACHE, 0, 0, long, b"").await, EINVAL);
    // All of its data is sent and dropped.
    let data = vec![5; long as usize];
    assert_eq!(client.error(WRITE, 0, 0, long, &data).await, EINVAL);
    assert!(memory.calls().is_empty());
    let data = &data[..MAX_PAYLOAD_BYTES as usize];
    assert_eq!(client.write(0, 4096, data).await, Answer::Done);
    assert!(client.read(4096, MAX_PAYLOAD_BYTES).await == data);
}

#[tokio::test]
async fn only_so_many_requests_are_in_flight() {
    let memory = Memory::new(MIB);
    memory.fault(0..4096, Fault::Hold);
    let (mut client, ..) = connect(one(&memory));
    client.go("", STYLE).await;
    let total = MAX_REQUESTS_IN_FLIGHT + 70;
    for _ in 0..total {
        client.send(READ, 0, 0, 512, b"").await;
    }
    eventually("all are begun that may be", || {
        memory.open_calls() == MAX_REQUESTS_IN_FLIGHT
    })
    .await;
    settle().await;
    assert_eq!(memory.open_calls(), MAX_REQUESTS_IN_FLIGHT);
    memory.release(total);
    for _ in 0..total {
        let (_, answer) = client.receive().await.unwrap();
        assert!(matches!(answer, Answer::Data(0, data) if data == [0; 512]));
    }
}

#[tokio::test]
async fn only_so_many_bytes_are_in_flight() {
    let memory = Memory::new(33 * MIB);
    memory.fault(0..1, Fault::Hold);
    let (mut client, ..) = connect(one(&memory));
    client.go("", STYLE).await;
    for _ in 0..5 {
        client.send(READ, 0, 0, MAX_PAYLOAD_BYTES, b"").await;
    }
    let most = MAX_BYTES_IN_FLIGHT / MAX_PAYLOAD_BYTES as usize;
    eventually("two are begun", || memory.open_calls() == most).await;
    settle().await;
    assert_eq!(memory.open_calls(), most);
    memory.release(5);
    for _ in 0..5 {
        let (_, answer) = client.receive().await.unwrap();
        assert!(
            matches!(answer, Answer::Data(0, data) if data.len() == MAX_PAYLOAD_BYTES as usize)
        );
    }
}

#[tokio::test]
async fn a_client_that_does_not_listen_gets_no_more_work_done() {
    let memory = Memory::new(MIB);
    let (mut client, ..) = connect(one(&memory));
    client.go("", STYLE).await;
    let len = 64 * 1024;
    let total = 200;
    for _ in 0..total {
        client.send(READ, 0, 0, len as u32, b"").await;
    }
    settle().await;
    settle().await;
    // What waits here and what the system's socket buffers hold.
    let most = MAX_UNSENT_BYTES / len + INPUT_BYTES / len + 16;
    let begun = memory.calls().len();
    assert!(begun > 0 && begun <= most, "{begun} reads were begun");
    for _ in 0..total {
        client.receive().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_dies_in_a_request_leaves_nothing_and_disturbs_nobody() {
    let memory = Memory::patterned(MIB);
    let before = memory.bytes();
    let (mut other, _, server) = connect(one(&memory));
    other.go("", STYLE).await;
    let whole = shale_nbd::Request {
        flags: 0,
        command: WRITE,
        cookie: 1,
        offset: 0,
        len: 200_000,
    };
    let head = whole.encode();
    for (sent, data) in [(5, 0), (28, 0), (28, 1000), (28, 199_999)] {
        let (mut client, served) = connect_to(&server);
        client.go("", STYLE).await;
        client.stream.write_all(&head[..sent]).await.unwrap();
        client.stream.write_all(&vec![1; data]).await.unwrap();
        drop(client);
        let error = served.await.unwrap().unwrap_err();
        let cut = ConnectionError::Transmission(TransmissionError::Cut);
        assert_eq!(format!("{error:?}"), format!("{cut:?}"));
    }
    let (mut client, served) = connect_to(&server);
    client.go("", STYLE).await;
    client.stream.write_all(&[0x17; 28]).await.unwrap();
    assert!(client.is_closed().await);
    let error = served.await.unwrap().unwrap_err();
    assert!(matches!(
        error,
        ConnectionError::Transmission(TransmissionError::BadMagic(_))
    ));
    assert!(memory.bytes() == before);
    assert_eq!(other.read(0, 4096).await, before[..4096]);
}

#[tokio::test]
async fn what_a_dead_client_waited_for_is_given_up() {
    let memory = Memory::new(MIB);
    memory.fault(0..1, Fault::Hold);
    let (mut client, served, _) = connect(one(&memory));
    client.go("", STYLE).await;
    for _ in 0..10 {
        client.send(WRITE, 0, 0, 3, b"abc").await;
    }
    eventually("all wait", || memory.open_calls() == 10).await;
    drop(client);
    served.await.unwrap().unwrap();
    assert_eq!(memory.open_calls(), 0);
    memory.release(10);
    settle().await;
    assert_eq!(memory.bytes()[..3], [0; 3]);
}

#[tokio::test]
async fn a_device_that_panics_ends_one_connection() {
    let memory = Memory::new(MIB);
    memory.fault(0..1, Fault::Panic);
    let (mut other, _, server) = connect(one(&memory));
    other.go("", STYLE).await;
    let (mut client, served) = connect_to(&server);
    client.go("", STYLE).await;
    client.send(READ, 0, 0, 1, b"").await;
    assert!(client.is_closed().await);
    assert!(served.await.unwrap_err().is_panic());
    assert_eq!(memory.open_calls(), 0);
    assert_eq!(other.read(4096, 1).await, [0]);
}

/// Requests of every kind with fields that may be absurd, and data that may be missing.
fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    let command = prop_oneof![9 => 0u16..9, 1 => any::<u16>()];
    let flags = prop_oneof![3 => Just(0u16), 2 => 0u16..64, 1 => any::<u16>()];
    let offset = prop_oneof![4 => 0..MIB as u64, 1 => any::<u64>()];
    let len = prop_oneof![6 => 0u32..9000, 1 => any::<u32>()];
    let data = prop_oneof![
        9 => Just(None),
        1 => prop::collection::vec(any::<u8>(), 0..100).prop_map(Some),
    ];
    (command, flags, offset, len, any::<u64>(), data).prop_map(
        |(command, flags, offset, len, cookie, data)| {
            let request = shale_nbd::Request {
                flags,
                command,
                cookie,
                offset,
                len,
            };
            let honest = match command {
                WRITE => vec![1; (len as usize).min(100_000)],
                _ => vec![],
            };
            let mut bytes = request.encode().to_vec();
            bytes.extend(data.unwrap_or(honest));
            bytes
        },
    )
}

#[test]
fn whatever_a_client_sends_its_connection_ends_in_order() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(100));
    let said = prop::collection::vec(some_bytes(), 0..30);
    let done = runner.run(&said, |said| {
        runtime.block_on(async {
            let memory = Memory::patterned(MIB);
            let (mut client, served, _) = connect(one(&memory));
            client.go("", STYLE).await;
            let (mut reader, mut writer) = client.stream.into_split();
            let listen = tokio::spawn(async move {
                drop(tokio::io::copy(&mut reader, &mut tokio::io::sink()).await);
            });
            // The server may hang up amid this, which is its right.
            drop(writer.write_all(&said.concat()).await);
            drop(writer);
            // A panic of the server, as the device's when a range leaves the disk, is an error here.
            let ended = tokio::time::timeout(PATIENCE, served).await;
            drop(ended.expect("the connection goes on").expect("a panic"));
            listen.await.unwrap();
            assert_eq!(memory.open_calls(), 0);
        });
        Ok(())
    });
    done.unwrap();
}
