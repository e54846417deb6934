//! Disks of an instance besides its root disk: sparse files in its directory, which a new root disk leaves alone.

use std::path::Path;

use serde::{Deserialize, Serialize};
use shale_files::{DirFiles, FilePath, Files, OpenMode};

use crate::error::{HostError, HostResult};

/// Most data disks of an instance: each takes one of the 32 slots of its machine's PCI bus, some of which are taken.
pub(crate) const MAX_DATA_DISKS: usize = 16;

/// Most bytes of one: no file of ext4 with blocks of 4 KiB is larger.
const MAX_BYTES: u64 = 16 << 40;

/// Their sizes are rounded up to this.
const STEP_BYTES: u64 = 1 << 20;

/// A data disk as the record has it. Its number is its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataDisk {
    pub(crate) bytes: u64,
}

impl DataDisk {
    /// Disks of these sizes.
    pub(crate) fn of(sizes: &[u64]) -> HostResult<Vec<Self>> {
        if sizes.len() > MAX_DATA_DISKS {
            return Err(HostError::DataDisks(MAX_DATA_DISKS));
        }
        let disks = sizes.iter().map(|asked| match asked {
            1..=MAX_BYTES => {
                let bytes = asked.next_multiple_of(STEP_BYTES);
                Ok(Self { bytes })
            }
            _ => Err(HostError::DataDiskBytes {
                asked: *asked,
                most: MAX_BYTES,
            }),
        });
        disks.collect()
    }

    /// The file of the disk with this number.
    pub(crate) fn file_name(number: usize) -> String {
        format!("{}.raw", Self::serial(number))
    }

    /// By what the guest knows it: it finds it at `/dev/disk/by-id/virtio-` and this.
    pub(crate) fn serial(number: usize) -> String {
        format!("data{number}")
    }

    /// Makes the files of these disks in the directory of an instance, durably. Blocks.
    pub(crate) fn make_all(disks: &[Self], directory: &Path) -> HostResult<()> {
        let files = DirFiles::open(directory)?;
        for (number, disk) in disks.iter().enumerate() {
            let name = FilePath::new(&Self::file_name(number)).unwrap_or_default();
            let file = files.open(&name, OpenMode::CreateNew)?;
            file.set_size(disk.bytes)?;
            file.sync()?;
        }
        Ok(files.sync_dir(&FilePath::root())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shale_model::Trouble;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn disks_are_sparse_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let disks = DataDisk::of(&[1, 3 << 30]).unwrap();
        assert_eq!(disks[0].bytes, 1 << 20);
        DataDisk::make_all(&disks, dir.path()).unwrap();
        let found = std::fs::metadata(dir.path().join("data1.raw")).unwrap();
        assert_eq!((found.len(), found.blocks()), (3 << 30, 0));
        assert_eq!(found.mode() & 0o777, 0o600);
        for wrong in [&[0][..], &[u64::MAX], &[1; MAX_DATA_DISKS + 1]] {
            let error = DataDisk::of(wrong).unwrap_err();
            assert_eq!(error.trouble(), Trouble::Invalid, "{error}");
        }
    }
}
