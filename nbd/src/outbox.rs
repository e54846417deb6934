//! Replies on their way to the socket, several in one system call.

use std::collections::VecDeque;
use std::io::IoSlice;

use crate::reply::Reply;

/// Replies in one system call: more do not make it cheaper per reply.
const SLICES: usize = 64;

/// A queue of replies.
#[derive(Default)]
pub(crate) struct Outbox {
    replies: VecDeque<Reply>,
    bytes: usize,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Bytes that are not yet sent.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, reply: Reply) {
        self.bytes = self.bytes.saturating_add(reply.bytes().len());
        self.replies.push_back(reply);
    }

    /// Hands `write` the first replies; what it returns.
    pub(crate) fn with_slices<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, reply) in slices.iter_mut().zip(&self.replies) {
            *slice = IoSlice::new(reply.bytes());
            count += 1;
        }
        write(&slices[..count])
    }

    /// Takes `sent` bytes from the front, and gives the replies that are sent as a whole to `done`.
    pub(crate) fn advance(&mut self, mut sent: usize, mut done: impl FnMut(Reply)) {
        self.bytes = self.bytes.saturating_sub(sent);
        while let Some(mut reply) = self.replies.pop_front() {
            let len = reply.bytes().len();
            if sent < len {
                reply.advance(sent);
                self.replies.push_front(reply);
                return;
            }
            sent -= len;
            done(reply);
        }
    }
}
