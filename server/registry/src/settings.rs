//! What a registry is handed from outside: clock, observer, limits, who may do what.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::Limits;
use crate::token::TokenStore;

/// The server's clock, injected so that tests can turn it.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// Who may use the registry.
#[derive(Clone)]
pub enum Admission {
    /// Anybody who reaches it. Only on loopback addresses.
    Open,
    /// The same until there is a token, then those who hold one. It does not open again while it runs, so that
    /// replacing the last token lets nobody in meanwhile.
    OpenUntilTokens(Arc<TokenStore>),
    /// Anybody who reaches it, on any address: the operator said so in words.
    InsecureNoAuth,
    /// Those who hold a token.
    Tokens(Arc<TokenStore>),
}

/// One request, after its answer's head was made.
#[derive(Debug, Clone)]
pub struct Answered<'a> {
    /// The request's id, as the client was told.
    pub request_id: &'a str,
    /// Its method.
    pub method: &'a str,
    /// Its route, with names in braces; empty where there is none.
    pub route: &'a str,
    /// The answer's status.
    pub status: u16,
    /// Time until then.
    pub took: Duration,
    /// What failed, with all its causes. Clients may have been told less.
    pub failure: Option<&'a str>,
}

/// Is told what happens, for logs. Never told tokens or contents.
pub trait Observer: Send + Sync {
    /// A request was answered.
    fn answered(&self, request: &Answered<'_>);

    /// An answer was cut off, because what it was read from failed.
    fn cut_off(&self, action: &str, failure: &str);
}

/// Sees nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn answered(&self, _request: &Answered<'_>) {}

    fn cut_off(&self, _action: &str, _failure: &str) {}
}

/// How a registry works.
#[derive(Clone)]
pub struct Settings {
    /// Who may use it.
    pub admission: Admission,
    /// Its limits.
    pub limits: Limits,
    /// Its clock.
    pub clock: Clock,
    /// Who is told what happens.
    pub observer: Arc<dyn Observer>,
}

impl Settings {
    /// The usual limits, the machine's clock, and nobody told.
    pub fn new(admission: Admission) -> Self {
        Self {
            admission,
            limits: Limits::default(),
            clock: Arc::new(Instant::now),
            observer: Arc::new(NoObserver),
        }
    }
}
