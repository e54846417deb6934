//! One FUSE request, as the kernel would send it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale_fusefs::{Op, Request};

fuzz_target!(|data: &[u8]| {
    // Its length is mended: else nothing would be reached behind it.
    let mut bytes = data.to_vec();
    let _ = Request::parse(&bytes);
    if let Some(len) = bytes.first_chunk_mut() {
        *len = (data.len() as u32).to_ne_bytes();
    }
    match Request::parse(&bytes) {
        Ok(request) => {
            let len = match request.op {
                Op::Lookup(name) | Op::GetXattr { name, .. } => {
                    assert!(!name.contains(&0));
                    name.len()
                }
                Op::Write { data, .. } => data.len(),
                _ => 0,
            };
            assert!(len + 40 <= bytes.len());
        }
        Err(malformed) => assert_eq!(malformed.unique.is_some(), bytes.len() >= 40),
    }
});
