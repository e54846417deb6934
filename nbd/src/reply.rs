//! Replies, written into the buffer of their request.
//!
//! ```text
//! simple:  u32 magic | u32 error | u64 cookie | data of a read
//! chunk:   u32 magic | u16 flags | u16 type | u64 cookie | u32 length | payload
//! payload: data   u64 offset | data
//!          status u32 context | n * (u32 length | u32 flags)
//!          error  u32 error | u16 length | text
//! ```

use shale_model::BlockRun;

use crate::limits::MAX_MESSAGE_BYTES;
use crate::pool::{Buffer, HEAD_BYTES};
use crate::proto::{self, Errno};

/// How reads are answered, and errors where there is a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyStyle {
    /// A number and the data.
    Simple,
    /// Chunks that tell their length and offset; errors have a text.
    Structured,
}

/// A reply that is ready to be sent.
pub(crate) struct Reply {
    buffer: Buffer,
    start: usize,
    end: usize,
    /// Whether it tells an error.
    pub(crate) failed: bool,
}

/// What replies to one request have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyTo {
    pub(crate) style: ReplyStyle,
    pub(crate) cookie: u64,
}

impl Reply {
    /// What is to be sent.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer
            .bytes()
            .get(self.start..self.end)
            .unwrap_or_default()
    }

    /// Takes the first `len` bytes away: they are sent.
    pub(crate) fn advance(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
    }

    /// The buffer, to be used again.
    pub(crate) fn into_buffer(self) -> Buffer {
        self.buffer
    }

    /// What the reply counts for the limit of bytes in flight.
    pub(crate) fn cost(&self) -> usize {
        self.buffer.len()
    }

    fn new(buffer: Buffer, start: usize, end: usize) -> Self {
        Self {
            buffer,
            start,
            end,
            failed: false,
        }
    }
}

impl ReplyTo {
    /// Done, and there is nothing to tell.
    ///
    /// A simple reply even where structured ones were agreed on, which is allowed for all but reads: it
    /// is shorter.
    pub(crate) fn done(self, buffer: Buffer) -> Reply {
        self.simple(buffer, 0, 0)
    }

    /// A read's data, which is the first `len` bytes of the buffer's data part.
    pub(crate) fn data(self, buffer: Buffer, offset: u64, len: usize) -> Reply {
        match self.style {
            ReplyStyle::Simple => self.simple(buffer, 0, len),
            // A data chunk must not be empty.
            ReplyStyle::Structured if len == 0 => {
                self.chunk(buffer, proto::REPLY_TYPE_NONE, &[], 0)
            }
            ReplyStyle::Structured => {
                let offset = offset.to_be_bytes();
                self.chunk(buffer, proto::REPLY_TYPE_OFFSET_DATA, &offset, len)
            }
        }
    }

    /// Where there is data and where zeros: at least one run, adjacent ones merged, clipped to `limit`
    /// bytes and `max_runs`. Only in structured replies.
    pub(crate) fn status(
        self,
        mut buffer: Buffer,
        runs: &[BlockRun],
        limit: u32,
        max_runs: usize,
    ) -> Reply {
        let descriptors = descriptors(runs, limit, max_runs);
        let len = descriptors.len().saturating_mul(8);
        let slots = buffer.data_mut(len).chunks_exact_mut(8);
        for (slot, (run, flags)) in slots.zip(&descriptors) {
            slot[..4].copy_from_slice(&run.to_be_bytes());
            slot[4..].copy_from_slice(&flags.to_be_bytes());
        }
        let context = proto::BASE_ALLOCATION_ID.to_be_bytes();
        self.chunk(buffer, proto::REPLY_TYPE_BLOCK_STATUS, &context, len)
    }

    /// An error, with its reason where the style has room for it.
    pub(crate) fn error(self, mut buffer: Buffer, errno: Errno, reason: &str) -> Reply {
        let mut reply = match self.style {
            ReplyStyle::Simple => self.simple(buffer, errno as u32, 0),
            ReplyStyle::Structured => {
                let reason = &reason[..reason.floor_char_boundary(MAX_MESSAGE_BYTES)];
                buffer
                    .data_mut(reason.len())
                    .copy_from_slice(reason.as_bytes());
                let [e0, e1, e2, e3] = (errno as u32).to_be_bytes();
                // The limit is far below 64 KiB.
                let [l0, l1] = u16::try_from(reason.len()).unwrap_or(0).to_be_bytes();
                let prefix = [e0, e1, e2, e3, l0, l1];
                self.chunk(buffer, proto::REPLY_TYPE_ERROR, &prefix, reason.len())
            }
        };
        reply.failed = true;
        reply
    }

    fn simple(self, buffer: Buffer, error: u32, len: usize) -> Reply {
        let mut head = [0; 16];
        head[..4].copy_from_slice(&proto::SIMPLE_REPLY_MAGIC.to_be_bytes());
        head[4..8].copy_from_slice(&error.to_be_bytes());
        head[8..].copy_from_slice(&self.cookie.to_be_bytes());
        with_head(buffer, &head, len)
    }

    /// The only, and so the last, chunk of a reply: `prefix`, at most eight bytes, then `len` bytes that
    /// are in the buffer's data part.
    fn chunk(self, buffer: Buffer, kind: u16, prefix: &[u8], len: usize) -> Reply {
        let payload = prefix.len().saturating_add(len);
        let mut head = [0; 28];
        head[..4].copy_from_slice(&proto::STRUCTURED_REPLY_MAGIC.to_be_bytes());
        head[4..6].copy_from_slice(&proto::REPLY_FLAG_DONE.to_be_bytes());
        head[6..8].copy_from_slice(&kind.to_be_bytes());
        head[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        // A buffer is smaller than 4 GiB.
        let length = u32::try_from(payload).unwrap_or(u32::MAX);
        head[16..20].copy_from_slice(&length.to_be_bytes());
        let used = 20 + prefix.len();
        head[20..used].copy_from_slice(prefix);
        with_head(buffer, &head[..used], len)
    }
}

/// Puts a header directly before the data part.
fn with_head(mut buffer: Buffer, head: &[u8], len: usize) -> Reply {
    let start = HEAD_BYTES - head.len();
    buffer.bytes_mut()[start..HEAD_BYTES].copy_from_slice(head);
    let end = HEAD_BYTES.saturating_add(len).min(buffer.len());
    Reply::new(buffer, start, end)
}

/// Length and flags of each run. What a device claims beyond `limit` is cut off; a device that claims
/// nothing is taken to have data, which is always a right answer.
fn descriptors(runs: &[BlockRun], limit: u32, max_runs: usize) -> Vec<(u32, u32)> {
    let mut left = limit;
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for run in runs {
        let len = u32::try_from(run.len).unwrap_or(u32::MAX).min(left);
        if len == 0 {
            continue;
        }
        let flags = match run.zero {
            true => proto::STATE_HOLE | proto::STATE_ZERO,
            false => 0,
        };
        let full = merged.len() == max_runs;
        match merged.last_mut() {
            // The sum of all runs is at most `limit`.
            Some((sum, last)) if *last == flags => *sum = sum.saturating_add(len),
            _ if full => break,
            _ => merged.push((len, flags)),
        }
        left -= len;
    }
    if merged.is_empty() {
        merged.push((limit, 0));
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STRUCTURED: ReplyTo = ReplyTo {
        style: ReplyStyle::Structured,
        cookie: 0x0102_0304_0506_0708,
    };
    const SIMPLE: ReplyTo = ReplyTo {
        style: ReplyStyle::Simple,
        ..STRUCTURED
    };
    const COOKIE: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn replies_have_the_protocols_bytes() {
        let filled = || {
            let mut buffer = Buffer::new(3);
            buffer.data_mut(3).copy_from_slice(b"abc");
            buffer
        };
        let cases: [(Reply, Vec<&[u8]>); 6] = [
            (
                SIMPLE.done(filled()),
                vec![&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], &COOKIE],
            ),
            (
                SIMPLE.data(filled(), 9, 3),
                vec![&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], &COOKIE, b"abc"],
            ),
            (
                SIMPLE.error(filled(), Errno::NoSpc, "full"),
                vec![&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28], &COOKIE],
            ),
            (
                STRUCTURED.data(filled(), 9, 3),
                vec![
                    &[0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1],
                    &COOKIE,
                    &[0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 9],
                    b"abc",
                ],
            ),
            (
                STRUCTURED.data(filled(), 9, 0),
                vec![
                    &[0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 0],
                    &COOKIE,
                    &[0, 0, 0, 0],
                ],
            ),
            (
                STRUCTURED.error(filled(), Errno::Perm, "no"),
                vec![
                    &[0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1],
                    &COOKIE,
                    &[0, 0, 0, 8, 0, 0, 0, 1, 0, 2],
                    b"no",
                ],
            ),
        ];
        for (reply, bytes) in cases {
            assert_eq!(reply.bytes(), bytes.concat());
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "ä".repeat(MAX_MESSAGE_BYTES);
        let odd = format!("x{reason}");
        for reason in [reason, odd] {
            let reply = STRUCTURED.error(Buffer::new(0), Errno::Io, &reason);
            let text = &reply.bytes()[26..];
            assert!(text.len() >= MAX_MESSAGE_BYTES - 1 && text.len() <= MAX_MESSAGE_BYTES);
            assert!(reason.starts_with(str::from_utf8(text).unwrap()));
        }
    }

    #[test]
    fn sending_in_pieces_sends_everything_once() {
        let mut reply = SIMPLE.data(Buffer::new(3), 0, 3);
        let whole = reply.bytes().to_vec();
        reply.advance(17);
        assert_eq!(reply.bytes(), &whole[17..]);
        reply.advance(99);
        assert!(reply.bytes().is_empty());
    }

    proptest! {
        #[test]
        fn descriptors_tell_what_the_runs_tell(
            runs in prop::collection::vec((0u64..50, any::<bool>()), 0..20), limit in 1u32..400, max in 1usize..6,
        ) {
            let runs: Vec<_> = runs.into_iter().map(|(len, zero)| BlockRun { len, zero }).collect();
            let expand = |len: u64, zero: bool| std::iter::repeat_n(zero, len as usize);
            let told: Vec<bool> = runs.iter().flat_map(|run| expand(run.len, run.zero)).collect();
            let descriptors = descriptors(&runs, limit, max);
            let got: Vec<bool> = descriptors.iter().flat_map(|(len, flags)| expand(u64::from(*len), *flags == 3)).collect();
            prop_assert!(!got.is_empty() && got.len() <= limit as usize && descriptors.len() <= max);
            prop_assert!(descriptors.iter().all(|(len, _)| *len > 0));
            prop_assert!(descriptors.windows(2).all(|pair| pair[0].1 != pair[1].1));
            if told.is_empty() {
                prop_assert!(got.iter().all(|zero| !zero));
            } else {
                prop_assert!(told.starts_with(&got));
                prop_assert!(descriptors.len() == max || got.len() == told.len().min(limit as usize));
            }
        }
    }
}
