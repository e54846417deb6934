//! Tokens: opaque random texts, of which only the hash is kept.
//!
//! They live in `tokens.json` of the registry's state directory, written by `shale token` and read by a
//! running registry, each in its own process; `tokens.lock` keeps writers apart.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shale_files::{
    FileError, FilePath, IfHeld, LockError, LockFiles, LockKind, put_durably, read_file,
    remove_durably,
};

use crate::random::{NoRandomness, random};
use crate::settings::Clock;

const FORMAT: &str = "shale.tokens.v1";
const PREFIX: &str = "shale_";
const SECRET_BYTES: usize = 32;
const ID_BYTES: usize = 4;

/// Most tokens of one registry: a request's token is looked up in memory.
pub const MAX_TOKENS: usize = 10_000;

/// Longest name of a token, in bytes.
pub const MAX_TOKEN_NAME_BYTES: usize = 64;

/// Largest file of tokens, in bytes.
const MAX_FILE_BYTES: usize = 4 << 20;

/// A removed token is refused at the latest after this time.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// A new token is known at the latest after this time; who guesses tokens causes no more reading.
const UNKNOWN_FOR: Duration = Duration::from_millis(50);

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Reading.
    Read,
    /// Reading and pushing.
    Write,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Read => "read",
            Scope::Write => "write",
        })
    }
}

impl FromStr for Scope {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        match text {
            "read" => Ok(Scope::Read),
            "write" => Ok(Scope::Write),
            _ => Err(TokenError::Scope(text.chars().take(32).collect())),
        }
    }
}

/// A token's text. Shown once, when it is made; never in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The text that a client sends.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenInfo {
    /// Eight hex digits that name it.
    pub id: String,
    /// What its maker called it.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// BLAKE3-256 of its text, in hex. Its text is random, so that no slow hash is needed.
    hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    format: String,
    tokens: Vec<TokenInfo>,
}

/// What goes wrong with tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A name of a token has 1 to 64 printable characters.
    #[error("a token's name has 1 to {MAX_TOKEN_NAME_BYTES} bytes of printable text")]
    Name,
    /// Another token has that name.
    #[error("there is a token `{0}` already")]
    Exists(String),
    /// No token has that id or name.
    #[error("there is no token `{0}`")]
    NotFound(String),
    /// No such scope.
    #[error("`{0}` is no scope: read, write")]
    Scope(String),
    /// As many as there may be.
    #[error("there are {MAX_TOKENS} tokens already")]
    Full,
    /// The file is not one of ours.
    #[error("tokens.json is damaged or of another version")]
    Format(#[source] Option<serde_json::Error>),
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// The tokens of one state directory.
pub struct TokenStore {
    files: Arc<dyn LockFiles>,
    clock: Clock,
    cache: RwLock<Cache>,
}

#[derive(Default)]
struct Cache {
    tokens: Vec<TokenInfo>,
    read: Option<Instant>,
    /// Whether there was a token at any reading.
    any_yet: bool,
}

impl TokenStore {
    /// The tokens in `files`; none if there is no file yet.
    pub fn new(files: Arc<dyn LockFiles>, clock: Clock) -> Self {
        Self {
            files,
            clock,
            cache: RwLock::default(),
        }
    }

    /// Makes a token at `now`, in seconds since 1970.
    pub fn create(
        &self,
        name: &str,
        scope: Scope,
        now: u64,
    ) -> Result<(Token, TokenInfo), TokenError> {
        let printable = name.chars().all(|c| !c.is_control());
        if name.is_empty() || name.len() > MAX_TOKEN_NAME_BYTES || !printable {
            return Err(TokenError::Name);
        }
        let token = Token(format!("{PREFIX}{}", hex(&random::<SECRET_BYTES>()?)));
        self.change(|tokens| {
            if tokens.len() >= MAX_TOKENS {
                return Err(TokenError::Full);
            }
            if tokens.iter().any(|t| t.name == name || t.id == name) {
                return Err(TokenError::Exists(name.to_owned()));
            }
            let mut id = hex(&random::<ID_BYTES>()?);
            while tokens.iter().any(|t| t.id == id || t.name == id) {
                id = hex(&random::<ID_BYTES>()?);
            }
            let info = TokenInfo {
                id,
                name: name.to_owned(),
                scope,
                created: now,
                hash: hash(&token.0),
            };
            tokens.push(info.clone());
            Ok((token, info))
        })
    }

    /// All tokens, in order of making.
    pub fn list(&self) -> Result<Vec<TokenInfo>, TokenError> {
        let json = match read_file(&*self.files, &path("tokens.json"), MAX_FILE_BYTES) {
            Err(error) if error.is_missing() => return Ok(Vec::new()),
            json => json?,
        };
        let file: TokenFile =
            serde_json::from_slice(&json).map_err(|error| TokenError::Format(Some(error)))?;
        if file.format == FORMAT {
            Ok(file.tokens)
        } else {
            Err(TokenError::Format(None))
        }
    }

    /// Removes the token of this id or name. A running registry refuses it within a second.
    pub fn remove(&self, id_or_name: &str) -> Result<TokenInfo, TokenError> {
        self.change(|tokens| {
            let found = |t: &TokenInfo| t.id == id_or_name || t.name == id_or_name;
            let at = tokens.iter().position(found);
            let at =
                at.ok_or_else(|| TokenError::NotFound(id_or_name.chars().take(80).collect()))?;
            Ok(tokens.remove(at))
        })
    }

    /// What is known of a token from memory; [`None`] if the file must be read first.
    pub(crate) fn recall(&self, token: &str) -> Option<Option<TokenInfo>> {
        let hash = hash(token);
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        let age = (self.clock)().saturating_duration_since(cache.read?);
        let found = cache.tokens.iter().find(|info| info.hash == hash);
        let fresh = if found.is_some() {
            KNOWN_FOR
        } else {
            UNKNOWN_FOR
        };
        (age < fresh).then(|| found.cloned())
    }

    /// Reads the file, and says what it knows of a token. Blocks.
    pub(crate) fn look_up(&self, token: &str) -> Result<Option<TokenInfo>, TokenError> {
        let hash = hash(token);
        let cache = self.read()?;
        Ok(cache.tokens.iter().find(|info| info.hash == hash).cloned())
    }

    /// Whether there is or was a token, from memory; [`None`] if the file must be read first.
    pub(crate) fn recall_any(&self) -> Option<bool> {
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        if cache.any_yet {
            return Some(true);
        }
        let age = (self.clock)().saturating_duration_since(cache.read?);
        (age < UNKNOWN_FOR).then_some(false)
    }

    /// Reads the file, and says whether there is or was a token. Blocks.
    pub(crate) fn look_for_any(&self) -> Result<bool, TokenError> {
        Ok(self.read()?.any_yet)
    }

    /// Reads the file into memory.
    fn read(&self) -> Result<RwLockWriteGuard<'_, Cache>, TokenError> {
        let read = (self.clock)();
        let tokens = self.list()?;
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        cache.any_yet |= !tokens.is_empty();
        cache.tokens = tokens;
        cache.read = Some(read);
        Ok(cache)
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<TokenInfo>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let lock = path("tokens.lock");
        let _lock = self.files.lock(&lock, LockKind::Exclusive, IfHeld::Wait)?;
        let mut tokens = self.list()?;
        let done = change(&mut tokens)?;
        let file = TokenFile {
            format: FORMAT.into(),
            tokens,
        };
        let json = serde_json::to_vec_pretty(&file).map_err(|e| TokenError::Format(Some(e)))?;
        // What a writer left that died; nobody else is here while the lock is held.
        let temp = path("tokens.tmp");
        remove_durably(&*self.files, &temp)?;
        put_durably(&*self.files, &temp, &path("tokens.json"), |file| {
            file.write_at(0, &json)
        })?;
        Ok(done)
    }
}

/// A path of one component that is known to be valid.
fn path(name: &str) -> FilePath {
    FilePath::new(name).unwrap_or_default()
}

fn hash(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use shale_files::{Files, MemoryFiles, OpenMode};

    use super::*;

    fn store(files: &MemoryFiles) -> TokenStore {
        TokenStore::new(Arc::new(files.clone()), Arc::new(Instant::now))
    }

    #[test]
    fn a_token_is_known_by_its_text_and_only_its_hash_is_kept() {
        let files = MemoryFiles::new();
        let tokens = store(&files);
        let (token, info) = tokens.create("ci", Scope::Write, 7).unwrap();
        assert_eq!(tokens.list().unwrap(), std::slice::from_ref(&info));
        assert_eq!(tokens.look_up(token.reveal()).unwrap(), Some(info.clone()));
        assert_eq!(tokens.recall(token.reveal()), Some(Some(info)));
        assert_eq!(tokens.look_up("shale_other").unwrap(), None);
        let kept = read_file(&files, &path("tokens.json"), MAX_FILE_BYTES).unwrap();
        let secret = &token.reveal()[PREFIX.len()..];
        assert!(!String::from_utf8(kept).unwrap().contains(secret));
        assert!(!format!("{token:?}").contains(secret));
    }

    #[test]
    fn another_process_sees_what_was_made_and_removed() {
        let files = MemoryFiles::new();
        let (one, two) = (store(&files), store(&files));
        let (token, info) = one.create("laptop", Scope::Read, 7).unwrap();
        assert!(two.look_up(token.reveal()).unwrap().is_some());
        assert!(matches!(
            one.create("laptop", Scope::Read, 8),
            Err(TokenError::Exists(_))
        ));
        one.remove(&info.id).unwrap();
        assert!(two.look_up(token.reveal()).unwrap().is_none());
        assert!(matches!(one.remove("laptop"), Err(TokenError::NotFound(_))));
    }

    #[test]
    fn a_writer_that_died_and_a_damaged_file_are_told_apart() {
        let files = MemoryFiles::new();
        let tokens = store(&files);
        files
            .open(&path("tokens.tmp"), OpenMode::CreateNew)
            .unwrap();
        tokens.create("one", Scope::Read, 7).unwrap();
        let file = files.open(&path("tokens.json"), OpenMode::Write).unwrap();
        file.set_size(10).unwrap();
        assert!(matches!(tokens.list(), Err(TokenError::Format(Some(_)))));
        assert!(matches!(tokens.look_up("x"), Err(TokenError::Format(_))));
    }

    #[test]
    fn that_there_was_a_token_is_not_forgotten() {
        let files = MemoryFiles::new();
        let (one, two) = (store(&files), store(&files));
        assert_eq!(two.recall_any(), None);
        assert!(!two.look_for_any().unwrap());
        assert_eq!(two.recall_any(), Some(false));
        let (_, info) = one.create("laptop", Scope::Read, 7).unwrap();
        assert!(two.look_for_any().unwrap());
        one.remove(&info.id).unwrap();
        assert!(two.look_for_any().unwrap());
        assert_eq!(two.recall_any(), Some(true));
        assert!(!store(&files).look_for_any().unwrap());
    }

    #[test]
    fn as_many_tokens_as_there_may_be_fit_into_the_file() {
        let files = MemoryFiles::new();
        let tokens = store(&files);
        // Quotes take two bytes each in JSON: no name makes a longer file.
        let longest = |n: usize| format!("{n:05}{}", "\"".repeat(MAX_TOKEN_NAME_BYTES - 5));
        let info = |n: usize| TokenInfo {
            id: format!("{n:08x}"),
            name: longest(n),
            scope: Scope::Write,
            created: u64::MAX,
            hash: hash(&longest(n)),
        };
        tokens
            .change(|kept| {
                kept.extend((1..MAX_TOKENS).map(info));
                Ok(())
            })
            .unwrap();
        let (token, _) = tokens.create(&longest(0), Scope::Write, u64::MAX).unwrap();
        assert!(tokens.look_up(token.reveal()).unwrap().is_some());
        assert!(matches!(
            tokens.create("more", Scope::Read, 7),
            Err(TokenError::Full)
        ));
    }

    #[test]
    fn names_are_bounded() {
        let tokens = store(&MemoryFiles::new());
        for name in ["", "a\nb", &"x".repeat(65)] {
            assert!(matches!(
                tokens.create(name, Scope::Read, 7),
                Err(TokenError::Name)
            ));
        }
    }
}
