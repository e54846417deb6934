//! The other end of the service's socket. Blocks.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::api::{
    API_VERSION, Answer, Call, EventsWish, Failure, Outcome, Request, StageReport, ToMount, Told,
};
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
    /// What it said cannot be handed on.
    #[error(transparent)]
    Output(io::Error),
    /// The service refuses, or it failed.
    #[error("{}", .0.message)]
    Failed(Failure),
}

/// What a client gives that the service has mount. It keeps nothing of it.
#[derive(Debug)]
pub enum GiveMount {
    /// It mounted on its directory: the open device.
    Device(OwnedFd),
    /// It mounted on none.
    Nowhere {
        /// The open device.
        device: OwnedFd,
        /// The open root.
        root: OwnedFd,
    },
    /// It cannot, for this reason.
    Not(String),
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

    /// The same for a request after which the service may have the client mount, which `mount` does. With an error of it the
    /// call ends.
    pub fn call_to_mount<E: From<CallError>>(
        self,
        request: Request,
        mut on_stage: impl FnMut(StageReport),
        mount: impl FnOnce(ToMount) -> Result<GiveMount, E>,
    ) -> Result<Outcome, E> {
        let gone = |error: io::Error| E::from(CallError::Gone(error));
        let mut mount = Some(mount);
        self.send(request, |stream, answer| match answer {
            Answer::Stage(report) => {
                on_stage(report);
                Ok(())
            }
            Answer::Mount(how) => {
                let mount = mount.take();
                let mount = mount.ok_or_else(|| gone(io::ErrorKind::InvalidData.into()))?;
                let (files, reason) = match mount(how)? {
                    GiveMount::Device(device) => (vec![device], vec![0]),
                    GiveMount::Nowhere { device, root } => (vec![device, root], vec![0]),
                    GiveMount::Not(reason) => (vec![], reason.into_bytes()),
                };
                let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
                send(stream.as_fd(), &reason, &files).map_err(gone)
            }
            _ => Ok(()),
        })
    }

    /// Asks for events and hands on each until there is none left, which for who follows is when the service ends.
    /// An error of `on_told` ends it too.
    pub fn events(
        self,
        wish: EventsWish,
        mut on_told: impl FnMut(Told) -> io::Result<()>,
    ) -> Result<(), CallError> {
        let told = |_: &UnixStream, answer| match answer {
            Answer::Told(told) => on_told(told).map_err(CallError::Output),
            _ => Ok(()),
        };
        self.send(Request::Events(wish), told).map(drop)
    }

    /// Sends the request; what comes of it. `on_answer` gets all that comes before.
    fn send<E: From<CallError>>(
        self,
        request: Request,
        mut on_answer: impl FnMut(&UnixStream, Answer) -> Result<(), E>,
    ) -> Result<Outcome, E> {
        let call = Call {
            version: API_VERSION,
            request,
        };
        let gone = |error: io::Error| E::from(CallError::Gone(error));
        let mut line = serde_json::to_vec(&call).map_err(|error| gone(error.into()))?;
        line.push(b'\n');
        (&self.stream).write_all(&line).map_err(gone)?;
        for line in BufReader::new(&self.stream).lines() {
            let line = line.map_err(gone)?;
            match serde_json::from_str(&line).map_err(|error| gone(error.into()))? {
                Answer::Done(outcome) => return Ok(outcome),
                Answer::Failed(failure) => return Err(CallError::Failed(failure).into()),
                before => on_answer(&self.stream, before)?,
            }
        }
        Err(gone(io::ErrorKind::UnexpectedEof.into()))
    }
}
