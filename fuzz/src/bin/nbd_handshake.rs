//! A client's side of the NBD handshake, and the requests after it.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use shale_model::{BlockDevice, BlockRun, BoxFuture, DeviceResult};
use shale_nbd::limits::{MAX_OPTION_BYTES, MAX_STRING_BYTES};
use shale_nbd::{
    Access, Export, Exports, Handshake, Progress, REQUEST_BYTES, Request, Rules, Session,
};

static EXPORTS: LazyLock<Arc<Exports>> = LazyLock::new(|| {
    let mut exports = Exports::new();
    for (name, access) in [("", Access::ReadWrite), ("disk", Access::ReadOnly)] {
        let mut export = Export::new(Arc::new(Nothing), access);
        export.description = "a disk".repeat(name.len());
        exports.add(name, export).expect("a good export");
    }
    Arc::new(exports)
});

fuzz_target!(|data: &[u8]| {
    let mut handshake = Handshake::new(Arc::clone(&EXPORTS));
    let mut rest = data;
    loop {
        let wants = handshake.wants();
        assert!(wants <= MAX_OPTION_BYTES as usize);
        let Some((input, after)) = rest.split_at_checked(wants) else {
            return;
        };
        rest = after;
        let mut out = Vec::new();
        let progress = handshake.take(input, &mut out);
        // A reply repeats at most what was asked.
        assert!(out.len() <= 8 * (MAX_STRING_BYTES + MAX_OPTION_BYTES as usize));
        match progress {
            Ok(Progress::More) => {}
            Ok(Progress::Transmit(session)) => return requests(&session, rest),
            Ok(Progress::Closed) | Err(_) => return,
        }
    }
});

fn requests(session: &Session, mut rest: &[u8]) {
    let rules = Rules {
        size: session.export.device.size(),
        access: session.export.access,
        style: session.style,
        block_status: session.block_status,
    };
    while let Some((bytes, after)) = rest.split_first_chunk::<REQUEST_BYTES>() {
        let Ok(request) = Request::parse(bytes) else {
            return;
        };
        let _ = request.check(&rules);
        let payload = request.payload_len() as usize;
        rest = after.get(payload..).unwrap_or(&[]);
    }
}

/// A disk whose size alone is asked for.
struct Nothing;

impl BlockDevice for Nothing {
    fn size(&self) -> u64 {
        1 << 30
    }

    fn read<'a>(&'a self, _: u64, _: &'a mut [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn write<'a>(&'a self, _: u64, _: &'a [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn zero(&self, _: u64, _: u64) -> BoxFuture<'_, DeviceResult<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn flush(&self) -> BoxFuture<'_, DeviceResult<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn status(&self, _: u64, _: u64) -> BoxFuture<'_, DeviceResult<Vec<BlockRun>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}
