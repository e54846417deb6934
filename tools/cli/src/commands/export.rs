//! `shale export`: a template as a disk image.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use shale_model::{BlockDevice, Reference};
use shale_view::{Disk, View};
use tokio::signal::unix::{SignalKind, signal};

use crate::context::{Context, resolve};
use crate::failure::{Exit, Failure};
use crate::output::{bytes, note};
use crate::progress::DiskProgress;

/// Write a template as a raw disk image
///
/// The file is sparse: zeros take no room. It is the same disk, byte by byte, that a virtual machine sees
/// over NBD. It gets its name when it is complete: until then it is FILE.PID.part, which the next export to
/// FILE removes if this one was killed.
///
/// Examples:
///   shale export demo/base:12 base.raw
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Export {
    /// The template
    reference: Reference,
    /// The file to write; it must not exist
    file: PathBuf,
}

/// Bytes that are read and written at once.
const STEP_BYTES: u64 = 4 << 20;

impl Export {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = context.place_of(&[&self.reference])?;
        let id = resolve(&*context.catalog(&place), &self.reference)?;
        let host = context.host(place)?;
        let image = host.composer.image(id)?;
        let view = Arc::new(View::for_command(image.plan, host.reader.clone()));
        let disk = Disk::read_only(view);
        let shown = || format!("write `{}`", self.file.display());
        let unfinished = Unfinished::create(&self.file).with_context(shown)?;
        let file = &unfinished.file;
        file.set_len(disk.size()).with_context(shown)?;
        let progress = DiskProgress::new(context.global.progress, disk.size());
        let written = context.runtime.block_on(async {
            let ended = interrupted()?;
            tokio::select! {
                written = copy(&disk, file, &progress) => written,
                () = ended => Err(Failure::new(Exit::Failure, "interrupted").into()),
            }
        });
        progress.end();
        let written = written.with_context(shown)?;
        unfinished.publish(&self.file).with_context(shown)?;
        if !context.global.quiet {
            let (size, data) = (bytes(disk.size()), bytes(written));
            note!("{}: {size}, {data} of it data", self.file.display());
        }
        Ok(())
    }
}

/// Writes all that is not zeros; how many bytes that were.
async fn copy(disk: &Disk, file: &File, progress: &DiskProgress) -> anyhow::Result<u64> {
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
            progress.report(at, written);
        }
    }
    Ok(written)
}

/// Ends when somebody interrupts the program or asks it to end.
fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
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
