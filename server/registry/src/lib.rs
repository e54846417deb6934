//! The registry: a repository over HTTP.
//!
//! [`Registry`] puts routes before a [`shale_repo::Repository`]; [`Registry::bind`] listens, with TLS and
//! tokens beyond loopback; [`Server::run`] serves until it is told to stop. What travels is described in
//! `shale-wire`. HTTP/1.1 only: readers want many small connections' worth of parallel ranges, any proxy
//! in front may speak newer versions, and there is less to attack.
//!
//! | module | concern |
//! |---|---|
//! | `router` | which handler answers which route, and the OpenAPI document made from the same list |
//! | `handlers` | one file per family of operations |
//! | `account`, `access` | the layers around them: request ids, problems, counting; tokens |
//! | `browser` | pages of strangers, which must not use a registry that asks nobody for a token |
//! | `pushes`, `work`, `body` | leases; bounded blocking work; bounded bodies |
//! | `serve`, `stall`, `tls` | connections: accepted, bounded in time, encrypted |

pub mod limits;

mod access;
mod account;
mod body;
mod browser;
mod conditions;
mod failure;
mod handlers;
mod metrics;
mod pushes;
mod random;
mod registry;
mod router;
mod serve;
mod settings;
mod shared;
mod stall;
mod tls;
mod token;
mod work;

pub use random::NoRandomness;
pub use registry::{BindError, Encryption, Registry};
pub use router::openapi_json;
pub use serve::{CertificateSlot, Server};
pub use settings::{Admission, Answered, Clock, NoObserver, Observer, Settings};
pub use tls::{Certificate, CertificateError};
pub use token::{
    MAX_TOKEN_NAME_BYTES, MAX_TOKENS, Scope, Token, TokenError, TokenInfo, TokenStore,
};
