//! How an error is told: what failed, why, and with which exit code.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::process::ExitCode;

use shale_client::{Deadlines, SetupError, WrongAnswer};
use shale_files::{FileError, LockError};
use shale_fusefs::MountError;
use shale_hostd::{ComposeError, HostError, PlaceError};
use shale_ingest::{PushError, SourceError};
use shale_model::{ComposeError as FoldError, FormatError, Problem, SeamError, Trouble};
use shale_nbd::ListenError;
use shale_repo::InitError;
use shale_view::{CacheError, OverlayError, PlanFileError, ReadError};

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
    /// What the service's log calls the request that failed.
    request: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            exit,
            message,
            hint: None,
            request: None,
        }
    }

    /// Adds the request that failed.
    pub(crate) fn request(mut self, request: Option<String>) -> Self {
        self.request = request;
        self
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
    let advice = advise(error.as_ref());
    if let Some(hint) = advice.hint {
        note!("  {hint}");
    }
    if debug {
        let request = error
            .downcast_ref()
            .and_then(|e: &Failure| e.request.as_ref());
        if let Some(request) = request {
            note!("request {request}, as the log of the service names it");
        }
        note!("{error:?}");
    }
    ExitCode::from(advice.exit.unwrap_or(Exit::Failure) as u8)
}

/// What an error means to whoever ran the command.
#[derive(Debug, Default, PartialEq, Eq)]
struct Advice {
    /// `None` where the error says nothing of its kind: then a cause below it may.
    exit: Option<Exit>,
    hint: Option<String>,
}

fn exit(exit: Exit) -> Advice {
    let (exit, hint) = (Some(exit), None);
    Advice { exit, hint }
}

impl Advice {
    fn hint(self, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into());
        Self { hint, ..self }
    }
}

/// The first exit code and the first hint of an error and its causes.
fn advise(error: &(dyn Error + 'static)) -> Advice {
    let mut advice = Advice::default();
    for cause in causes(error) {
        let Advice { exit, hint } = advice_of(cause);
        advice.exit = advice.exit.or(exit);
        advice.hint = advice.hint.or(hint);
    }
    advice
}

/// An error and what lies below it. What a transparent wrapper holds is no source of it, because the wrapper
/// stands in its place; it comes next, too.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&cause| {
        wrapped(cause).or_else(|| cause.source())
    })
}

/// What a transparent wrapper holds; and the cause of a [`SeamError`], whose source is the `Arc` around it.
fn wrapped<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(SeamError { cause, .. }) = error.downcast_ref() {
        let cause = cause.as_ref()?;
        return Some(&**cause);
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            PlaceError::Files(error) => Some(error),
            PlaceError::Index(error) => Some(error),
            PlaceError::Remote(error) => Some(error),
            PlaceError::Seam(error) => Some(error),
            PlaceError::IndexInUse { .. } | PlaceError::Init { .. } | PlaceError::Open { .. } => {
                None
            }
        };
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            ComposeError::Seam(error) => Some(error),
            ComposeError::Read(error) => Some(error),
            ComposeError::Plan(error) => Some(error),
            ComposeError::Compose(error) => Some(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            PushError::Source(error) => Some(error),
            PushError::Sink(error) => Some(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            OverlayError::Files(error) => Some(error),
            OverlayError::Lock(error) => Some(error),
            OverlayError::Format(error) => Some(error),
            OverlayError::OtherPlan { .. } | OverlayError::Exists => None,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            CacheError::Lock(error) => Some(error),
            CacheError::Files(error) => Some(error),
            CacheError::TooSmall(_) => None,
        };
    }
    match error.downcast_ref()? {
        LockError::File(error) => Some(error),
        LockError::Held { .. } => None,
    }
}

/// What one error says by itself.
fn advice_of(error: &(dyn Error + 'static)) -> Advice {
    if let Some(Failure { exit, hint, .. }) = error.downcast_ref() {
        let (exit, hint) = (Some(*exit), hint.clone());
        return Advice { exit, hint };
    }
    None.or_else(|| error.downcast_ref().map(of_seam))
        .or_else(|| error.downcast_ref().map(of_host))
        .or_else(|| error.downcast_ref().map(of_read))
        .or_else(|| error.downcast_ref().map(of_format))
        .or_else(|| error.downcast_ref().map(of_repository))
        .or_else(|| error.downcast_ref().map(of_init))
        .or_else(|| error.downcast_ref().map(of_index))
        .or_else(|| error.downcast_ref().map(of_overlay))
        .or_else(|| error.downcast_ref().map(of_listen))
        .or_else(|| error.downcast_ref().map(of_mount))
        .or_else(|| error.downcast_ref().map(of_push))
        .or_else(|| error.downcast_ref().map(of_source))
        .or_else(|| error.downcast_ref().map(of_file))
        .unwrap_or_else(|| of_others(error))
}

/// Small enums of which one case matters.
fn of_others(error: &(dyn Error + 'static)) -> Advice {
    if let Some(LockError::Held { .. }) = error.downcast_ref() {
        return exit(Exit::Conflict)
            .hint("end the process that uses it, or wait until it has ended");
    }
    match error.downcast_ref() {
        // No push makes such a layer: the lowest goes onto nothing, and links lead into their own.
        Some(FoldError::NotDirectory { layer: 0, .. } | FoldError::LinkTarget { .. }) => {
            return exit(Exit::Integrity).hint(DAMAGED);
        }
        Some(FoldError::NotDirectory { .. }) => {
            return exit(Exit::Conflict)
                .hint("push the layer again with the base that it goes onto");
        }
        Some(FoldError::TooManyLayers(_) | FoldError::TooManyEntries) | None => {}
    }
    if let Some(CacheError::TooSmall(_)) = error.downcast_ref() {
        return exit(Exit::Usage).hint("give it more with --cache-size");
    }
    if let Some(PlaceError::IndexInUse { .. }) = error.downcast_ref() {
        return exit(Exit::Conflict).hint(TURNS);
    }
    if let Some(PlanFileError::Damaged { .. }) = error.downcast_ref() {
        return exit(Exit::Integrity);
    }
    if let Some(SetupError::Token) = error.downcast_ref() {
        return exit(Exit::Usage)
            .hint("--token-file names a file that holds the token and nothing else");
    }
    if error.is::<shale_model::ReferenceError>() || error.is::<shale_client::AddressError>() {
        return exit(Exit::Usage);
    }
    Advice::default()
}

const NEWER: &str = "a newer version of shale made it: use that one";

fn of_seam(error: &SeamError) -> Advice {
    match error.trouble {
        Trouble::NotFound => {
            exit(Exit::NotFound).hint("`shale template ls` lists what there is")
        }
        Trouble::Denied => exit(Exit::Denied).hint(
            "--token-file names the file of a token that may do this, --fingerprint the certificate to believe",
        ),
        Trouble::Conflict => exit(Exit::Conflict).hint("look at what is there now, and try again"),
        Trouble::Unavailable => {
            let seconds = Deadlines::default().give_up.as_secs();
            exit(Exit::Unavailable)
                .hint(format!("is the registry up? It was tried for {seconds} s"))
        }
        Trouble::Integrity if causes(error).any(|cause| cause.is::<WrongAnswer>()) => {
            exit(Exit::Integrity).hint(WRONG)
        }
        Trouble::Integrity => exit(Exit::Integrity).hint(DAMAGED),
        Trouble::Invalid => exit(Exit::Usage),
        // A cause that knows where says it.
        Trouble::NoSpace if causes(error).any(|cause| cause.is::<FileError>()) => {
            exit(Exit::Failure)
        }
        Trouble::NoSpace => exit(Exit::Failure).hint("make room where the repository is"),
        Trouble::Failed => Advice::default(),
    }
}

const DAMAGED: &str =
    "the repository is damaged: restore it from a copy, or push its trees into a new one";

const WRONG: &str = "is that the address of a registry of shale? If it is, a proxy before it, or another version of it, \
                     answers so: whoever runs it can compare with its log";

/// Of what a chunk is read from, nobody knows here whether it is a directory or a registry.
const DAMAGED_ON_THE_WAY: &str = "it is damaged where it is kept, or by a proxy on the way: restore the repository from a copy, or \
                                  ask whoever runs the registry";

fn of_host(error: &HostError) -> Advice {
    let trouble = error.trouble();
    let advice = of_seam(&SeamError::new(trouble, ""));
    Advice {
        exit: advice.exit,
        hint: error.hint(),
    }
}

/// A source that finds a question impossible has other bytes than its own index says.
fn of_read(error: &ReadError) -> Advice {
    match error {
        ReadError::Refused { source, .. } if source.trouble != Trouble::Invalid => {
            Advice::default()
        }
        ReadError::Refused { .. } | ReadError::Corrupt { .. } | ReadError::Missing(_) => {
            exit(Exit::Integrity).hint(DAMAGED_ON_THE_WAY)
        }
    }
}

fn of_format(error: &FormatError) -> Advice {
    match error.problem {
        Problem::Newer { .. } | Problem::Features(_) => exit(Exit::Failure).hint(NEWER),
        _ => exit(Exit::Integrity),
    }
}

fn of_repository(error: &shale_repo::OpenError) -> Advice {
    use shale_repo::OpenError;
    match error {
        OpenError::Missing => exit(Exit::NotFound),
        OpenError::NotARepository => {
            exit(Exit::Usage).hint("--repository names a repository, or an empty directory for one")
        }
        OpenError::Newer { .. } | OpenError::Features(_) => exit(Exit::Failure).hint(NEWER),
        OpenError::Damaged(_) => exit(Exit::Integrity).hint(
            "if its other files are whole, the same file of another repository of this version mends it",
        ),
        OpenError::InUse(_) => exit(Exit::Conflict).hint(TURNS),
        OpenError::Files(_) | OpenError::Index(_) => Advice::default(),
    }
}

const TURNS: &str =
    "commands on a directory take turns: wait for the other, or have `shale server run` serve both";

fn of_init(error: &InitError) -> Advice {
    match error {
        InitError::Exists | InitError::NotEmpty(_) => {
            exit(Exit::Usage).hint("--repository names a repository, or an empty directory for one")
        }
        InitError::Files(_) | InitError::Lock(_) => Advice::default(),
    }
}

fn of_index(error: &shale_index::OpenError) -> Advice {
    use shale_index::OpenError;
    match error {
        OpenError::InUse { .. } => exit(Exit::Conflict).hint(TURNS),
        OpenError::Newer { .. } => exit(Exit::Failure).hint(NEWER),
        OpenError::Damaged { .. } => exit(Exit::Integrity),
        OpenError::Io { .. } => Advice::default(),
    }
}

fn of_overlay(error: &OverlayError) -> Advice {
    match error {
        OverlayError::OtherPlan { .. } => exit(Exit::Conflict).hint(
            "name the template that it was made with, by its id if the name has moved on, or another --overlay",
        ),
        OverlayError::Exists => exit(Exit::Conflict).hint("name another directory"),
        OverlayError::Files(_) | OverlayError::Lock(_) | OverlayError::Format(_) => {
            Advice::default()
        }
    }
}

fn of_listen(error: &ListenError) -> Advice {
    match error {
        ListenError::Busy(_) => {
            exit(Exit::Conflict).hint("end that server, or name another --socket")
        }
        ListenError::NotASocket(_) => exit(Exit::Usage).hint("name another --socket"),
        ListenError::LongPath(_) => exit(Exit::Usage).hint("name a shorter --socket"),
        ListenError::System { .. } => Advice::default(),
    }
}

fn of_mount(error: &MountError) -> Advice {
    match error {
        MountError::Device(_) => {
            exit(Exit::Failure).hint("`shale doctor` says what /dev/fuse needs")
        }
        MountError::NotADirectory(_) => exit(Exit::Usage).hint("name a directory"),
        MountError::Dead(path) => {
            exit(Exit::Conflict).hint(format!("`shale umount {}` takes it away", path.display()))
        }
        MountError::NotMounted(_) => exit(Exit::NotFound),
        MountError::Busy(_) => {
            exit(Exit::Conflict).hint("end the programs that use it, or unmount it with --lazy")
        }
        MountError::NoHelper(_) => exit(Exit::Failure)
            .hint("who is not root needs fusermount3: install Debian's package fuse3"),
        MountError::Look { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            exit(Exit::NotFound).hint("make the directory first")
        }
        MountError::Look { .. }
        | MountError::System { .. }
        | MountError::Detached(_)
        | MountError::Helper(_)
        | MountError::Slots(_) => Advice::default(),
    }
}

fn of_push(error: &PushError) -> Advice {
    match error {
        PushError::NotComplete { .. } => {
            exit(Exit::Usage).hint("--difference pushes an archive that is the difference already")
        }
        _ => Advice::default(),
    }
}

fn of_source(error: &SourceError) -> Advice {
    match error {
        SourceError::Changed { .. } | SourceError::Vanished { .. } => exit(Exit::Failure)
            .hint("end what writes to the tree, or push a snapshot of it, and push again"),
        _ => Advice::default(),
    }
}

fn of_file(error: &FileError) -> Advice {
    match error.is_full() {
        true => exit(Exit::Failure).hint(format!(
            "make room on the file system of `{}`",
            error.path.display()
        )),
        false => Advice::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use shale_model::{ChunkId, DeviceError, PlanId, TreePath};

    use super::*;

    fn seam(trouble: Trouble) -> SeamError {
        SeamError::new(trouble, "do it")
    }

    fn path() -> PathBuf {
        "/somewhere".into()
    }

    fn full() -> FileError {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        FileError::new(shale_files::Operation::Write, "/full/pack", source)
    }

    fn held() -> LockError {
        LockError::Held {
            path: path(),
            by: "process 7 (shale)".into(),
        }
    }

    fn format(problem: Problem) -> FormatError {
        FormatError {
            what: "layer root",
            at: 0,
            problem,
        }
    }

    fn open(source: shale_repo::OpenError) -> PlaceError {
        PlaceError::Open {
            path: path(),
            source,
        }
    }

    fn index_of(dir: &str) -> PathBuf {
        [dir, "index"].iter().collect()
    }

    /// An error, its exit code, and a part of its hint; empty for none.
    type Case = (anyhow::Error, Exit, &'static str);

    fn cases() -> Vec<Case> {
        let chunk = ChunkId::of(b"chunk");
        let refused = |trouble| ReadError::Refused {
            chunk,
            source: seam(trouble),
        };
        let push = |trouble| PushError::Sink(seam(trouble));
        let other_plan = OverlayError::OtherPlan {
            expected: PlanId::of(b"one"),
            found: PlanId::of(b"two"),
        };
        let newer = Problem::Newer { found: 2, known: 1 };
        let cause = SeamError::caused(Trouble::NoSpace, "write a pack", full());
        vec![
            // What is behind a seam, bare and in the wrappers of pushing and reading.
            (
                seam(Trouble::NotFound).into(),
                Exit::NotFound,
                "template ls",
            ),
            (seam(Trouble::Denied).into(), Exit::Denied, "--token-file"),
            (seam(Trouble::Conflict).into(), Exit::Conflict, "try again"),
            (
                seam(Trouble::Unavailable).into(),
                Exit::Unavailable,
                "is the registry up? It was tried for 30 s",
            ),
            (seam(Trouble::Integrity).into(), Exit::Integrity, "damaged"),
            (
                SeamError::caused(Trouble::Integrity, "ask", WrongAnswer::saying("no")).into(),
                Exit::Integrity,
                "the address of a registry",
            ),
            (
                PlaceError::IndexInUse {
                    path: index_of("/r"),
                    by: "process 7 (shale)".into(),
                }
                .into(),
                Exit::Conflict,
                "take turns",
            ),
            (seam(Trouble::Invalid).into(), Exit::Usage, ""),
            (seam(Trouble::NoSpace).into(), Exit::Failure, "make room"),
            (seam(Trouble::Failed).into(), Exit::Failure, ""),
            (
                push(Trouble::Unavailable).into(),
                Exit::Unavailable,
                "registry up",
            ),
            (push(Trouble::Denied).into(), Exit::Denied, "--token-file"),
            (push(Trouble::Conflict).into(), Exit::Conflict, "try again"),
            (PushError::Sink(cause).into(), Exit::Failure, "`/full/pack`"),
            (
                ComposeError::Seam(seam(Trouble::NotFound)).into(),
                Exit::NotFound,
                "",
            ),
            (
                ComposeError::Read(ReadError::Missing(chunk)).into(),
                Exit::Integrity,
                "damaged",
            ),
            (refused(Trouble::Invalid).into(), Exit::Integrity, "damaged"),
            // Layers that do not fold, bare and where they are composed.
            (
                FoldError::NotDirectory {
                    layer: 1,
                    path: TreePath::root(),
                }
                .into(),
                Exit::Conflict,
                "with the base",
            ),
            (
                ComposeError::Compose(FoldError::LinkTarget {
                    layer: 1,
                    path: TreePath::root(),
                })
                .into(),
                Exit::Integrity,
                "damaged",
            ),
            (
                FoldError::NotDirectory {
                    layer: 0,
                    path: TreePath::root(),
                }
                .into(),
                Exit::Integrity,
                "damaged",
            ),
            (FoldError::TooManyLayers(9999).into(), Exit::Failure, ""),
            // A disk that cannot be read, and one that is full.
            (
                DeviceError::below(refused(Trouble::Denied)).into(),
                Exit::Denied,
                "--token-file",
            ),
            (
                DeviceError::below(ReadError::Missing(chunk)).into(),
                Exit::Integrity,
                "damaged",
            ),
            (
                DeviceError::NoSpace("no room".into()).into(),
                Exit::Failure,
                "",
            ),
            (
                refused(Trouble::Denied).into(),
                Exit::Denied,
                "--token-file",
            ),
            // Sources.
            (
                PushError::Source(SourceError::Changed { path: path() }).into(),
                Exit::Failure,
                "snapshot",
            ),
            (
                PushError::NotComplete {
                    path: TreePath::root(),
                }
                .into(),
                Exit::Usage,
                "--difference",
            ),
            // A repository in a directory.
            (
                open(shale_repo::OpenError::Damaged("no JSON".into())).into(),
                Exit::Integrity,
                "mends",
            ),
            (
                open(shale_repo::OpenError::Newer { found: 9 }).into(),
                Exit::Failure,
                "newer version of shale",
            ),
            (
                open(shale_repo::OpenError::Features(vec!["x".into()])).into(),
                Exit::Failure,
                "newer version of shale",
            ),
            (
                open(shale_repo::OpenError::InUse(held())).into(),
                Exit::Conflict,
                "take turns",
            ),
            (
                open(shale_repo::OpenError::NotARepository).into(),
                Exit::Usage,
                "--repository",
            ),
            (
                PlaceError::Index(shale_index::OpenError::Newer {
                    path: index_of("/r"),
                })
                .into(),
                Exit::Failure,
                "newer",
            ),
            (
                PlaceError::Files(full()).into(),
                Exit::Failure,
                "`/full/pack`",
            ),
            (
                PlaceError::Remote(SetupError::Token).into(),
                Exit::Usage,
                "--token-file",
            ),
            // A host's parts.
            (CacheError::TooSmall(1).into(), Exit::Usage, "--cache-size"),
            (
                CacheError::Lock(held()).into(),
                Exit::Conflict,
                "end the process",
            ),
            (
                OverlayError::Lock(held()).into(),
                Exit::Conflict,
                "end the process",
            ),
            (other_plan.into(), Exit::Conflict, "--overlay"),
            (
                OverlayError::Format(format(Problem::Checksum)).into(),
                Exit::Integrity,
                "",
            ),
            (ListenError::Busy(path()).into(), Exit::Conflict, "--socket"),
            (ListenError::LongPath(path()).into(), Exit::Usage, "shorter"),
            (
                HostError::Lock(held()).into(),
                Exit::Conflict,
                "state directory",
            ),
            (
                HostError::NoInstance("x".into()).into(),
                Exit::NotFound,
                "vm ls",
            ),
            // Formats and words.
            (
                format(newer).into(),
                Exit::Failure,
                "newer version of shale",
            ),
            (format(Problem::Truncated).into(), Exit::Integrity, ""),
            (
                "a//b".parse::<shale_model::Reference>().unwrap_err().into(),
                Exit::Usage,
                "",
            ),
            (
                Failure::new(Exit::Denied, "no").hint("ask").into(),
                Exit::Denied,
                "ask",
            ),
            (anyhow::anyhow!("something"), Exit::Failure, ""),
        ]
    }

    #[test]
    fn each_error_has_its_exit_code_and_says_what_to_do() {
        for (error, exit, hint) in cases() {
            // What commands say they were doing hides nothing.
            let error = error.context("do something");
            let advice = advise(error.as_ref());
            assert_eq!(advice.exit.unwrap_or(Exit::Failure), exit, "{error:?}");
            match advice.hint {
                Some(found) => assert!(found.contains(hint), "{error:?}: {found}"),
                None => assert_eq!(hint, "", "{error:?}"),
            }
        }
    }
}
