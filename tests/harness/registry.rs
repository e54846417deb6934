//! A registry for a test.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{Background, Shale, wait_for_file};

/// A running registry with its own home, and where it answers.
#[derive(Debug)]
pub struct Registry {
    /// Its process.
    pub server: Background,
    url: String,
}

impl Registry {
    /// Starts the registry of `home`, on `port` or any free one.
    ///
    /// # Errors
    ///
    /// As [`Self::start_with`].
    pub fn start(home: &Shale, port: u16) -> Result<Self> {
        Self::start_with(home, port, &[])
    }

    /// The same with more arguments. What it says is in the file `log` of its home.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn start_with(home: &Shale, port: u16, more: &[&str]) -> Result<Self> {
        let file = home.home().join("address");
        let _ = fs::remove_file(&file);
        let log = fs::File::create(home.home().join("log"))?;
        let listen = format!("127.0.0.1:{port}");
        let mut command = home.command();
        command
            .args(["server", "run", "--listen", &listen])
            .args(more);
        command.arg("--address-file").arg(&file).stderr(log);
        let server = Background::start(&mut command)?;
        wait_for_file(&file)?;
        let begun = Instant::now();
        loop {
            // It is there for a moment before its content is.
            let url = fs::read_to_string(&file)?;
            if !url.is_empty() {
                return Ok(Self { server, url });
            }
            let waited = begun.elapsed() < Duration::from_secs(5);
            ensure!(waited, "no address: {url:?}");
        }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Its `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.url.split_once("://").map_or(&*self.url, |url| url.1)
    }

    /// Its port.
    ///
    /// # Errors
    ///
    /// Its address is none.
    pub fn port(&self) -> Result<u16> {
        Ok(self.address().parse::<SocketAddr>()?.port())
    }

    /// The reference of `name` in it.
    #[must_use]
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }
}
