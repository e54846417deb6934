//! Handshakes, good and bad.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use shale_nbd::limits::{MAX_OPTION_BYTES, MAX_OPTIONS};
use shale_nbd::{
    Access, ConnectionError, Export, ExportError, Exports, Handshake, HandshakeError, Progress,
    ReplyStyle, Settings,
};

use crate::client::*;
use crate::memory::Memory;

const SIZE: usize = 1 << 20;

/// A read-write default export, and a read-only one called `iso` with a description.
fn exports() -> Exports {
    let mut exports = Exports::single(Export::new(Memory::new(SIZE), Access::ReadWrite)).unwrap();
    let mut iso = Export::new(Memory::new(2 * SIZE), Access::ReadOnly);
    iso.description = "an installer".into();
    exports.add("iso", iso).unwrap();
    exports
}

fn handshake_error(error: ConnectionError) -> HandshakeError {
    match error {
        ConnectionError::Handshake(error) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn list_names_every_export_with_its_description() {
    let (mut client, served, _) = connect(exports());
    client.greet(3).await;
    let (kind, replies) = client.option(OPT_LIST, b"").await;
    assert_eq!(kind, ACK);
    let expected = [
        (SERVER, b"\0\0\0\0".to_vec()),
        (SERVER, b"\0\0\0\x03isoan installer".to_vec()),
    ];
    assert_eq!(replies, expected);
    assert_eq!(client.option(OPT_LIST, b"x").await.0, ERR_INVALID);
    assert_eq!(client.option(OPT_ABORT, b"whatever").await.0, ACK);
    assert!(client.is_closed().await);
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn info_tells_size_flags_and_block_sizes_and_what_was_asked() {
    let (mut client, ..) = connect(exports());
    client.greet(3).await;
    let (kind, infos) = client.option(OPT_INFO, &info("iso", &[1, 2, 3, 77])).await;
    assert_eq!(kind, ACK);
    let mut export = vec![0, 0];
    export.extend_from_slice(&(2 * SIZE as u64).to_be_bytes());
    // HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, CAN_MULTI_CONN, SEND_CACHE.
    export.extend_from_slice(&0b0101_0000_1111_u16.to_be_bytes());
    let blocks = vec![0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0];
    let expected = [
        export,
        blocks,
        b"\0\x01iso".to_vec(),
        b"\0\x02an installer".to_vec(),
    ];
    assert_eq!(infos, expected.map(|data| (INFO, data)));
    let (_, infos) = client.option(OPT_INFO, &info("", &[])).await;
    // Also SEND_TRIM, SEND_WRITE_ZEROES and SEND_FAST_ZERO; no READ_ONLY.
    assert_eq!(infos[0].1[10..], 0b1101_0110_1101_u16.to_be_bytes());
    assert_eq!(client.option(OPT_STRUCTURED_REPLY, b"").await.0, ACK);
    let (_, infos) = client.option(OPT_INFO, &info("", &[])).await;
    // With structured replies also SEND_DF.
    assert_eq!(infos[0].1[10..], 0b1101_1110_1101_u16.to_be_bytes());
}

#[tokio::test]
async fn refused_options_leave_the_handshake_usable() {
    let (mut client, ..) = connect(exports());
    client.greet(3).await;
    let query = meta("", &["base:allocation"]);
    let cases: [(u32, &[u8], u32); 10] = [
        (OPT_STARTTLS, b"", ERR_UNSUP),
        (4, b"", ERR_UNSUP),
        (0xdead_beef, b"some data", ERR_UNSUP),
        (OPT_STRUCTURED_REPLY, b"data", ERR_INVALID),
        (OPT_INFO, b"\xff\xff\xff\xff", ERR_INVALID),
        (OPT_GO, &info("", &[1])[..7], ERR_INVALID),
        (OPT_GO, &info("none", &[]), ERR_UNKNOWN),
        (OPT_GO, &info(&"x".repeat(4097), &[]), ERR_TOO_BIG),
        (OPT_SET_META_CONTEXT, &query, ERR_INVALID),
        (
            OPT_LIST_META_CONTEXT,
            &meta("none", &["base:"]),
            ERR_UNKNOWN,
        ),
    ];
    for (option, data, error) in cases {
        let (kind, replies) = client.option(option, data).await;
        assert_eq!(kind, error, "option {option}");
        assert!(replies.is_empty());
    }
    assert_eq!(client.option(OPT_GO, &info("iso", &[])).await.0, ACK);
    assert_eq!(client.read(0, 512).await, [0; 512]);
}

#[tokio::test]
async fn metadata_contexts_are_listed_and_chosen_by_query() {
    let (mut client, ..) = connect(exports());
    client.greet(3).await;
    client.option(OPT_STRUCTURED_REPLY, b"").await;
    let found = |id: u8| {
        let mut data = vec![0, 0, 0, id];
        data.extend_from_slice(b"base:allocation");
        vec![(META_CONTEXT, data)]
    };
    let cases: [(u32, &[&str], OptionReplies); 8] = [
        (OPT_LIST_META_CONTEXT, &[], found(0)),
        (OPT_LIST_META_CONTEXT, &["base:"], found(0)),
        (OPT_LIST_META_CONTEXT, &["x:y", "base:allocation"], found(0)),
        (OPT_LIST_META_CONTEXT, &["qemu:dirty-bitmap"], vec![]),
        (OPT_SET_META_CONTEXT, &[], vec![]),
        (OPT_SET_META_CONTEXT, &["base:"], vec![]),
        (OPT_SET_META_CONTEXT, &["base:other", "x:y"], vec![]),
        (OPT_SET_META_CONTEXT, &["x:y", "base:allocation"], found(1)),
    ];
    for (option, queries, contexts) in cases {
        let answer = client.option(option, &meta("", queries)).await;
        assert_eq!(answer, (ACK, contexts), "option {option}, {queries:?}");
    }
}

#[tokio::test]
async fn a_context_chosen_for_another_export_or_taken_back_does_not_count() {
    for spoil in [
        meta("iso", &["base:allocation"]),
        meta("", &[]),
        b"bad".to_vec(),
    ] {
        let (mut client, ..) = connect(exports());
        client.greet(3).await;
        client.option(OPT_STRUCTURED_REPLY, b"").await;
        let query = meta("", &["base:allocation"]);
        client.option(OPT_SET_META_CONTEXT, &query).await;
        client.option(OPT_SET_META_CONTEXT, &spoil).await;
        assert_eq!(client.option(OPT_GO, &info("", &[])).await.0, ACK);
        assert_eq!(client.error(BLOCK_STATUS, 0, 0, 512, b"").await, EINVAL);
    }
}

#[tokio::test]
async fn the_oldest_way_to_choose_an_export_works() {
    for (flags, padding) in [(3, 0), (1, 124), (0, 124)] {
        let (mut client, ..) = connect(exports());
        client.greet(flags).await;
        client.send_option(OPT_EXPORT_NAME, b"iso").await;
        let head: [u8; 10] = client.read_array().await.unwrap();
        assert_eq!(be64(&head), 2 * SIZE as u64);
        assert_eq!(client.read_vec(padding).await.unwrap(), vec![0; padding]);
        assert_eq!(client.read(4096, 10).await, [0; 10]);
    }
    for name in [&b"none"[..], b"\xff"] {
        let (mut client, served, _) = connect(exports());
        client.greet(3).await;
        client.send_option(OPT_EXPORT_NAME, name).await;
        assert!(client.is_closed().await);
        let error = handshake_error(served.await.unwrap().unwrap_err());
        assert!(matches!(
            error,
            HandshakeError::NoExport(_) | HandshakeError::BadName(_)
        ));
    }
}

#[tokio::test]
async fn an_endless_row_of_options_ends() {
    let (client, served, _) = connect(exports());
    let (mut reader, mut writer) = client.stream.into_split();
    // Reads what comes, so that the server is not merely stuck on a full socket.
    let answers = tokio::spawn(async move {
        tokio::io::copy(&mut reader, &mut tokio::io::sink())
            .await
            .unwrap_or(0)
    });
    use tokio::io::AsyncWriteExt;
    writer.write_all(&3u32.to_be_bytes()).await.unwrap();
    let mut option = b"IHAVEOPT".to_vec();
    option.extend_from_slice(&[0, 0, 0, 99, 0, 0, 0, 0]);
    let mut sent = 0;
    while writer.write_all(&option).await.is_ok() {
        sent += 1;
        assert!(sent < 1_000_000);
    }
    let error = handshake_error(served.await.unwrap().unwrap_err());
    assert_eq!(error, HandshakeError::TooManyOptions);
    assert!(answers.await.unwrap() <= 18 + 20 * MAX_OPTIONS as u64);
}

#[tokio::test]
async fn what_breaks_the_handshake_is_told_apart() {
    let long = MAX_OPTION_BYTES + 1;

    let (mut client, served, _) = connect(exports());
    client.greet(3).await;
    client.try_send_option(OPT_LIST, long, b"").await.unwrap();
    let (kind, _) = client.option_reply(OPT_LIST).await.unwrap();
    assert_eq!(kind, ERR_TOO_BIG);
    assert!(client.is_closed().await);
    let error = handshake_error(served.await.unwrap().unwrap_err());
    assert_eq!(error, HandshakeError::LongOption(long));

    let (mut client, served, _) = connect(exports());
    client.greet(4).await;
    assert!(client.is_closed().await);
    let error = handshake_error(served.await.unwrap().unwrap_err());
    assert_eq!(error, HandshakeError::Flags(4));

    let (mut client, served, _) = connect(exports());
    use tokio::io::AsyncWriteExt;
    client
        .stream
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let greeting: [u8; 18] = client.read_array().await.unwrap();
    assert!(greeting.starts_with(b"NBDMAGIC"));
    assert!(client.is_closed().await);
    assert!(served.await.unwrap().is_err());
}

#[tokio::test]
async fn a_slow_handshake_ends_at_its_deadline() {
    let settings = Settings {
        handshake_deadline: Duration::from_millis(50),
        ..Settings::default()
    };
    let (mut client, served, _) = connect_with(exports(), settings);
    client.greet(3).await;
    assert!(client.is_closed().await);
    let error = served.await.unwrap().unwrap_err();
    assert!(matches!(error, ConnectionError::HandshakeDeadline));
}

#[test]
fn impossible_exports_are_refused() {
    let export = || Export::new(Memory::new(SIZE), Access::ReadOnly);
    let mut exports = Exports::new();
    exports.add("a", export()).unwrap();
    assert_eq!(
        exports.add("a", export()),
        Err(ExportError::Duplicate("a".into()))
    );
    assert_eq!(
        exports.add("a\0", export()),
        Err(ExportError::Nul { what: "name" })
    );
    let long = exports.add("x".repeat(4097), export());
    assert_eq!(
        long,
        Err(ExportError::TooLong {
            what: "name",
            len: 4097
        })
    );
}

/// Runs a handshake over what a client might say; the bytes that it answered, and how it ended.
fn run(
    handshake: &mut Handshake,
    mut said: &[u8],
) -> (usize, Result<Option<Progress>, HandshakeError>) {
    let mut out = Vec::new();
    let mut answered = 0;
    loop {
        let Some((now, later)) = said.split_at_checked(handshake.wants()) else {
            return (answered, Ok(None));
        };
        said = later;
        let progress = handshake.take(now, &mut out);
        answered += out.len();
        out.clear();
        match progress {
            Ok(Progress::More) => {}
            Ok(end) => return (answered, Ok(Some(end))),
            Err(error) => return (answered, Err(error)),
        }
    }
}

/// Options as a client in its right mind, or not quite, would send them.
fn an_option() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![Just(""), Just("iso"), Just("none")];
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        name.clone().prop_map(|name| info(name, &[1, 2])),
        name.prop_map(|name| meta(name, &["base:allocation"])),
    ];
    let lie = prop_oneof![9 => Just(0i64), 1 => -3i64..20_000];
    (0u32..12, data, lie).prop_map(|(option, data, lie)| {
        let len = (data.len() as i64 + lie).max(0) as u32;
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend_from_slice(&option.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend(data);
        bytes
    })
}

proptest! {
    #[test]
    fn no_client_makes_the_handshake_panic_or_talk_without_end(
        flags in 0u32..5, options in prop::collection::vec(an_option(), 0..20), noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut said = flags.to_be_bytes().to_vec();
        let count = options.len();
        options.into_iter().for_each(|option| said.extend(option));
        said.extend(noise);
        let (answered, _) = run(&mut Handshake::new(Arc::new(exports())), &said);
        prop_assert!(answered <= (count + 3) * 400);
    }

    #[test]
    fn what_was_agreed_is_what_was_asked(structured: bool, status: bool) {
        let mut said = 3u32.to_be_bytes().to_vec();
        let mut option = |option: u32, data: &[u8]| {
            said.extend_from_slice(b"IHAVEOPT");
            said.extend_from_slice(&option.to_be_bytes());
            said.extend_from_slice(&(data.len() as u32).to_be_bytes());
            said.extend_from_slice(data);
        };
        if structured {
            option(OPT_STRUCTURED_REPLY, b"");
        }
        if status {
            option(OPT_SET_META_CONTEXT, &meta("iso", &["base:allocation"]));
        }
        option(OPT_GO, &info("iso", &[]));
        let (_, end) = run(&mut Handshake::new(Arc::new(exports())), &said);
        let Ok(Some(Progress::Transmit(session))) = end else { panic!("no session") };
        prop_assert_eq!(session.style == ReplyStyle::Structured, structured);
        prop_assert_eq!(session.block_status, structured && status);
        prop_assert_eq!(session.export.access, Access::ReadOnly);
    }
}
