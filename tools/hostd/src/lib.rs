//! The host: where its content comes from, the images that it composes, and what it serves from them.
//!
//! [`Place`] is a repository on this machine; [`Composer`] turns a template of it into a plan file; a
//! [`shale_view::View`] of that plan is what the faces show. Nothing here prints or reads the
//! environment: the command line does.

mod compose;
mod dirs;
mod place;

pub use compose::{ComposeError, Composed, Composer, Image};
pub use dirs::{HostDirs, boot_id, private_dir};
pub use place::{Place, PlaceError};
pub use shale_image::merge::{Conflict, IdKind, MergeNote};
