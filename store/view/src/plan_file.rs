//! A plan file, mapped into memory.
#![expect(unsafe_code, reason = "mapping a file is unsafe: see `open`")]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use shale_model::{FormatError, Plan, PlanId};

/// A plan whose file is mapped.
pub type PlanFile = Plan<Mmap>;

/// Why a plan file does not open.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    /// It cannot be opened or mapped.
    #[error("open plan `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its bytes are not those that its name promises.
    #[error("plan `{}` is damaged: its bytes do not hash to {id}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The plan that it should be.
        id: PlanId,
    },
    /// Its bytes are no plan of this version.
    #[error("plan `{}`", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The rule that is broken.
        source: FormatError,
    },
}

/// Maps the plan at `path` and checks that it is `id`: reading all of it once, at some GB/s.
///
/// The file must not be changed while it is mapped. Shale writes plan files once, under a name made
/// of their content, with mode 0444, and removes them only when nothing uses them.
pub fn open(path: &Path, id: PlanId) -> Result<PlanFile, PlanFileError> {
    let failed = |source| PlanFileError::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // SAFETY: the bytes of the map stay as they are as long as nobody writes to or truncates the file.
    // Plan files are immutable: written to a temporary name, renamed, never opened for writing again.
    let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
    if PlanId::of(&map) != id {
        return Err(PlanFileError::Damaged {
            path: path.to_owned(),
            id,
        });
    }
    Plan::open(map).map_err(|source| PlanFileError::Format {
        path: path.to_owned(),
        source,
    })
}
