//! The other end of the service's socket. Blocks.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::api::{API_VERSION, Answer, Call, Failure, Outcome, Request, StageReport};

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No service listens there.
    #[error("there is no host service")]
    NoService(#[source] io::Error),
    /// The service went away in the middle.
    #[error("the host service went away")]
    Gone(#[source] io::Error),
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
                Answer::Stage(report) => on_stage(report),
                Answer::Done(outcome) => return Ok(outcome),
                Answer::Failed(failure) => return Err(CallError::Failed(failure)),
            }
        }
        Err(CallError::Gone(io::ErrorKind::UnexpectedEof.into()))
    }
}
