//! The storage seam: files and directories under one root, as the repository, the cache and the
//! overlay see them.
//!
//! Two small traits, [`Files`] and [`File`], and [`LockFiles`] for those who share a directory with
//! other processes. Real: [`DirFiles`]. Twin: [`MemoryFiles`], which knows what was not synced and can
//! show what a power cut leaves. [`FaultyFiles`] makes either fail. [`put_durably`] and [`TempFile`] are
//! the one way to make a file visible (invariant I6). [`conformance`] holds every implementation to
//! the same rules.
//!
//! ```
//! use shale_files::{FilePath, MemoryFiles, put_durably, read_file};
//!
//! let files = MemoryFiles::new();
//! let path = FilePath::new("names/base")?;
//! put_durably(&files, &FilePath::new("tmp-1")?, &path, |file| file.write_at(0, b"12"))?;
//! assert_eq!(read_file(&files.after_power_cut(7), &path, 100)?, b"12");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod conformance;

mod content;
mod crash;
mod dir;
mod durable;
mod error;
mod faulty;
mod lock;
mod memory;
mod path;
mod seam;

pub use dir::{DirFiles, record_lock_holders};
pub use durable::{TempFile, create_dirs, put_durably, read_file, remove_durably};
pub use error::{FileError, FileResult, Operation};
pub use faulty::{Fault, FaultyFiles};
pub use lock::{IfHeld, Lock, LockError, LockKind};
pub use memory::MemoryFiles;
pub use path::{FilePath, PathError};
pub use seam::{DirEntry, EntryKind, File, Files, LockFiles, OpenMode};
