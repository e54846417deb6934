//! Serves a plain file over NBD on a unix socket: `serve_file FILE SOCKET [ro]`.
//!
//! For trying the server with any client, and for comparing its speed with `qemu-nbd` and
//! `nbdkit file`, which do the same. Ends on Ctrl-C.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use shale_model::{BlockDevice, BlockRun, BoxFuture, DeviceError, DeviceResult};
use shale_nbd::{Access, Export, Exports, Server, Settings, listen_unix};

/// A file as a disk. Its calls block, which is right for a file in the page cache only.
struct FileDevice {
    file: File,
    size: u64,
}

fn device_error(error: io::Error) -> DeviceError {
    match error.kind() {
        io::ErrorKind::StorageFull => DeviceError::NoSpace(error.to_string()),
        _ => DeviceError::Io(error.to_string()),
    }
}

impl FileDevice {
    /// The run that begins at `offset`, not beyond `end`.
    fn run_at(&self, offset: u64, end: u64) -> io::Result<BlockRun> {
        let find = |from| match seek(&self.file, from) {
            Ok(at) => Ok(at.min(end)),
            // No data, or no hole, from here to the end of the file.
            Err(rustix::io::Errno::NXIO) => Ok(end),
            Err(error) => Err(error),
        };
        let data = find(SeekFrom::Data(offset))?;
        Ok(match data > offset {
            true => BlockRun {
                len: data - offset,
                zero: true,
            },
            false => BlockRun {
                len: find(SeekFrom::Hole(offset))?.saturating_sub(offset),
                zero: false,
            },
        })
    }
}

impl BlockDevice for FileDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        let read = self.file.read_exact_at(buffer, offset);
        Box::pin(std::future::ready(read.map_err(device_error)))
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8]) -> BoxFuture<'a, DeviceResult<()>> {
        let written = self.file.write_all_at(data, offset);
        Box::pin(std::future::ready(written.map_err(device_error)))
    }

    fn zero(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<()>> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zeroed = fallocate(&self.file, flags, offset, len).map_err(io::Error::from);
        Box::pin(std::future::ready(zeroed.map_err(device_error)))
    }

    fn flush(&self) -> BoxFuture<'_, DeviceResult<()>> {
        Box::pin(std::future::ready(
            self.file.sync_data().map_err(device_error),
        ))
    }

    fn status(&self, offset: u64, len: u64) -> BoxFuture<'_, DeviceResult<Vec<BlockRun>>> {
        let end = offset.saturating_add(len).min(self.size);
        let mut runs = Vec::new();
        let mut at = offset;
        while at < end {
            match self.run_at(at, end) {
                Ok(run) if run.len > 0 => {
                    at = at.saturating_add(run.len);
                    runs.push(run);
                }
                Ok(_) => break,
                Err(error) => return Box::pin(std::future::ready(Err(device_error(error)))),
            }
        }
        Box::pin(std::future::ready(Ok(runs)))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(path), Some(socket)) = (args.next(), args.next()) else {
        return Err("usage: serve_file FILE SOCKET [ro]".into());
    };
    let access = match args.next() {
        Some(_) => Access::ReadOnly,
        None => Access::ReadWrite,
    };
    let file = File::options()
        .read(true)
        .write(access == Access::ReadWrite)
        .open(&path)?;
    let size = file.metadata()?.len();
    let mut export = Export::new(Arc::new(FileDevice { file, size }), access);
    export.description = path.to_string_lossy().into_owned();
    let server = Server::new(Exports::single(export)?, Settings::default());
    let listener = listen_unix(&PathBuf::from(socket))?;
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    Ok(server.serve(listener, interrupted).await?)
}
