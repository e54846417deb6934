//! Processes that run beside a test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, kill_process};

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
}

impl Background {
    /// Starts `command` without standard input.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("start {command:?}"))?;
        Ok(Self { child })
    }

    /// Starts `command` with the standard input that it was given.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub fn start_with_stdin(command: &mut Command) -> Result<Self> {
        let child = command.spawn();
        let child = child.with_context(|| format!("start {command:?}"))?;
        Ok(Self { child })
    }

    /// Starts `command` and waits until it has printed a line on standard error that contains `ready`.
    ///
    /// # Errors
    ///
    /// It cannot be started, or ends before it is ready.
    pub fn start_until(command: &mut Command, ready: &str) -> Result<Self> {
        let mut this = Self::start(command.stderr(Stdio::piped()))?;
        let output = this.child.stderr.take().context("its standard error")?;
        let mut seen = String::new();
        for line in BufReader::new(output).lines() {
            let line = line.context("read its standard error")?;
            if line.contains(ready) {
                return Ok(this);
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        bail!("{command:?} ended before it was ready:\n{seen}")
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// It cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("wait for it")
    }

    /// Kills it with SIGKILL, unless it has ended by itself: then how.
    ///
    /// # Errors
    ///
    /// It cannot be waited for.
    pub fn kill(mut self) -> Result<Option<ExitStatus>> {
        let ended = self.ended()?;
        if ended.is_none() {
            self.child.kill().context("kill it")?;
            self.child.wait().context("wait for it")?;
        }
        Ok(ended)
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    ///
    /// It does not end within ten seconds, or not with success.
    pub fn terminate(self) -> Result<()> {
        let status = self.end_by(Signal::TERM)?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// Sends it a signal that asks it to end, and waits until it has.
    ///
    /// # Errors
    ///
    /// It does not end within ten seconds.
    pub fn end_by(mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            ensure!(begun.elapsed() < Duration::from_secs(10), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// It has ended, and was waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let process = rustix::process::Pid::from_child(&self.child);
        kill_process(process, signal).with_context(|| format!("send it {signal:?}"))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same random numbers for the same seed (xorshift64*): delays and places of tests that kill.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with the seed of `SHALE_SEED`, or one from the clock; printed, so that a failure can be
    /// repeated.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        clippy::print_stdout,
        reason = "a test chooses its seed, and shows it"
    )]
    pub fn printed(of: &str) -> Self {
        let given = std::env::var("SHALE_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let clock = || {
            let now = std::time::SystemTime::now();
            now.duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |t| t.as_nanos() as u64)
        };
        let seed = given.unwrap_or_else(clock) | 1;
        println!("{of}: SHALE_SEED={seed}");
        Self(seed)
    }

    /// A generator for a process that was told its seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % end
    }

    /// So many bytes that do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// Waits until a file exists.
///
/// # Errors
///
/// It does not within ten seconds.
pub fn wait_for_file(path: &Path) -> Result<()> {
    let begun = Instant::now();
    while !path.exists() {
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "no {}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
