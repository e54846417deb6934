//! What is asked of a registry, and what it answers.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use shale_model::with_causes;
use shale_wire::Problem;

/// Bytes of a file read and sent at once.
const PIECE_BYTES: u64 = 256 * 1024;

/// One question, which may be asked several times.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: CallBody,
    /// Most bytes of a good answer.
    pub(crate) max_answer: u64,
    /// Whether the registry works long before it answers.
    pub(crate) pace: Pace,
    /// What is done to what, for errors.
    pub(crate) action: String,
}

/// How long the head of the answer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As in [`crate::Deadlines::first_byte`].
    Prompt,
    /// The registry receives and checks much.
    Large,
}

/// The body of a question.
#[derive(Clone)]
pub(crate) enum CallBody {
    Empty,
    Bytes(Bytes),
    /// The first `len` bytes of a file.
    File {
        file: Arc<File>,
        len: u64,
    },
}

impl Call {
    pub(crate) fn new(method: Method, path: String, action: impl Into<String>) -> Self {
        Self {
            method,
            path,
            headers: HeaderMap::new(),
            body: CallBody::Empty,
            max_answer: 0,
            pace: Pace::Prompt,
            action: action.into(),
        }
    }

    pub(crate) fn get(path: String, action: impl Into<String>) -> Self {
        Self::new(Method::GET, path, action)
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn body(mut self, body: CallBody) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn max_answer(mut self, bytes: u64) -> Self {
        self.max_answer = bytes;
        self
    }

    pub(crate) fn large(mut self) -> Self {
        self.pace = Pace::Large;
        self
    }
}

impl CallBody {
    pub(crate) fn len(&self) -> u64 {
        match self {
            CallBody::Empty => 0,
            CallBody::Bytes(bytes) => bytes.len() as u64,
            CallBody::File { len, .. } => *len,
        }
    }

    pub(crate) fn to_reqwest(&self) -> reqwest::Body {
        match self {
            CallBody::Empty => reqwest::Body::default(),
            CallBody::Bytes(bytes) => bytes.clone().into(),
            CallBody::File { file, len } => file_body(Arc::clone(file), *len),
        }
    }
}

/// Reads with offsets, so that an attempt does not depend on where the one before it stopped.
fn file_body(file: Arc<File>, len: u64) -> reqwest::Body {
    reqwest::Body::wrap_stream(stream::try_unfold(0, move |at| {
        let file = Arc::clone(&file);
        async move {
            if at == len {
                return Ok(None);
            }
            let read = move || {
                let mut piece = vec![0; (len - at).min(PIECE_BYTES) as usize];
                file.read_exact_at(&mut piece, at).map(|()| piece)
            };
            let piece = tokio::task::spawn_blocking(read).await;
            let piece = piece.map_err(std::io::Error::other)??;
            let next = at + piece.len() as u64;
            Ok::<_, std::io::Error>(Some((piece, next)))
        }
    }))
}

/// A good answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// What a registry answered is no answer to what it was asked, whatever the reason: it is the cause of each
/// [`shale_model::Trouble::Integrity`] that a client finds by itself.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct WrongAnswer {
    text: String,
    #[source]
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl WrongAnswer {
    /// One that is wrong as this text says.
    pub fn saying(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            cause: None,
        }
    }

    /// One that cannot be read.
    pub(crate) fn unreadable(cause: impl Error + Send + Sync + 'static) -> Self {
        Self {
            text: "the answer is wrong".into(),
            cause: Some(Arc::new(cause)),
        }
    }
}

/// Why there is no good answer.
pub(crate) struct NoAnswer {
    pub(crate) why: Why,
    /// How often it was asked.
    pub(crate) attempts: u32,
}

/// For people, without what was asked.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Problem(problem) | Why::Foreign(problem) => {
                write!(f, "it answers {}: {}", problem.status, problem.title)
            }
            Why::Wrong(error) | Why::Silence(error) => f.write_str(&with_causes(error)),
        }
    }
}

/// Kinds of no answer.
pub(crate) enum Why {
    /// The registry said no.
    Problem(Problem),
    /// Something else than a Shale registry said no.
    Foreign(Problem),
    /// The answer is not one to this question, or the other side is not believed.
    Wrong(shale_model::SeamError),
    /// Nothing was heard, or not all.
    Silence(shale_model::SeamError),
}

/// Time for a whole body of `bytes` at the slowest pace that is waited for.
pub(crate) fn time_for(bytes: u64) -> Duration {
    const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;
    Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}
