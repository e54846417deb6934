//! The transmission phase of one connection: requests in, replies out, in any order.
//!
//! One task does it all. A request's future is polled once where it stands: a device that has the bytes
//! at hand answers within the same wake-up, and the reply leaves with its neighbours in one system
//! call. A future that must wait becomes a task of its own. Requests are begun only while the limits on
//! requests, buffers and unsent bytes leave room, so that what a client can make the server hold is
//! bounded; beyond that its socket fills.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;

use crate::counters::{Counters, add};
use crate::handshake::Session;
use crate::input::Input;
use crate::limits::{MAX_BYTES_IN_FLIGHT, MAX_REQUESTS_IN_FLIGHT, MAX_UNSENT_BYTES};
use crate::outbox::Outbox;
use crate::perform::{buffer_len, perform};
use crate::pool::{Buffer, Pool};
use crate::reply::{Reply, ReplyTo};
use crate::request::{BadMagic, Command, REQUEST_BYTES, Request, Rules};

/// Why the transmission phase ended otherwise than the client or the server wanted.
#[derive(Debug, thiserror::Error)]
pub enum TransmissionError {
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The client sent something that is no request.
    #[error("the client does not speak NBD")]
    BadMagic(#[from] BadMagic),
    /// The client closed amid a request.
    #[error("the client closed its connection in the middle of a request")]
    Cut,
    /// The device panicked.
    #[error("the device panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// How the transmission phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// No further request is taken, those that were are to be finished: the client said goodbye, or
    /// the server stops.
    Drain,
    /// The client closed, so nobody waits for replies.
    Gone,
}

/// What the next bytes of the client are.
enum Intake {
    /// A request.
    Request,
    /// The data of a write.
    Payload(Payload),
    /// The data of a write that was refused: so many bytes to drop.
    Refused(u64),
    /// Nothing: the client said goodbye.
    Closed,
}

/// A write whose data is being received.
struct Payload {
    to: ReplyTo,
    command: Command,
    buffer: Buffer,
    filled: usize,
}

impl Payload {
    /// What is not yet here.
    fn rest(&mut self) -> &mut [u8] {
        let data = self.buffer.data_mut(buffer_len(&self.command));
        data.get_mut(self.filled..).unwrap_or_default()
    }
}

/// One connection in its transmission phase.
pub(crate) struct Transmission<S> {
    stream: S,
    session: Session,
    rules: Rules,
    counters: Arc<Counters>,
    input: Input,
    intake: Intake,
    outbox: Outbox,
    /// Whether the stream was written to and not flushed since; for streams that hold bytes back.
    unflushed: bool,
    pool: Pool,
    waiting: JoinSet<Reply>,
    /// Requests begun whose reply is not sent as a whole, and the bytes of their buffers.
    requests_in_flight: usize,
    bytes_in_flight: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transmission<S> {
    pub(crate) fn new(stream: S, session: Session, counters: Arc<Counters>) -> Self {
        let rules = Rules {
            size: session.export.device.size(),
            access: session.export.access,
            style: session.style,
            block_status: session.block_status,
        };
        Self {
            stream,
            session,
            rules,
            counters,
            input: Input::new(),
            intake: Intake::Request,
            outbox: Outbox::default(),
            unflushed: false,
            pool: Pool::default(),
            waiting: JoinSet::new(),
            requests_in_flight: 0,
            bytes_in_flight: 0,
        }
    }

    /// Serves requests until the client leaves or `stop` is done.
    pub(crate) async fn serve(
        &mut self,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<End, TransmissionError> {
        loop {
            self.take_requests()?;
            if matches!(self.intake, Intake::Closed) {
                return Ok(End::Drain);
            }
            let event = poll_fn(|cx| {
                if let Poll::Ready(done) = self.poll_output(cx) {
                    return Poll::Ready(done.map(|()| None));
                }
                if let Poll::Ready(received) = self.poll_input(cx) {
                    return Poll::Ready(match received {
                        Ok(0) => self.client_closed().map(Some),
                        Ok(_) => Ok(None),
                        Err(error) => Err(error.into()),
                    });
                }
                stop.as_mut().poll(cx).map(|()| Ok(Some(End::Drain)))
            });
            if let Some(end) = event.await? {
                return Ok(end);
            }
        }
    }

    /// Finishes and answers what is in flight, then closes.
    pub(crate) async fn drain(&mut self) -> Result<(), TransmissionError> {
        // A write whose data did not come as a whole was not begun: it is dropped.
        while !self.waiting.is_empty() || !self.outbox.is_empty() || self.unflushed {
            poll_fn(|cx| self.poll_output(cx)).await?;
        }
        poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await?;
        Ok(())
    }

    /// Ends what is in flight, and returns when none of it runs any more: a client that connects again
    /// and repeats its writes must not be overtaken by their first attempt.
    pub(crate) async fn abandon(&mut self) {
        self.waiting.shutdown().await;
    }

    fn client_closed(&self) -> Result<End, TransmissionError> {
        match self.intake {
            Intake::Request if self.input.is_empty() => Ok(End::Gone),
            _ => Err(TransmissionError::Cut),
        }
    }

    // ---- Sending, and requests that had to wait.

    /// Sends, or takes the reply of a request that had to wait. Pending if neither can go on.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransmissionError>> {
        if !self.outbox.is_empty() {
            if let Poll::Ready(sent) = self.poll_send(cx) {
                return Poll::Ready(sent.map_err(TransmissionError::Io));
            }
        } else if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            self.unflushed = false;
            return Poll::Ready(flushed.map_err(TransmissionError::Io));
        }
        match ready!(self.waiting.poll_join_next(cx)) {
            Some(Ok(reply)) => self.finish(reply),
            Some(Err(error)) => return Poll::Ready(Err(TransmissionError::Panicked(error))),
            None => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        let sent = ready!(
            self.outbox
                .with_slices(|slices| stream.poll_write_vectored(cx, slices))
        )?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        self.outbox.advance(sent, |reply| {
            self.requests_in_flight = self.requests_in_flight.saturating_sub(1);
            self.bytes_in_flight = self.bytes_in_flight.saturating_sub(reply.cost());
            self.pool.put(reply.into_buffer());
        });
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self, reply: Reply) {
        if reply.failed {
            add(&self.counters.errors, 1);
        }
        self.outbox.push(reply);
    }

    // ---- Receiving.

    /// Receives, if more bytes are of use; the number of bytes, none at the client's end.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let into = match &mut self.intake {
            Intake::Request if self.input.peek_request().is_none() => self.input.room(),
            Intake::Refused(_) if self.input.is_empty() => self.input.room(),
            // Large data goes where it belongs, once what was read ahead of it is there.
            Intake::Payload(payload) if self.input.is_empty() => payload.rest(),
            _ => return Poll::Pending,
        };
        if into.is_empty() {
            return Poll::Pending;
        }
        let mut into = ReadBuf::new(into);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into))?;
        let len = into.filled().len();
        match &mut self.intake {
            Intake::Payload(payload) => payload.filled = payload.filled.saturating_add(len),
            _ => self.input.filled_more(len),
        }
        Poll::Ready(Ok(len))
    }

    /// Begins all requests that are here and for which there is room.
    fn take_requests(&mut self) -> Result<(), TransmissionError> {
        while self.outbox.bytes() < MAX_UNSENT_BYTES && self.take_one()? {}
        Ok(())
    }

    /// Goes on with what is here; whether that may have made way for more.
    fn take_one(&mut self) -> Result<bool, TransmissionError> {
        match &mut self.intake {
            Intake::Closed => return Ok(false),
            Intake::Refused(left) => {
                *left -= self.input.skip(*left);
                if *left > 0 {
                    return Ok(false);
                }
                self.intake = Intake::Request;
            }
            Intake::Payload(payload) => {
                let len = self.input.take(payload.rest());
                payload.filled = payload.filled.saturating_add(len);
                if !payload.rest().is_empty() {
                    return Ok(false);
                }
                let taken = std::mem::replace(&mut self.intake, Intake::Request);
                if let Intake::Payload(payload) = taken {
                    self.start(payload.to, payload.command, payload.buffer);
                }
            }
            Intake::Request => return self.take_request(),
        }
        Ok(true)
    }

    fn take_request(&mut self) -> Result<bool, TransmissionError> {
        let Some(bytes) = self.input.peek_request() else {
            return Ok(false);
        };
        let request = Request::parse(bytes)?;
        let checked = request.check(&self.rules);
        let data = checked.as_ref().map_or(0, buffer_len);
        let Some(buffer) = self.admit(data) else {
            return Ok(false);
        };
        self.input.skip(REQUEST_BYTES as u64);
        let to = ReplyTo {
            style: self.session.style,
            cookie: request.cookie,
        };
        match checked {
            Ok(Command::Disconnect) => self.intake = Intake::Closed,
            Ok(command @ Command::Write { .. }) => {
                self.counters.count(&command);
                self.intake = Intake::Payload(Payload {
                    to,
                    command,
                    buffer,
                    filled: 0,
                });
            }
            Ok(command) => {
                self.counters.count(&command);
                self.start(to, command, buffer);
            }
            Err(refusal) => {
                self.intake = Intake::Refused(u64::from(request.payload_len()));
                self.finish(to.error(buffer, refusal.errno, refusal.reason));
            }
        }
        Ok(true)
    }

    /// A buffer, if the limits leave room for one more request with so much data.
    fn admit(&mut self, data: usize) -> Option<Buffer> {
        let bytes = self.bytes_in_flight.saturating_add(Pool::cost(data));
        if self.requests_in_flight >= MAX_REQUESTS_IN_FLIGHT || bytes > MAX_BYTES_IN_FLIGHT {
            return None;
        }
        self.requests_in_flight += 1;
        self.bytes_in_flight = bytes;
        Some(self.pool.take(data))
    }

    fn start(&mut self, to: ReplyTo, command: Command, buffer: Buffer) {
        let device = Arc::clone(&self.session.export.device);
        let mut work = Box::pin(perform(device, command, to, buffer));
        // Nobody needs to be woken: a future that is not ready at once gets a task, which polls it
        // again with a waker of its own.
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reply) => self.finish(reply),
            Poll::Pending => {
                self.waiting.spawn(work);
            }
        }
    }
}
