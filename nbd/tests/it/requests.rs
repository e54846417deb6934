//! Requests and their replies, against a byte vector.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use shale_model::DeviceError;
use shale_nbd::{Access, Export, Exports, ReplyStyle};

use crate::client::*;
use crate::memory::{Call, Fault, Memory, UNIT};

const SIZE: usize = 64 * UNIT;
const STYLES: [ReplyStyle; 2] = [ReplyStyle::Simple, ReplyStyle::Structured];

fn one(memory: &std::sync::Arc<Memory>, access: Access) -> Exports {
    Exports::single(Export::new(memory.clone(), access)).unwrap()
}

/// What the model test sends.
#[derive(Debug, Clone)]
enum Step {
    Read(u64, u32, u16),
    Write(u64, Vec<u8>, u16),
    Zero(u16, u64, u32, u16),
    Status(u64, u32, u16),
    Flush,
    Cache(u64, u32),
}

fn a_step() -> impl Strategy<Value = Step> {
    // A few places and lengths, so that steps meet: aligned, across units, at the end, beyond it.
    let offset = prop_oneof![
        0..SIZE as u64 + 100,
        (0..64u64).prop_map(|unit| unit * 4096)
    ];
    let len = prop_oneof![0u32..300, Just(4096u32), 4000u32..20_000];
    let range = (offset, len);
    let fua = prop_oneof![Just(0), Just(FUA)];
    prop_oneof![
        (range.clone(), prop_oneof![Just(0), Just(DF)])
            .prop_map(|((offset, len), flags)| Step::Read(offset, len, flags)),
        (range.clone(), any::<u8>(), fua.clone()).prop_map(|((offset, len), byte, flags)| {
            let data = (0..len).map(|i| byte.wrapping_add(i as u8)).collect();
            Step::Write(offset, data, flags)
        }),
        (
            range.clone(),
            fua,
            prop_oneof![
                Just((TRIM, 0)),
                Just((WRITE_ZEROES, 0)),
                Just((WRITE_ZEROES, NO_HOLE)),
                Just((WRITE_ZEROES, FAST_ZERO))
            ],
        )
            .prop_map(|((offset, len), fua, (command, flags))| {
                Step::Zero(command, offset, len, fua | flags)
            }),
        (range.clone(), prop_oneof![Just(0), Just(REQ_ONE)])
            .prop_map(|((offset, len), flags)| Step::Status(offset, len, flags)),
        Just(Step::Flush),
        range.prop_map(|(offset, len)| Step::Cache(offset, len)),
    ]
}

/// Does a step on the server and on the model, and compares.
async fn check(client: &mut Client, model: &mut [u8], step: &Step, style: ReplyStyle) {
    let fits = |offset: u64, len: u32| offset + u64::from(len) <= SIZE as u64;
    let range = |offset: u64, len: u32| offset as usize..offset as usize + len as usize;
    let structured = style == ReplyStyle::Structured;
    let error = |answer: Answer, errno: u32| {
        let Answer::Error(got, text) = answer else {
            panic!("{step:?} got {answer:?}");
        };
        assert_eq!(got, errno, "{step:?}");
        assert_eq!(text.is_empty(), !structured);
    };
    match step {
        Step::Read(offset, len, flags) => {
            let answer = client.call(READ, *flags, *offset, *len, b"").await;
            if !fits(*offset, *len) || (*flags == DF && !structured) {
                return error(answer, EINVAL);
            }
            let data = model[range(*offset, *len)].to_vec();
            let expected = match (structured, *len) {
                (true, 0) => Answer::Done,
                (true, _) => Answer::Data(*offset, data),
                (false, _) => Answer::Data(u64::MAX, data),
            };
            assert_eq!(answer, expected, "{step:?}");
        }
        Step::Write(offset, data, flags) => {
            let answer = client.write(*flags, *offset, data).await;
            let len = data.len() as u32;
            if !fits(*offset, len) {
                return error(answer, ENOSPC);
            }
            model[range(*offset, len)].copy_from_slice(data);
            assert_eq!(answer, Answer::Done);
        }
        Step::Zero(command, offset, len, flags) => {
            let answer = client.call(*command, *flags, *offset, *len, b"").await;
            if !fits(*offset, *len) {
                let errno = if *command == TRIM { EINVAL } else { ENOSPC };
                return error(answer, errno);
            }
            model[range(*offset, *len)].fill(0);
            assert_eq!(answer, Answer::Done);
        }
        Step::Status(offset, len, flags) => {
            let answer = client.call(BLOCK_STATUS, *flags, *offset, *len, b"").await;
            if !structured || *len == 0 || !fits(*offset, *len) {
                return error(answer, EINVAL);
            }
            let Answer::Runs(runs) = answer else {
                panic!("{step:?} got {answer:?}");
            };
            assert!(*flags == 0 || runs.len() == 1);
            let mut at = *offset;
            for (run, state) in runs {
                assert!(state == 0 || state == 3);
                let here = &model[range(at, run)];
                assert!(state == 0 || here.iter().all(|byte| *byte == 0), "{step:?}");
                at += u64::from(run);
            }
            assert!(*flags == REQ_ONE || at == offset + u64::from(*len));
        }
        Step::Flush => assert_eq!(client.call(FLUSH, 0, 0, 0, b"").await, Answer::Done),
        Step::Cache(offset, len) => {
            let answer = client.call(CACHE, 0, *offset, *len, b"").await;
            match fits(*offset, *len) {
                true => assert_eq!(answer, Answer::Done),
                false => error(answer, EINVAL),
            }
        }
    }
}

#[test]
fn any_row_of_requests_does_what_it_does_to_a_byte_vector() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(64));
    let rows = prop::collection::vec(a_step(), 1..40);
    let done = runner.run(&rows, |steps| {
        runtime.block_on(async {
            for style in STYLES {
                let memory = Memory::patterned(SIZE);
                let mut model = memory.bytes();
                let (mut client, served, _) = connect(one(&memory, Access::ReadWrite));
                client.go("", style).await;
                for step in &steps {
                    check(&mut client, &mut model, step, style).await;
                }
                client.send(DISC, 0, 0, 0, b"").await;
                assert!(client.is_closed().await);
                served.await.unwrap().unwrap();
                assert!(memory.bytes() == model, "the disk differs after {steps:?}");
            }
        });
        Ok(())
    });
    done.unwrap();
}

#[tokio::test]
async fn replies_overtake_a_request_that_waits() {
    for style in STYLES {
        let memory = Memory::patterned(SIZE);
        memory.fault(0..1, Fault::Hold);
        let (mut client, ..) = connect(one(&memory, Access::ReadWrite));
        client.go("", style).await;
        let slow = client.send(READ, 0, 0, 512, b"").await;
        let write = client.send(WRITE, 0, 8192, 3, b"abc").await;
        let fast = client.send(READ, 0, 8192, 3, b"").await;
        assert_eq!(client.receive().await.unwrap().0, write);
        let (cookie, answer) = client.receive().await.unwrap();
        assert_eq!(cookie, fast);
        assert!(matches!(answer, Answer::Data(_, data) if data == b"abc"));
        memory.release(1);
        let (cookie, answer) = client.receive().await.unwrap();
        assert_eq!(cookie, slow);
        assert!(matches!(answer, Answer::Data(_, data) if data == memory.bytes()[..512]));
    }
}

#[tokio::test]
async fn a_change_with_fua_is_flushed_before_its_answer_and_others_are_not() {
    let memory = Memory::new(SIZE);
    let (mut client, ..) = connect(one(&memory, Access::ReadWrite));
    client.go("", ReplyStyle::Simple).await;
    for (command, flags, call) in [
        (WRITE, 0, Call::Write(0, 512)),
        (WRITE, FUA, Call::Write(0, 512)),
        (TRIM, FUA, Call::Zero(0, 512)),
        (WRITE_ZEROES, FUA, Call::Zero(0, 512)),
        (WRITE_ZEROES, NO_HOLE | FUA, Call::Write(0, 512)),
        (WRITE_ZEROES, NO_HOLE, Call::Write(0, 512)),
        (TRIM, 0, Call::Zero(0, 512)),
    ] {
        let data = vec![1; if command == WRITE { 512 } else { 0 }];
        let answer = client.call(command, flags, 0, 512, &data).await;
        assert_eq!(answer, Answer::Done);
        let mut expected = vec![call];
        if flags & FUA != 0 {
            expected.push(Call::Flush);
        }
        assert_eq!(memory.calls(), expected, "command {command} flags {flags}");
    }
}

#[tokio::test]
async fn zeroing_keeps_or_gives_back_its_room_as_asked() {
    let memory = Memory::new(SIZE);
    memory.fill(0, &[7; SIZE]);
    let (mut client, ..) = connect(one(&memory, Access::ReadWrite));
    client.go("", ReplyStyle::Structured).await;
    let unit = UNIT as u32;
    let zero = WRITE_ZEROES;
    let both = NO_HOLE | FAST_ZERO;
    assert_eq!(client.call(zero, NO_HOLE, 0, unit, b"").await, Answer::Done);
    assert_eq!(client.call(zero, 0, 4096, unit, b"").await, Answer::Done);
    assert_eq!(
        client.call(zero, FAST_ZERO, 8192, unit, b"").await,
        Answer::Done
    );
    assert_eq!(client.error(zero, both, 12288, unit, b"").await, ENOTSUP);
    let runs = client.call(BLOCK_STATUS, 0, 0, 4 * unit, b"").await;
    let expected = vec![(unit, 0), (2 * unit, 3), (unit, 0)];
    assert_eq!(runs, Answer::Runs(expected));
    assert!(memory.bytes()[..3 * UNIT].iter().all(|byte| *byte == 0));
    assert!(memory.is_allocated(0) && !memory.is_allocated(UNIT));
    let first = client
        .call(BLOCK_STATUS, REQ_ONE, 4096, 3 * unit, b"")
        .await;
    assert_eq!(first, Answer::Runs(vec![(2 * unit, 3)]));
}

#[tokio::test]
async fn a_read_only_export_refuses_every_change_and_goes_on() {
    for style in STYLES {
        let memory = Memory::patterned(SIZE);
        let before = memory.bytes();
        let (mut client, ..) = connect(one(&memory, Access::ReadOnly));
        let flags = client.go("", style).await;
        assert_eq!(flags & 0b1000_0110_0010, 0b10);
        // The data of the refused write must not be taken for a request.
        assert_eq!(
            client.error(WRITE, 0, 0, 100_000, &[9; 100_000]).await,
            EPERM
        );
        assert_eq!(client.error(TRIM, 0, 0, 512, b"").await, EPERM);
        assert_eq!(client.error(WRITE_ZEROES, 0, 0, 512, b"").await, EPERM);
        assert_eq!(client.call(FLUSH, 0, 0, 0, b"").await, Answer::Done);
        assert_eq!(client.read(0, 4096).await, before[..4096]);
        assert_eq!(memory.bytes(), before);
    }
}

#[tokio::test]
async fn errors_of_the_device_reach_the_client_with_their_reason() {
    let memory = Memory::new(SIZE);
    let unit = UNIT as u64;
    let io = DeviceError::Io("chunk b3:77 is damaged in every source".into());
    let full = DeviceError::NoSpace("the overlay's disk is full".into());
    memory.fault(0..unit, Fault::Fail(io.clone()));
    memory.fault(unit..2 * unit, Fault::Fail(full.clone()));
    memory.fault(2 * unit..3 * unit, Fault::Fail(DeviceError::ReadOnly));
    for style in STYLES {
        let (mut client, _, server) = connect(one(&memory, Access::ReadWrite));
        client.go("", style).await;
        let text = |error: &DeviceError| match style {
            ReplyStyle::Simple => String::new(),
            ReplyStyle::Structured => error.to_string(),
        };
        let read = client.call(READ, 0, 0, 512, b"").await;
        assert_eq!(read, Answer::Error(EIO, text(&io)));
        let write = client.write(0, unit, &[1; 512]).await;
        assert_eq!(write, Answer::Error(ENOSPC, text(&full)));
        let zero = client.call(WRITE_ZEROES, 0, 2 * unit, 512, b"").await;
        assert_eq!(zero, Answer::Error(EPERM, text(&DeviceError::ReadOnly)));
        assert_eq!(client.read(3 * unit, 512).await, [0; 512]);
        let errors = &server.counters().errors;
        assert_eq!(errors.load(std::sync::atomic::Ordering::Relaxed), 3);
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_and_the_next_one_works() {
    let memory = Memory::patterned(SIZE);
    let (mut client, ..) = connect(one(&memory, Access::ReadWrite));
    client.go("", ReplyStyle::Structured).await;
    let end = SIZE as u64;
    for (command, flags, offset, len, errno) in [
        (READ, 0, end, 1, EINVAL),
        (READ, 0, u64::MAX, u32::MAX, EINVAL),
        (READ, NO_HOLE, 0, 1, EINVAL),
        (WRITE_ZEROES, 0, end, 1, ENOSPC),
        (TRIM, FAST_ZERO, 0, 1, EINVAL),
        (FLUSH, 0, 5, 0, EINVAL),
        (77, 0, 0, 0, EINVAL),
        (0xffff, 0xffff, u64::MAX, u32::MAX, EINVAL),
    ] {
        let got = client.error(command, flags, offset, len, b"").await;
        assert_eq!(got, errno, "command {command} flags {flags}");
    }
    assert_eq!(client.error(WRITE, 0, end - 1, 2, b"ab").await, ENOSPC);
    assert_eq!(client.error(WRITE, DF, 0, 2, b"ab").await, EINVAL);
    assert_eq!(client.read(0, 9).await, memory.bytes()[..9]);
}
