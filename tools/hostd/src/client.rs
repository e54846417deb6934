//! The other end of the service's socket. Blocks.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::api::{API_VERSION, Answer, Call, Failure, Outcome, Request, StageReport, ToMount};
use crate::keeper::send;

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
        on_stage: impl FnMut(StageReport),
    ) -> Result<Outcome, CallError> {
        // A service that has something mounted that is no mount is none of ours.
        let nothing = |_: ToMount| Err(CallError::Gone(io::ErrorKind::InvalidData.into()));
        self.call_to_mount(request, on_stage, nothing)
    }

    /// The same for a request after which the service may have the client mount, which `mount` does; it gives the open
    /// device.
    pub fn call_to_mount<E: From<CallError>>(
        self,
        request: Request,
        mut on_stage: impl FnMut(StageReport),
        mount: impl FnOnce(ToMount) -> Result<OwnedFd, E>,
    ) -> Result<Outcome, E> {
        let call = Call {
            version: API_VERSION,
            request,
        };
        let gone = |error: io::Error| E::from(CallError::Gone(error));
        let mut line = serde_json::to_vec(&call).map_err(|error| gone(error.into()))?;
        line.push(b'\n');
        (&self.stream).write_all(&line).map_err(gone)?;
        let mut mount = Some(mount);
        for line in BufReader::new(&self.stream).lines() {
            let line = line.map_err(gone)?;
            match serde_json::from_str(&line).map_err(|error| gone(error.into()))? {
                Answer::Stage(report) => on_stage(report),
                Answer::Mount(how) => {
                    let mount = mount.take();
                    let mount = mount.ok_or_else(|| gone(io::ErrorKind::InvalidData.into()))?;
                    let device = mount(how)?;
                    send(self.stream.as_fd(), &[0], &[device.as_fd()]).map_err(gone)?;
                }
                Answer::Done(outcome) => return Ok(outcome),
                Answer::Failed(failure) => return Err(CallError::Failed(failure).into()),
            }
        }
        Err(gone(io::ErrorKind::UnexpectedEof.into()))
    }
}
