//! The HTTP client of a registry: the store's seams over the wire.
//!
//! [`RemoteRegistry`] is the [`shale_model::Catalog`] and [`shale_model::Fetch`] of what the registry
//! holds; [`RemoteRegistry::push`] gives the [`shale_model::Sink`]. Whatever may be asked twice is asked
//! again, with pauses, while there is no answer, for the time in [`Deadlines`]; then the trouble is
//! [`shale_model::Trouble::Unavailable`], and whoever cannot do without waits above (I8). What is named
//! by its content is checked on arrival, except packs: their reader hashes chunks.
//!
//! | module | concern |
//! |---|---|
//! | `address`, `trust`, `settings` | which registry, why it is believed, how long it is waited for |
//! | `transport`, `backoff`, `call` | one request with its deadlines and repetitions |
//! | `remote`, `catalog`, `fetch`, `heard` | reading, and whether anything is heard meanwhile |
//! | `push`, `spool`, `uploads` | pushing |

mod address;
mod backoff;
mod boot_sets;
mod call;
mod catalog;
mod fetch;
mod heard;
mod push;
mod remote;
mod settings;
mod spool;
mod transport;
mod trust;
mod uploads;

pub use address::{Address, AddressError};
pub use call::WrongAnswer;
pub use push::RemotePush;
pub use remote::RemoteRegistry;
pub use settings::{Deadlines, Settings, SetupError};
pub use trust::Trust;
