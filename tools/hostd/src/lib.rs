//! The host: where its content comes from, the images that it composes, and what it serves from them.
//!
//! [`Place`] is a repository on this machine or elsewhere; [`Composer`] turns a template of it into a plan
//! file; a [`shale_view::View`] of that plan is what the faces show. [`Host`] is the service that makes
//! instances of templates and keeps them running; [`serve_control`] and [`HostClient`] are the two ends of its
//! socket. Nothing here prints or reads the environment: the command line does.

pub mod api;

mod boot_sets;
mod client;
mod compose;
mod console;
mod control;
mod data_disk;
mod dirs;
mod disk_file;
mod disk_place;
mod disk_socket;
mod drill;
mod error;
mod events;
mod file_copy;
mod file_disk;
mod guest_disk;
mod guest_files;
mod guest_tree;
mod holes;
mod host;
mod http;
mod identity;
mod identity_file;
mod impersonal;
mod keeper;
mod kept;
mod keys;
mod local;
mod logs;
mod metrics;
mod mounts;
mod name;
mod naming;
mod overlay_copy;
mod patience;
mod pins;
mod place;
mod read_ahead;
mod record;
mod renewed;
mod seed;
mod seen;
mod served;
mod snapshot;
mod source;
mod supply;
mod unchanged;
mod warm;

pub use client::{CallError, GiveMount, HostClient};
pub use compose::{ComposeError, Composed, Composer, Image};
pub use control::serve_control;
pub use dirs::{HostDirs, boot_id, private_dir};
pub use disk_file::{DiskFileError, write_disk};
pub use error::{HostError, HostResult, PlaceFailure};
pub use guest_disk::GuestDiskError;
pub use guest_files::GuestFileError;
pub use host::{Host, HostParts, MemoryMount};
pub use http::{Exposure, HttpError, HttpListener, listen_http, serve_http};
pub use keeper::{KeeperError, StartKeeper, keep};
pub use keys::SshKey;
pub use mounts::{Tell, disk_face, tree_face};
pub use name::InstanceName;
pub use naming::{CHUNKER, name_template, set_reference};
pub use place::{Place, PlaceError};
pub use seed::SeedError;
pub use shale_image::merge::{Conflict, IdKind, MergeNote};
pub use source::{OpenPlace, registry_url};
pub use supply::supply;
pub use warm::reference as warm_reference;
