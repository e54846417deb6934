//! The NBD face: our own server for block devices over the Network Block Device protocol.
//!
//! A [`Server`] offers named [`Exports`], each a [`shale_model::BlockDevice`], to QEMU, libnbd, the
//! kernel and whoever else speaks NBD. It does the fixed newstyle handshake, structured replies, block
//! status of `base:allocation`, flush, FUA, trim, write zeroes, cache, and any number of connections to
//! one export. [`Handshake`] and [`Request`] are the protocol without input and output.
//!
//! ```no_run
//! # use shale_nbd::{Access, Export, Exports, Server, Settings, listen_unix, listen_unix_for_group};
//! # async fn example(device: std::sync::Arc<dyn shale_model::BlockDevice>) -> Result<(), Box<dyn std::error::Error>> {
//! let exports = Exports::single(Export::new(device, Access::ReadWrite))?;
//! let server = Server::new(exports, Settings::default());
//! let listener = listen_unix("/run/disk.sock".as_ref())?;
//! server.serve(listener, std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

mod connection;
mod counters;
mod export;
mod handshake;
mod input;
pub mod limits;
mod listen;
mod option;
mod outbox;
mod perform;
mod pool;
mod proto;
mod reply;
mod request;
mod server;

pub use connection::TransmissionError;
pub use counters::Counters;
pub use export::{Access, Export, ExportError, Exports};
pub use handshake::{Handshake, HandshakeError, Progress, Session};
pub use listen::{ListenError, listen_unix, listen_unix_for_group};
pub use option::{ClientOption, InfoRequest, MetaRequest, OptionError};
pub use proto::Errno;
pub use reply::ReplyStyle;
pub use request::{Answer, BadMagic, Command, REQUEST_BYTES, Refusal, Request, Room, Rules};
pub use server::{ConnectionError, Server, Settings};
