//! Processes that outlive the one that started them.
//!
//! The number of a process is used again after it has ended; together with the moment it began, in
//! ticks since the system's start, it is not. Signals go through a pidfd, so that there is no moment in
//! which a number could come to mean another process.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};

/// A process that may have ended meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it began: field 22 of `/proc/PID/stat` (proc(5)).
    pub started: u64,
}

impl ProcessId {
    /// The process that has this number now; `None` if there is none, or it has ended and waits for
    /// its parent.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; the rest follows its last one.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        // Field 22, counted from the state, which is the third.
        let started = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, started })
    }

    /// Whether it still runs.
    pub fn runs(self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let ended = Self::of(self.pid) != Some(self);
        if let (true, Some(pid)) = (ended, pid) {
            reap(pid);
        }
        !ended
    }

    /// Whether one of its arguments is exactly `argument`.
    pub fn has_argument(self, argument: &[u8]) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|found| found == argument) && self.runs()
    }

    /// Ends it without asking and waits until it is gone, at most for `limit`; whether it is gone.
    pub fn kill(self, limit: Duration) -> bool {
        let Some(fd) = self.open() else { return true };
        match pidfd_send_signal(&fd, Signal::KILL) {
            Ok(()) => {}
            Err(Errno::SRCH) => return true,
            Err(_) => return false,
        }
        let gone = wait(&fd, limit);
        self.runs();
        gone
    }

    /// Waits until it is gone, at most for `limit`; whether it is gone.
    pub fn wait(self, limit: Duration) -> bool {
        let gone = self.open().is_none_or(|fd| wait(&fd, limit));
        gone && !self.runs()
    }

    fn open(self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Only now is it sure that the number still means this process.
        self.runs().then_some(fd)
    }
}

/// Takes note of the end of a child, so that its number becomes free; of others, init does.
fn reap(pid: Pid) {
    let _ = waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    );
}

/// A pidfd can be read once the process has ended.
fn wait(fd: &OwnedFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], left.as_ref()) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        assert!(process.runs());
        // The program's arguments appear a moment after the process.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !process.has_argument(b"1000") && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(process.has_argument(b"1000"));
        assert!(!process.has_argument(b"100"));
        assert!(!process.wait(Duration::from_millis(1)));
        let other = ProcessId {
            started: process.started + 1,
            ..process
        };
        assert!(!other.runs());
        assert!(other.kill(Duration::ZERO), "somebody else is not killed");
        assert!(process.runs());
        assert!(process.kill(Duration::from_secs(5)));
        assert!(!process.runs());
        assert!(process.kill(Duration::ZERO));
        assert_eq!(ProcessId::of(child.id()), None);
        // Its end was taken note of already.
        assert!(child.wait().is_err());
    }
}
