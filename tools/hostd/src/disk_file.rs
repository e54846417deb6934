//! A disk as a raw image file.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use shale_model::BlockDevice;

/// Bytes that are read and written at once.
const STEP_BYTES: u64 = 4 << 20;

/// Why a disk is not written to a file.
#[derive(Debug, thiserror::Error)]
#[error("write `{}`", path.display())]
pub struct DiskFileError {
    /// The file.
    pub path: PathBuf,
    /// What the system or the disk said.
    #[source]
    pub cause: Cause,
}

type Cause = Box<dyn Error + Send + Sync>;

impl DiskFileError {
    /// Whether the file is there already.
    pub(crate) fn is_there(&self) -> bool {
        self.kind() == Some(io::ErrorKind::AlreadyExists)
    }

    /// Whether its disk is full.
    pub(crate) fn is_full(&self) -> bool {
        self.kind() == Some(io::ErrorKind::StorageFull)
    }

    fn kind(&self) -> Option<io::ErrorKind> {
        self.cause.downcast_ref().map(io::Error::kind)
    }
}

/// Writes a disk to a sparse file, which must not exist, and gets its name when it is complete and durable: until then
/// it is FILE.PID.part. Such files of processes that are dead are removed. `progress` is told the bytes that are done,
/// and those of them that were written. The bytes written are the answer.
///
/// # Errors
/// The disk cannot be read or the file not be written; then there is no file.
pub async fn write_disk(
    disk: &dyn BlockDevice,
    target: &Path,
    progress: impl Fn(u64, u64),
) -> Result<u64, DiskFileError> {
    let written = async {
        let unfinished = Unfinished::create(target)?;
        unfinished.file.set_len(disk.size())?;
        let written = copy(disk, &unfinished.file, progress).await?;
        unfinished.publish(target)?;
        Ok::<_, Cause>(written)
    };
    written.await.map_err(|cause| DiskFileError {
        path: target.to_owned(),
        cause,
    })
}

/// Writes all that is not zeros; how many bytes that were.
async fn copy(
    disk: &dyn BlockDevice,
    file: &File,
    progress: impl Fn(u64, u64),
) -> Result<u64, Cause> {
    let mut buffer = vec![0; STEP_BYTES as usize];
    let (mut at, mut written) = (0, 0);
    while at < disk.size() {
        for run in disk.status(at, STEP_BYTES.min(disk.size() - at)).await? {
            if !run.zero {
                let part = &mut buffer[..run.len as usize];
                disk.read(at, part).await?;
                file.write_all_at(part, at)?;
                written += run.len;
            }
            at += run.len;
            progress(at, written);
            // What is here comes without waiting: whoever ends this gets a turn.
            tokio::task::yield_now().await;
        }
    }
    Ok(written)
}

/// A file that has another name, beside its own, until it is complete; removed when it is dropped before.
struct Unfinished {
    file: File,
    path: PathBuf,
}

impl Unfinished {
    /// For a file `target`, which must not exist.
    fn create(target: &Path) -> io::Result<Self> {
        if target.symlink_metadata().is_ok() {
            return Err(Errno::EXIST.into());
        }
        sweep(target);
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = PathBuf::from(name);
        let file = File::create_new(&path)?;
        // Only tells processes of other machines, and not every file system has locks.
        let _ = file.try_lock();
        Ok(Self { file, path })
    }

    /// Makes it durable and gives it its own name, unless something has got that meanwhile.
    fn publish(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        match renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            // NFS does not know this; a link replaces nothing either.
            Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(&self.path, target)?,
            renamed => renamed?,
        }
        File::open(parent_of(target))?.sync_all()
    }
}

/// Removes what exports to `target` have left that were killed. Best effort: it is in nobody's way.
fn sweep(target: &Path) {
    let Some(name) = target.file_name() else {
        return;
    };
    for entry in fs::read_dir(parent_of(target))
        .into_iter()
        .flatten()
        .flatten()
    {
        let file_name = entry.file_name();
        let rest = file_name.as_bytes().strip_prefix(name.as_bytes());
        let number = rest.and_then(|rest| rest.strip_prefix(b".")?.strip_suffix(b".part"));
        let process = number.and_then(|number| str::from_utf8(number).ok()?.parse::<u32>().ok());
        let is_dead = |process: u32| !Path::new("/proc").join(process.to_string()).exists();
        if !process.is_some_and(is_dead) {
            continue;
        }
        // A number that nobody has here may be that of a process on another machine, which has locked the file.
        let file = File::open(entry.path());
        if file.is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The directory in which a file lies.
fn parent_of(target: &Path) -> &Path {
    let parent = target.parent().filter(|dir| !dir.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It is gone when it was published.
        let _ = fs::remove_file(&self.path);
    }
}
