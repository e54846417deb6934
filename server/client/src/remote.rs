//! A registry seen from a client.

use std::path::Path;
use std::sync::Arc;

use shale_model::{SeamError, SeamResult, Trouble};
use shale_wire::{VersionInfo, route};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::address::Address;
use crate::call::{Call, WrongAnswer};
use crate::push::RemotePush;
use crate::settings::{Settings, SetupError};
use crate::transport::Transport;

/// Largest answer about the service itself, in bytes.
const MAX_SERVICE_ANSWER_BYTES: u64 = 64 * 1024;

/// A registry. Cheap to clone; clones share connections.
///
/// Calls that block must not be made on a thread that runs tasks of a runtime; futures may be polled
/// anywhere.
#[derive(Clone)]
pub struct RemoteRegistry {
    inner: Arc<Inner>,
    /// How often chunks are asked for.
    asks: Asks,
}

/// How often one question is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Until there is an answer, or the time to give up has come.
    Again,
    /// Once.
    Once,
}

struct Inner {
    transport: Transport,
    address: Address,
    runtime: Handle,
}

impl RemoteRegistry {
    /// A client for the registry of `settings`, which does its work on `runtime`: one with threads of
    /// its own. Nothing is asked yet.
    pub fn new(settings: Settings, runtime: Handle) -> Result<Self, SetupError> {
        let address = settings.address.clone();
        let inner = Inner {
            transport: Transport::new(settings)?,
            address,
            runtime,
        };
        Ok(Self {
            inner: Arc::new(inner),
            asks: Asks::Again,
        })
    }

    /// The same registry over the same connections; but a question for chunks that fails does so at once, for those
    /// who have others to ask.
    pub fn asked_once(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            asks: Asks::Once,
        }
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.inner.address
    }

    /// Begins a push, whose packs wait in files below `spool` while they are uploaded. Blocks.
    pub fn push(&self, spool: &Path) -> SeamResult<RemotePush> {
        RemotePush::begin(self.clone(), spool)
    }

    /// Which version answers. Blocks.
    pub fn version(&self) -> SeamResult<VersionInfo> {
        let call = Call::get(route::VERSION.into(), "ask for the version");
        let call = call.max_answer(MAX_SERVICE_ANSWER_BYTES);
        let answer = self.wait(self.transport().answer(&call))?;
        self.json(&call.action, &answer.body)
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    pub(crate) fn asks(&self) -> Asks {
        self.asks
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.inner.runtime
    }

    /// Blocks until the future is ready.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.inner.runtime.block_on(future)
    }

    /// Runs a future on the runtime, wherever what this returns is polled. Dropping that ends it.
    pub(crate) async fn on_runtime<T: Send + 'static>(
        &self,
        future: impl Future<Output = SeamResult<T>> + Send + 'static,
    ) -> SeamResult<T> {
        let mut task = AbortOnDrop(self.runtime().spawn(future));
        let ended = (&mut task.0).await;
        ended.unwrap_or_else(|error| {
            let action = format!("ask {}", self.address());
            Err(SeamError::caused(Trouble::Failed, action, error))
        })
    }

    /// An answer's JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(
        &self,
        action: &str,
        body: &[u8],
    ) -> SeamResult<T> {
        serde_json::from_slice(body).map_err(|error| self.wrong(action, error))
    }

    /// An answer that is none.
    pub(crate) fn wrong(
        &self,
        action: &str,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> SeamError {
        let action = format!("{action} at {}", self.address());
        SeamError::caused(Trouble::Integrity, action, WrongAnswer::unreadable(error))
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
