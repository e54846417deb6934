//! The other end of the service's socket. Blocks.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::api::{
    API_VERSION, Answer, Call, EventsWish, Failure, Outcome, Request, StageReport, Told,
};

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No service listens there.
    #[error("there is no host service")]
    NoService(#[source] io::Error),
    /// The service went away in the middle.
    #[error("the host service went away")]
    Gone(#[source] io::Error),
    /// What it said cannot be handed on.
    #[error(transparent)]
    Output(io::Error),
    /// The service refuses, or it failed.
    #[error("{}", .0.message)]
    Failed(Failure),
}

/// A connection to the host service, for one request.
#[derive(Debug)]
pub struct HostClient {
    stream: UnixStream,
}

impl HostClient {
    /// Connects to the service that listens on `socket`.
    pub fn connect(socket: &Path) -> Result<Self, CallError> {
        let stream = UnixStream::connect(socket).map_err(CallError::NoService)?;
        Ok(Self { stream })
    }

    /// Sends the request and waits for what comes of it. `on_stage` is told how far it is.
    pub fn call(
        self,
        request: Request,
        mut on_stage: impl FnMut(StageReport),
    ) -> Result<Outcome, CallError> {
        self.send(request, |answer| {
            if let Answer::Stage(report) = answer {
                on_stage(report);
            }
            Ok(())
        })
    }

    /// Asks for events and hands on each until there is none left, which for who follows is when the service ends.
    /// An error of `on_told` ends it too.
    pub fn events(
        self,
        wish: EventsWish,
        mut on_told: impl FnMut(Told) -> io::Result<()>,
    ) -> Result<(), CallError> {
        let told = |answer| match answer {
            Answer::Told(told) => on_told(told),
            _ => Ok(()),
        };
        self.send(Request::Events(wish), told).map(drop)
    }

    /// Sends the request; what comes of it. `on_answer` gets all that comes before.
    fn send(
        self,
        request: Request,
        mut on_answer: impl FnMut(Answer) -> io::Result<()>,
    ) -> Result<Outcome, CallError> {
        let call = Call {
            version: API_VERSION,
            request,
        };
        let mut line = serde_json::to_vec(&call).map_err(|e| CallError::Gone(e.into()))?;
        line.push(b'\n');
        (&self.stream).write_all(&line).map_err(CallError::Gone)?;
        for line in BufReader::new(&self.stream).lines() {
            let line = line.map_err(CallError::Gone)?;
            match serde_json::from_str(&line).map_err(|e| CallError::Gone(e.into()))? {
                Answer::Done(outcome) => return Ok(outcome),
                Answer::Failed(failure) => return Err(CallError::Failed(failure)),
                before => on_answer(before).map_err(CallError::Output)?,
            }
        }
        Err(CallError::Gone(io::ErrorKind::UnexpectedEof.into()))
    }
}
