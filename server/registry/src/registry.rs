//! The registry as a whole, and where it may listen.

use std::net::SocketAddr;
use std::sync::Arc;

use shale_repo::Repository;
use tokio::net::TcpListener;

use crate::random::NoRandomness;
use crate::router::router;
use crate::serve::Server;
use crate::settings::{Admission, Settings};
use crate::shared::Shared;
use crate::tls::Certificate;

/// Whether connections are encrypted.
#[derive(Clone)]
pub enum Encryption {
    /// Not. Only on loopback addresses.
    None,
    /// Not, on any address: the operator said so in words. For a proxy that speaks TLS before it.
    InsecureNone,
    /// With TLS.
    Tls(Certificate),
}

/// Why the registry does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Beyond loopback, encryption is needed.
    #[error("{0} is reachable from other machines: give a certificate, or have one made")]
    NeedsTls(SocketAddr),
    /// Beyond loopback, tokens are needed.
    #[error("{0} is reachable from other machines: make tokens and require them")]
    NeedsTokens(SocketAddr),
    /// The address cannot be used.
    #[error("listen on {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The socket that was handed over has no address.
    #[error("the address of the socket that listens")]
    Socket(#[source] std::io::Error),
}

/// A repository behind its routes.
pub struct Registry {
    shared: Arc<Shared>,
}

impl Registry {
    /// Puts routes before `repository`.
    pub fn new(repository: Arc<Repository>, settings: Settings) -> Result<Self, NoRandomness> {
        let shared = Arc::new(Shared::new(repository, settings)?);
        Ok(Self { shared })
    }

    /// Listens on `address`; port 0 is any free one.
    pub async fn bind(
        &self,
        address: SocketAddr,
        encryption: Encryption,
    ) -> Result<Server, BindError> {
        check_exposure(address, &self.shared.settings.admission, &encryption)?;
        let failed = |source| BindError::Address { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        self.serve_on(listener, encryption)
    }

    /// The same with a socket that listens already, as service managers hand one over.
    pub fn serve_on(
        &self,
        listener: TcpListener,
        encryption: Encryption,
    ) -> Result<Server, BindError> {
        let address = listener.local_addr().map_err(BindError::Socket)?;
        check_exposure(address, &self.shared.settings.admission, &encryption)?;
        let certificate = match encryption {
            Encryption::None | Encryption::InsecureNone => None,
            Encryption::Tls(certificate) => Some(certificate),
        };
        let router = router(Arc::clone(&self.shared));
        let shared = Arc::clone(&self.shared);
        Ok(Server::new(listener, address, certificate, router, shared))
    }
}

/// Beyond loopback, whoever listens says who may come, and lets nobody listen in.
fn check_exposure(
    address: SocketAddr,
    admission: &Admission,
    encryption: &Encryption,
) -> Result<(), BindError> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    if matches!(encryption, Encryption::None) {
        return Err(BindError::NeedsTls(address));
    }
    match admission {
        Admission::Open | Admission::OpenUntilTokens(_) => Err(BindError::NeedsTokens(address)),
        Admission::InsecureNoAuth | Admission::Tokens(_) => Ok(()),
    }
}
