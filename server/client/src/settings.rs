//! How a registry is reached.

use std::fmt;
use std::time::Duration;

use crate::address::Address;
use crate::trust::Trust;

/// How long a registry is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the head of an answer to a read. Large writes, which the registry checks before it answers,
    /// get ten minutes.
    pub first_byte: Duration,
    /// Between two pieces of an answer. The whole has time for 32 KiB a second on top.
    pub idle: Duration,
    /// After this time no request is begun again.
    pub give_up: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(20),
            idle: Duration::from_secs(10),
            give_up: Duration::from_secs(30),
        }
    }
}

/// Which registry, and how.
#[derive(Clone)]
pub struct Settings {
    /// Where it is.
    pub address: Address,
    /// The token to show it, if it wants one.
    pub token: Option<String>,
    /// Why it is believed.
    pub trust: Trust,
    /// How long it is waited for.
    pub deadlines: Deadlines,
}

impl Settings {
    /// The registry at `address`, believed as the system believes others, without a token.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            token: None,
            trust: Trust::System,
            deadlines: Deadlines::default(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "..");
        f.debug_struct("Settings")
            .field("address", &self.address)
            .field("token", &token)
            .field("trust", &self.trust)
            .field("deadlines", &self.deadlines)
            .finish()
    }
}

/// Why no client can be made of the settings.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The token has characters that no header can hold. It is not shown.
    #[error("the token has characters that a token cannot have")]
    Token,
    /// TLS cannot be used.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// The HTTP client cannot be made.
    #[error("set up the HTTP client")]
    Client(#[source] reqwest::Error),
}
