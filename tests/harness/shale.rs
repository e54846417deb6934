//! The built `shale` program, run as a user without any history would run it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// Runs `shale` with an empty home directory of its own, which goes when this is dropped.
#[derive(Debug)]
pub struct Shale {
    program: PathBuf,
    home: TempDir,
}

impl Shale {
    /// Finds the program and makes a home.
    ///
    /// The program is another package's, so Cargo builds it only when told (`cargo build --release
    /// --workspace`, which `make test` and CI do first); it lies where Cargo put it, beside a running program and one
    /// directory above a running test.
    ///
    /// # Errors
    ///
    /// The program has not been built.
    pub fn new() -> Result<Self> {
        let this = std::env::current_exe().context("find the running program")?;
        let beside = this.parent().context("find the target directory")?;
        let profile = match beside.ends_with("deps") {
            true => beside.parent().unwrap_or(beside),
            false => beside,
        };
        let program = profile.join("shale");
        ensure!(
            program.exists(),
            "{} is not built: run cargo build --release --workspace (make test does)",
            program.display()
        );
        let home = tempfile::tempdir().context("make a home directory")?;
        Ok(Self { program, home })
    }

    /// `shale` with no argument yet. It sees no variable of the test's environment but `PATH`, so that nobody's
    /// settings change a test.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", self.home.path())
            // Root's defaults are those of the machine, which a test leaves alone.
            .env("SHALE_STATE", self.home.path().join(".state"))
            .env("SHALE_CACHE", self.home.path().join(".cache"))
            // Those of the machine, too.
            .env("SHALE_CONFIG", self.home.path().join(".none.toml"))
            .current_dir(self.home.path());
        command
    }

    /// The same for a copy of the program, in the home directory under this name: one that an upgrade put there, or that a
    /// user runs who cannot see where Cargo built it.
    ///
    /// # Errors
    ///
    /// It cannot be copied.
    pub fn copied(&self, name: &str) -> Result<Command> {
        let copy = self.home.path().join(name);
        if !copy.exists() {
            std::fs::copy(&self.program, &copy).context("copy the program")?;
        }
        let original = self.command();
        let mut command = Command::new(copy);
        command.env_clear().current_dir(self.home.path());
        for (key, value) in original.get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        Ok(command)
    }

    /// The home directory, which is also the working directory.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The repository that its commands use: the one of root, or that of the home directory, as the program
    /// chooses. Every command of [`Shale::command`] is told to keep its state below the home directory.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.home.path().join(".state/repository")
    }
}
