//! One NBD request under any rules: size of the disk (8 bytes), rules (1 byte), request; or an option: number and data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale_nbd::limits::{MAX_PAYLOAD_BYTES, MAX_STATUS_RUNS};
use shale_nbd::{Access, ClientOption, Command, REQUEST_BYTES, ReplyStyle, Request, Rules};

fuzz_target!(|data: &[u8]| {
    let Some((size, rest)) = data.split_first_chunk::<8>() else {
        return;
    };
    let Some((flags, rest)) = rest.split_first() else {
        return;
    };
    let _ = ClientOption::parse(u32::from(*flags), rest);
    let Some(bytes) = rest.first_chunk::<REQUEST_BYTES>() else {
        return;
    };
    let Ok(request) = Request::parse(bytes) else {
        return;
    };
    assert_eq!(&request.encode(), bytes);
    let rules = Rules {
        // What an export may have at most.
        size: u64::from_le_bytes(*size) >> 1,
        access: match flags & 1 {
            0 => Access::ReadOnly,
            _ => Access::ReadWrite,
        },
        style: match flags & 2 {
            0 => ReplyStyle::Simple,
            _ => ReplyStyle::Structured,
        },
        block_status: flags & 4 != 0,
    };
    let inside = |offset: u64, len: u32| {
        let end = offset.checked_add(u64::from(len));
        assert!(end.is_some_and(|end| end <= rules.size), "{request:?}");
    };
    let changes = || assert_eq!(rules.access, Access::ReadWrite, "{request:?}");
    match request.check(&rules) {
        Ok(Command::Read { offset, len } | Command::Cache { offset, len }) => {
            inside(offset, len);
            assert!(len <= MAX_PAYLOAD_BYTES);
        }
        Ok(Command::Write { offset, len, .. }) => {
            inside(offset, len);
            changes();
            assert!(len == request.payload_len() && len <= MAX_PAYLOAD_BYTES);
        }
        Ok(Command::Zero { offset, len, .. }) => {
            inside(offset, len);
            changes();
        }
        Ok(Command::Status { offset, len, runs }) => {
            inside(offset, len);
            assert!(rules.block_status && len > 0 && runs <= MAX_STATUS_RUNS);
        }
        Ok(Command::Flush | Command::Disconnect) | Err(_) => {}
    }
});
