//! File systems in files, mounted for the time of a test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::tools::{need_root, run, tool};

/// A disk image mounted through a loop device; unmounted when dropped.
#[derive(Debug)]
pub struct LoopMount {
    /// Holds the mount point and goes after the mount is gone.
    directory: TempDir,
    mounted: bool,
}

impl LoopMount {
    /// Mounts the file system in `image` with `options` of mount(8), such as `ro` or `rw,noload`.
    ///
    /// # Errors
    ///
    /// Not root, or the kernel refuses the file system; the message holds what mount(8) said.
    pub fn new(image: &Path, options: &str) -> Result<Self> {
        need_root()?;
        let directory = tempfile::tempdir().context("make a mount point")?;
        let mut mount = Self {
            directory,
            mounted: false,
        };
        std::fs::create_dir(mount.path())?;
        run(tool("mount")?
            .args(["-o", &format!("loop,{options}")])
            .arg(image)
            .arg(mount.path()))?;
        mount.mounted = true;
        Ok(mount)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// Unmounts, and unlike dropping tells when that fails: then the file system was still in use, or
    /// writing it back met an error.
    ///
    /// # Errors
    ///
    /// umount(8) failed.
    pub fn unmount(mut self) -> Result<()> {
        self.mounted = false;
        run(tool("umount")?.arg(self.path())).map(drop)
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a test that failed may still hold a file open below it.
            let _ = tool("umount").and_then(|mut umount| run(umount.arg("-l").arg(self.path())));
        }
    }
}
