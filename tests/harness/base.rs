//! Inputs made of real Debian packages by the recipes in `dev/`, and kept between runs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::tools::{need_root, repository};

/// A tree and the same as a tar archive: the bootable base, or the base with one application installed.
#[derive(Debug, Clone)]
pub struct Input {
    directory: PathBuf,
}

/// An application that is installed on the base, apart from every other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// `nginx`, serving its package's page on port 80.
    Nginx,
    /// `postgresql` with its package's cluster, listening on port 5432 of every address.
    Postgresql,
    /// `openjdk-17-jre-headless`: one file of 100 MB among few. Only benches use it.
    OpenJdk,
    /// `python3-numpy` with all of Python: many small files. Only benches use it.
    Python,
}

impl Input {
    /// Debian 12 with systemd, a kernel, DHCP on every network card and an ssh server without host keys.
    ///
    /// The first call takes a minute, see `dev/make-base`.
    ///
    /// # Errors
    ///
    /// The recipe failed; its output is on standard error.
    pub fn base() -> Result<Self> {
        Self::make("make-base", None)
    }

    /// The base with `app` installed.
    ///
    /// # Errors
    ///
    /// The recipe failed; its output is on standard error.
    pub fn with_app(app: App) -> Result<Self> {
        let name = match app {
            App::Nginx => "nginx",
            App::Postgresql => "postgresql",
            App::OpenJdk => "openjdk",
            App::Python => "python",
        };
        Self::make("make-apps", Some(name))
    }

    /// The base with an upgraded library and a user more (`dev/make-updates`).
    ///
    /// # Errors
    ///
    /// As [`Self::base`].
    pub fn with_updates() -> Result<Self> {
        Self::make("make-updates", None)
    }

    fn make(recipe: &str, argument: Option<&str>) -> Result<Self> {
        need_root()?;
        let mut command = Command::new(repository().join("dev").join(recipe));
        command
            .args(argument)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        let output = command
            .output()
            .with_context(|| format!("start {command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {}", output.status);
        let directory = String::from_utf8(output.stdout).context("read the recipe's answer")?;
        Ok(Self {
            directory: directory.trim_end().into(),
        })
    }

    /// The root file system as a directory. Only to be read: other tests use it too.
    pub fn tree(&self) -> PathBuf {
        self.directory.join("tree")
    }

    /// The root file system as a pax archive with xattrs and ACLs.
    pub fn tar(&self) -> PathBuf {
        self.directory.join("tree.tar")
    }

    /// The newest kernel in the tree.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn kernel(&self) -> Result<PathBuf> {
        self.newest_in_boot("vmlinuz-")
    }

    /// The initial RAM disk that goes with [`Self::kernel`].
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn initrd(&self) -> Result<PathBuf> {
        self.newest_in_boot("initrd.img-")
    }

    fn newest_in_boot(&self, prefix: &str) -> Result<PathBuf> {
        let boot = self.tree().join("boot");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&boot).with_context(|| format!("list {}", boot.display()))? {
            names.extend(
                entry?
                    .file_name()
                    .into_string()
                    .ok()
                    .filter(|name| name.starts_with(prefix)),
            );
        }
        match names.into_iter().max() {
            Some(name) => Ok(boot.join(name)),
            None => bail!("there is no {prefix}* in {}", boot.display()),
        }
    }
}
