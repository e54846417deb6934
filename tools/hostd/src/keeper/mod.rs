//! The keeper: a small process that holds open files for the host service, so that a mount, and the socket of a machine's
//! disk, outlive the service.
//!
//! It knows names and open files, and nothing of what they are. The service has them kept before it serves with them; the
//! next service, of the same or another version, gets them back by their names. A keeper that dies is replaced by the
//! service, which has the same files open; only what dies at the same time as both is lost.

mod client;
mod held;
mod messages;
mod process;
mod protocol;

pub use client::KeeperError;
pub(crate) use held::HeldFiles;
pub use held::StartKeeper;
pub(crate) use messages::{receive, send};
pub use process::keep;
pub(crate) use protocol::KeptName;
