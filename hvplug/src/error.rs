//! Why a driver could not do what it was asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Results of drivers.
pub type DriverResult<T> = Result<T, DriverError>;

/// Why a driver could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A program that the driver runs is not installed.
    #[error("`{program}` is not installed (Debian package {package})")]
    Missing {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The hypervisor ended at its start.
    #[error("{program} did not start: {said}")]
    Start {
        /// The program.
        program: &'static str,
        /// What it said.
        said: String,
    },
    /// The hypervisor runs, but was not ready in time; it was ended.
    #[error("{program} was not ready within {limit:?}")]
    NotReady {
        /// The program.
        program: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The path of a socket is too long for the system.
    #[error("`{}` is too long for the path of a socket", .0.display())]
    LongPath(PathBuf),
    /// The hypervisor refuses a command.
    #[error("the hypervisor refuses `{command}`: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// Its reason.
        reason: String,
    },
    /// The hypervisor does not answer, or not in its language.
    #[error("`{command}` got no answer from the hypervisor")]
    NoAnswer {
        /// The command.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
    /// The system refused.
    #[error("{action} `{}`", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
