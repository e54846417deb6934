//! The built `shale` program, run as a user without any history would run it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::power::Power;

/// Runs `shale` with an empty home directory of its own, which goes when this is dropped.
#[derive(Debug)]
pub struct Shale {
    program: PathBuf,
    /// Goes before the home, on which it is mounted.
    power: Option<Power>,
    home: TempDir,
    /// Variables that every command gets besides.
    variables: Vec<(&'static str, &'static str)>,
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
        Ok(Self {
            program,
            power: None,
            home,
            variables: Vec::new(),
        })
    }

    /// The same on a host that can lose its power, with a home of so many bytes.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; not root, or the kernel has no namespaces or loop devices for us.
    pub fn with_power(home_bytes: u64) -> Result<Self> {
        let mut shale = Self::new()?;
        shale.power = Some(Power::new(shale.home.path(), home_bytes)?);
        Ok(shale)
    }

    /// The same, with this variable in the environment of every command.
    #[must_use]
    pub fn with_variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    /// The power of its host.
    ///
    /// # Errors
    ///
    /// It has none of its own: it was not made by [`Self::with_power`].
    pub fn power(&self) -> Result<&Power> {
        self.power
            .as_ref()
            .context("a host with a power of its own")
    }

    /// `shale` with no argument yet. It sees no variable of the test's environment but `PATH`, so that nobody's
    /// settings change a test.
    pub fn command(&self) -> Command {
        self.command_of(&self.program)
    }

    /// Any program, on the same host and with the same environment.
    #[must_use]
    pub fn command_of(&self, program: &Path) -> Command {
        let mut command = match &self.power {
            Some(power) => power.command(program),
            None => Command::new(program),
        };
        command
            .env_clear()
            .envs(self.variables.iter().copied())
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
            .current_dir(match self.power {
                // `nsenter` goes there, and must keep nothing of it in use here.
                Some(_) => Path::new("/"),
                None => self.home.path(),
            });
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
            // As whoever installs programs does it: its host may lose its power.
            std::fs::File::open(&copy)?.sync_all()?;
            std::fs::File::open(self.home.path())?.sync_all()?;
        }
        Ok(self.command_of(&copy))
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
