//! A pack on its way: written to a file without a name, then uploaded.
//!
//! Its id is known only at its end, and an upload that fails must be sent again, so it is kept until the
//! registry has it. The file has no name: however the process ends, nothing is left.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use shale_model::limits::MAX_PACK_BYTES;
use shale_model::{PackContents, PackId, PackWriter, SeamError, SeamResult, Trouble};

use crate::uploads::Uploads;

/// A pack being written.
pub(crate) struct SpooledPack<'a> {
    file: File,
    len: u64,
    uploads: &'a Uploads,
}

impl<'a> SpooledPack<'a> {
    pub(crate) fn begin(dir: &Path, uploads: &'a Uploads) -> SeamResult<Self> {
        let file = tempfile::tempfile_in(dir);
        let action = || format!("begin a pack in {}", dir.display());
        Ok(Self {
            file: file.map_err(|error| failed(action(), error))?,
            len: 0,
            uploads,
        })
    }
}

impl PackWriter for SpooledPack<'_> {
    fn write(&mut self, bytes: &[u8]) -> SeamResult<()> {
        let len = self.len.saturating_add(bytes.len() as u64);
        if len > MAX_PACK_BYTES {
            let action = format!("write a pack of more than {MAX_PACK_BYTES} bytes");
            return Err(SeamError::new(Trouble::Invalid, action));
        }
        let written = self.file.write_all(bytes);
        written.map_err(|error| failed("write a pack".into(), error))?;
        self.len = len;
        Ok(())
    }

    fn finish(mut self: Box<Self>, id: PackId, contents: PackContents) -> SeamResult<()> {
        let tail = contents.encode_tail();
        let same = match self.len == contents.pack_bytes() {
            true => self.ends_with(&tail),
            false => Ok(false),
        };
        match same {
            Ok(true) => self.uploads.begin(self.file, self.len, id),
            Ok(false) => {
                let action = format!("finish pack {id}: its footer is not that of its contents");
                Err(SeamError::new(Trouble::Invalid, action))
            }
            Err(error) => Err(failed(format!("finish pack {id}"), error)),
        }
    }
}

impl SpooledPack<'_> {
    fn ends_with(&mut self, tail: &[u8]) -> io::Result<bool> {
        let mut end = vec![0; tail.len()];
        let start = self.len.saturating_sub(tail.len() as u64);
        self.file.seek(SeekFrom::Start(start))?;
        self.file.read_exact(&mut end)?;
        Ok(end == tail)
    }
}

fn failed(action: String, error: io::Error) -> SeamError {
    let trouble = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Trouble::NoSpace,
        io::ErrorKind::PermissionDenied => Trouble::Denied,
        _ => Trouble::Failed,
    };
    SeamError::caused(trouble, action, error)
}
