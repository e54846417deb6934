//! Waits that are told: a registry that is gone is waited for, and whoever ran the command learns why nothing
//! happens.

use std::collections::BTreeSet;
use std::error::Error;
use std::future::Future;
use std::iter::successors;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use shale_model::{
    BoxFuture, Catalog, ChunkId, Fetch, LayerId, Location, PackId, PackWriter, RefName, SeamError,
    SeamResult, Sink, TemplateId, TemplateIndex, Trouble,
};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use crate::output::note;
use crate::progress::ProgressMode;

/// A wait that is shorter is not told: a registry under load answers within it.
const QUIET: Duration = Duration::from_secs(2);

/// Tells why a command waits, each reason once.
pub(crate) struct Patience {
    tell: Box<dyn Fn(&str) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the first call failed of those that failed since one succeeded.
    since: Option<Instant>,
    told: BTreeSet<String>,
}

impl State {
    /// Notes how a call ended that is made again when it failed; the reason, if calls have failed for long.
    fn heard(&mut self, error: Option<&SeamError>, now: Instant) -> Option<String> {
        let Some(error) = error.filter(|error| is_waited_for(error.trouble)) else {
            self.since = None;
            return None;
        };
        let since = *self.since.get_or_insert(now);
        (now.duration_since(since) >= QUIET).then(|| root_cause(error))
    }
}

impl Patience {
    /// For waits for `place`, told on standard error as `mode` says.
    pub(crate) fn new(place: String, mode: ProgressMode) -> Arc<Self> {
        Self::with(move |reason| match mode {
            ProgressMode::None => {}
            ProgressMode::Json => {
                note!("{}", json!({"waiting_for": place, "reason": reason}));
            }
            ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain => {
                note!("waiting for {place}: {reason}");
            }
        })
    }

    fn with(tell: impl Fn(&str) + Send + Sync + 'static) -> Arc<Self> {
        let (tell, state) = (Box::new(tell), Mutex::default());
        Arc::new(Self { tell, state })
    }

    /// Watches a call of a seam.
    async fn watch<T>(&self, call: impl Future<Output = SeamResult<T>>) -> SeamResult<T> {
        let mut call = pin!(call);
        let answer = match timeout(QUIET, &mut call).await {
            Ok(answer) => answer,
            Err(_) => {
                self.tell("no answer yet".into());
                call.await
            }
        };
        self.heard(answer.as_ref().err());
        answer
    }

    /// Watches a call that blocks.
    fn watch_blocking<T>(
        self: &Arc<Self>,
        runtime: &Handle,
        call: impl FnOnce() -> SeamResult<T>,
    ) -> SeamResult<T> {
        let this = self.clone();
        let watch = runtime.spawn(async move {
            sleep(QUIET).await;
            this.tell("no answer yet".into());
        });
        let answer = call();
        watch.abort();
        answer
    }

    /// Notes how a call ended.
    fn heard(&self, error: Option<&SeamError>) {
        let reason = self.state().heard(error, Instant::now());
        if let Some(reason) = reason {
            self.tell(reason);
        }
    }

    fn tell(&self, reason: String) {
        let is_new = self.state().told.insert(reason.clone());
        if is_new {
            (self.tell)(&reason);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a reader asks again, as long as it takes.
fn is_waited_for(trouble: Trouble) -> bool {
    matches!(
        trouble,
        Trouble::Unavailable | Trouble::Failed | Trouble::NoSpace
    )
}

/// The error at the end of the chain: the one that does not say which chunk was read, so that it is the same for
/// all of them.
fn root_cause(error: &SeamError) -> String {
    let first: &dyn Error = error;
    let last = successors(Some(first), |&error| error.source()).last();
    last.map_or_else(String::new, ToString::to_string)
}

/// A catalog or a source of chunks whose waits are told.
pub(crate) struct Patient<T: ?Sized> {
    pub(crate) inner: Arc<T>,
    pub(crate) patience: Arc<Patience>,
    pub(crate) runtime: Handle,
}

impl Catalog for Patient<dyn Catalog> {
    fn get_ref(&self, name: &RefName) -> SeamResult<Option<TemplateIndex>> {
        let call = || self.inner.get_ref(name);
        self.patience.watch_blocking(&self.runtime, call)
    }

    fn list_refs(&self, project: &str) -> SeamResult<Vec<(RefName, TemplateIndex)>> {
        let call = || self.inner.list_refs(project);
        self.patience.watch_blocking(&self.runtime, call)
    }

    fn template(&self, id: TemplateId) -> SeamResult<Vec<u8>> {
        let call = || self.inner.template(id);
        self.patience.watch_blocking(&self.runtime, call)
    }

    fn layer(&self, id: LayerId) -> SeamResult<Vec<u8>> {
        let call = || self.inner.layer(id);
        self.patience.watch_blocking(&self.runtime, call)
    }
}

impl Fetch for Patient<dyn Fetch> {
    fn locate<'a>(
        &'a self,
        ids: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<Vec<Option<Location>>>> {
        Box::pin(self.patience.watch(self.inner.locate(ids)))
    }

    fn read(&self, pack: PackId, offset: u64, len: u64) -> BoxFuture<'_, SeamResult<Vec<u8>>> {
        Box::pin(self.patience.watch(self.inner.read(pack, offset, len)))
    }
}

/// A push whose waits are told: for its opening, and for all answers. Packs are sent beside it, and how far that has
/// come is its progress.
pub(crate) struct PatientSink {
    inner: Box<dyn Sink>,
    patience: Arc<Patience>,
    runtime: Handle,
}

impl PatientSink {
    /// Opens it.
    pub(crate) fn open(
        patience: Arc<Patience>,
        runtime: Handle,
        open: impl FnOnce() -> SeamResult<Box<dyn Sink>>,
    ) -> SeamResult<Self> {
        let inner = patience.watch_blocking(&runtime, open)?;
        Ok(Self {
            inner,
            patience,
            runtime,
        })
    }
}

impl Sink for PatientSink {
    fn missing(&self, ids: &[ChunkId]) -> SeamResult<Vec<bool>> {
        let call = || self.inner.missing(ids);
        self.patience.watch_blocking(&self.runtime, call)
    }

    fn new_pack(&self) -> SeamResult<Box<dyn PackWriter + '_>> {
        self.inner.new_pack()
    }

    fn put_layer(&self, root: &[u8]) -> SeamResult<LayerId> {
        let call = || self.inner.put_layer(root);
        self.patience.watch_blocking(&self.runtime, call)
    }

    fn put_template(&self, json: &[u8]) -> SeamResult<TemplateId> {
        let call = || self.inner.put_template(json);
        self.patience.watch_blocking(&self.runtime, call)
    }

    fn set_ref(
        &self,
        name: &RefName,
        expected: Option<&TemplateIndex>,
        new: &TemplateIndex,
    ) -> SeamResult<()> {
        let call = || self.inner.set_ref(name, expected, new);
        self.patience.watch_blocking(&self.runtime, call)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn error(trouble: Trouble, chunk: u64) -> SeamError {
        let refused = std::io::Error::other("connection refused");
        SeamError::caused(trouble, format!("read chunk {chunk}"), refused)
    }

    #[test]
    fn failures_are_told_once_they_last() {
        let mut state = State::default();
        let start = Instant::now();
        let mut at = |seconds: u64, trouble: Option<Trouble>| {
            let error = trouble.map(|trouble| error(trouble, seconds));
            state.heard(error.as_ref(), start + Duration::from_secs(seconds))
        };
        let gone = Some(Trouble::Unavailable);
        let expected = Some("connection refused".to_owned());
        assert_eq!(at(0, gone), None);
        assert_eq!(at(1, gone), None);
        // One answer, and the time begins anew.
        assert_eq!(at(2, None), None);
        assert_eq!(at(3, gone), None);
        assert_eq!(at(5, gone), expected);
        assert_eq!(at(9, gone), expected);
        // Nobody waits for this: it is the error of the command, which tells it.
        assert_eq!(at(19, Some(Trouble::Denied)), None);
    }

    /// A patience, and what it tells.
    fn heard() -> (Arc<Patience>, Receiver<String>) {
        let (sender, receiver) = channel();
        let patience = Patience::with(move |reason| sender.send(reason.to_owned()).unwrap());
        (patience, receiver)
    }

    #[test]
    fn a_reason_is_told_once() {
        let (patience, told) = heard();
        for reason in ["one", "two", "one", "two"] {
            patience.tell(reason.into());
        }
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["one", "two"]);
    }

    #[test]
    fn a_call_that_hangs_is_told_meanwhile() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        // Each call ends when the wait was told, however long that takes.
        let (patience, told) = heard();
        let call = || Ok(told.recv().unwrap());
        let said = patience.watch_blocking(runtime.handle(), call).unwrap();
        assert_eq!(said, "no answer yet");

        let (sender, told) = tokio::sync::oneshot::channel();
        let sender = Mutex::new(Some(sender));
        let patience = Patience::with(move |reason| {
            let sender = sender.lock().unwrap().take().unwrap();
            sender.send(reason.to_owned()).unwrap();
        });
        let call = async { Ok(told.await.unwrap()) };
        let said = runtime.block_on(patience.watch(call)).unwrap();
        assert_eq!(said, "no answer yet");
    }
}
