//! A tree as an image of nydus, served by its daemon by FUSE.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Result;
use harness::run;
use serde_json::json;

use crate::programs::{Running, clear, peer};

/// An image with its blob, and the directories that it is served with.
#[derive(Debug)]
pub(crate) struct NydusImage {
    directory: PathBuf,
}

impl NydusImage {
    /// Packs `tree` below `directory`: RAFS v6 with zstd and the chunks of a mebibyte that are the default.
    pub(crate) fn new(directory: &Path, tree: &Path) -> Result<Self> {
        let image = Self {
            directory: directory.to_owned(),
        };
        for below in ["blobs", "cache", "mnt", "plain"] {
            std::fs::create_dir_all(image.path(below))?;
        }
        // It takes no tree in which something has an access control list, as a directory of the journal has: of an archive
        // without extended attributes it does.
        let archive = image.path("plain.tar");
        let mut pack = peer("tar")?;
        pack.arg("--create").arg("--file").arg(&archive);
        run(pack.arg("--directory").arg(tree).arg("."))?;
        let mut unpack = peer("tar")?;
        unpack.args(["--extract", "--preserve-permissions"]);
        unpack.arg("--file").arg(&archive);
        run(unpack.arg("--directory").arg(image.path("plain")))?;
        let mut pack = peer("nydus-image")?;
        pack.args(["create", "--type", "dir-rafs", "--fs-version", "6"])
            .args(["--compressor", "zstd", "--chunk-size", "0x100000"])
            .arg("--blob-dir")
            .arg(image.path("blobs"))
            .arg("--bootstrap")
            .arg(image.path("bootstrap"))
            .arg(image.path("plain"));
        run(&mut pack)?;
        // As its documentation has it for a local blob, with a cache of what is unpacked, and without reading ahead of what
        // is asked for.
        let settings = json!({
            "device": {
                "backend": {"type": "localfs", "config": {"dir": image.path("blobs")}},
                "cache": {"type": "blobcache", "config": {"work_dir": image.path("cache")}},
            },
            "mode": "direct",
            "digest_validate": false,
            "iostats_files": false,
            "enable_xattr": true,
            "fs_prefetch": {"enable": false},
        });
        std::fs::write(image.path("nydusd.json"), settings.to_string())?;
        Ok(image)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.join(below)
    }

    /// Where it is mounted while it is served.
    pub(crate) fn point(&self) -> PathBuf {
        self.path("mnt")
    }

    /// Takes away what was unpacked.
    pub(crate) fn clear_cache(&self) -> Result<()> {
        clear(&self.path("cache"))?;
        Ok(std::fs::create_dir(self.path("cache"))?)
    }

    /// Mounts it.
    pub(crate) fn serve(&self) -> Result<Running> {
        let mut daemon = peer("nydusd")?;
        daemon
            .args(["fuse", "--log-level", "error", "--thread-num", "2"])
            // As many open files as it may have, where that is less than it asks for.
            .args(["--rlimit-nofile", "0"])
            .arg("--config")
            .arg(self.path("nydusd.json"))
            .arg("--bootstrap")
            .arg(self.path("bootstrap"))
            .arg("--mountpoint")
            .arg(self.point())
            .stdin(Stdio::null());
        Running::server(&mut daemon, &self.point().join("etc"))
    }
}
