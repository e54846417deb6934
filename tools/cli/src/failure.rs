//! How an error is told: what failed, why, and with which exit code.

use std::io;
use std::process::ExitCode;

use shale_hostd::{ComposeError, HostError, PlaceError};
use shale_model::{SeamError, Trouble};
use shale_view::{OverlayError, ReadError};

use crate::output::note;

/// Exit codes other than success and usage, as the help lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Failure = 1,
    Usage = 2,
    NotFound = 3,
    Denied = 4,
    Conflict = 5,
    Unavailable = 6,
    Integrity = 7,
}

/// An error with an exit code of its own and, where there is one, what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        let hint = None;
        Self {
            exit,
            message,
            hint,
        }
    }

    /// Adds what the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Prints the error with its causes on standard error.
pub(crate) fn report(error: &anyhow::Error, debug: bool) -> ExitCode {
    // Whoever read the output has seen enough: `shale template ls | head`.
    if error
        .downcast_ref()
        .is_some_and(|e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // A wrapper that adds nothing would say everything twice.
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    note!("shale: {text}");
    if let Some(hint) = error.chain().find_map(hint_of) {
        note!("  {hint}");
    }
    if debug {
        note!("{error:?}");
    }
    ExitCode::from(error.chain().find_map(exit_of).unwrap_or(Exit::Failure) as u8)
}

fn hint_of(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<HostError>() {
        return error.hint();
    }
    cause.downcast_ref::<Failure>()?.hint.clone()
}

fn exit_of(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    let cause = opened(cause);
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.exit);
    }
    if let Some(error) = cause.downcast_ref::<SeamError>() {
        return Some(exit_of_trouble(error.trouble));
    }
    if let Some(error) = cause.downcast_ref::<HostError>()
        && error.trouble() != Trouble::Failed
    {
        return Some(exit_of_trouble(error.trouble()));
    }
    if cause.downcast_ref().is_some_and(is_damage) {
        return Some(Exit::Integrity);
    }
    if cause.downcast_ref().is_some_and(PlaceError::in_use) {
        return Some(Exit::Conflict);
    }
    if cause.is::<shale_model::FormatError>() {
        return Some(Exit::Integrity);
    }
    if cause.is::<shale_model::ReferenceError>() || cause.is::<shale_client::AddressError>() {
        return Some(Exit::Usage);
    }
    match cause.downcast_ref::<shale_files::LockError>() {
        Some(shale_files::LockError::Held { .. }) => Some(Exit::Conflict),
        _ => None,
    }
}

fn exit_of_trouble(trouble: Trouble) -> Exit {
    match trouble {
        Trouble::NotFound => Exit::NotFound,
        Trouble::Denied => Exit::Denied,
        Trouble::Conflict => Exit::Conflict,
        Trouble::Unavailable => Exit::Unavailable,
        Trouble::Integrity => Exit::Integrity,
        Trouble::Invalid => Exit::Usage,
        Trouble::NoSpace | Trouble::Failed => Exit::Failure,
    }
}

/// Whether a chunk cannot be read because its source lost it or changed it. A source that finds a question
/// impossible has other bytes than its own index says.
fn is_damage(error: &ReadError) -> bool {
    match error {
        ReadError::Corrupt { .. } | ReadError::Missing(_) => true,
        ReadError::Refused { source, .. } => source.trouble == Trouble::Invalid,
    }
}

/// The error in a transparent wrapper, which stands in the chain in its place.
fn opened<'a>(
    cause: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(ComposeError::Seam(error)), _) => error,
        (Some(ComposeError::Read(error)), _) => error,
        (_, Some(OverlayError::Format(error))) => error,
        (_, Some(OverlayError::Lock(error))) => error,
        _ => cause,
    }
}
