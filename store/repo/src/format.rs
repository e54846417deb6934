//! The file that says what a directory is, and why a directory cannot be opened.

use serde::{Deserialize, Serialize};
use shale_files::{
    FileError, FilePath, Files, IfHeld, LockError, LockFiles, LockKind, create_dirs, put_durably,
    read_file,
};
use shale_model::SeamError;

use crate::paths;

/// What the format file says in `format`.
const FORMAT: &str = "shale.repository";
/// The newest version that this build reads, and the one that it makes.
const VERSION: u32 = 1;
/// Longest format file, in bytes: it is below 100 today.
const MAX_FORMAT_BYTES: usize = 64 * 1024;

/// The format file: one JSON object. Fields that a reader does not know it ignores; what it must not
/// ignore is a new version or a feature.
#[derive(Debug, Serialize, Deserialize)]
struct Format {
    format: String,
    version: u32,
    /// Things that a reader must know about to read or write this repository; none so far.
    features: Vec<String>,
}

/// Why a directory cannot be opened as a repository.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing.
    #[error("there is no repository yet")]
    Missing,
    /// The directory holds something, but is no repository.
    #[error(
        "this directory is not a repository: it has other files, and no `{}`",
        paths::FORMAT_FILE
    )]
    NotARepository,
    /// Made by a later version of Shale.
    #[error("the repository has format version {found}; this build reads up to version {VERSION}")]
    Newer {
        /// The version in the format file.
        found: u32,
    },
    /// It uses what this build does not know.
    #[error("the repository uses features that this build does not know: {}", .0.join(", "))]
    Features(Vec<String>),
    /// The format file is there but makes no sense.
    #[error("the repository's file `{file}` is damaged: {0}", file = paths::FORMAT_FILE)]
    Damaged(String),
    /// Somebody else has it open in a way that excludes this one.
    #[error("the repository is in use")]
    InUse(#[source] LockError),
    /// The storage below fails.
    #[error("the repository cannot be read")]
    Files(#[from] FileError),
    /// The chunk index fails.
    #[error("the repository's chunk index fails")]
    Index(#[source] SeamError),
}

impl From<LockError> for OpenError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::File(error) => OpenError::Files(error),
            held @ LockError::Held { .. } => OpenError::InUse(held),
        }
    }
}

/// Why a repository cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one already.
    #[error("there is a repository already")]
    Exists,
    /// The directory holds other files.
    #[error("the directory is not empty: it holds `{0}`")]
    NotEmpty(String),
    /// The storage below fails.
    #[error("the repository cannot be made")]
    Files(#[from] FileError),
    /// The lock of its directory for files on their way is not to be had.
    #[error("the repository cannot be made")]
    Lock(#[from] LockError),
}

/// Makes an empty repository; one that was begun and not finished is completed.
pub(crate) fn init(files: &dyn LockFiles) -> Result<(), InitError> {
    for entry in files.list(&FilePath::root())? {
        if entry.name == paths::FORMAT_FILE {
            return Err(InitError::Exists);
        }
        if !paths::DIRS.contains(&entry.name.as_str()) {
            return Err(InitError::NotEmpty(entry.name));
        }
    }
    for dir in paths::DIRS {
        create_dirs(files, &paths::dir(dir))?;
    }
    let _lock = files.lock(&paths::tmp_lock(), LockKind::Exclusive, IfHeld::Wait)?;
    let temp = FilePath::new("tmp/format").unwrap_or_default();
    match files.remove(&temp) {
        Err(error) if !error.is_missing() => return Err(error.into()),
        _ => {}
    }
    let format = Format {
        format: FORMAT.into(),
        version: VERSION,
        features: Vec::new(),
    };
    // Two strings and a number have no way to fail.
    let json = serde_json::to_vec(&format).unwrap_or_default();
    put_durably(files, &temp, &paths::format_file(), |file| {
        file.write_at(0, &json)
    })
    .map_err(InitError::Files)
}

/// Checks that this is a repository that this build can use.
pub(crate) fn check(files: &dyn Files) -> Result<(), OpenError> {
    let json = match read_file(files, &paths::format_file(), MAX_FORMAT_BYTES) {
        Err(error) if error.is_missing() => return Err(absent(files)),
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
            return Err(OpenError::Damaged("it is far too long".into()));
        }
        json => json?,
    };
    let format: Format =
        serde_json::from_slice(&json).map_err(|error| OpenError::Damaged(error.to_string()))?;
    if format.format != FORMAT {
        return Err(OpenError::NotARepository);
    }
    if format.version > VERSION {
        let found = format.version;
        return Err(OpenError::Newer { found });
    }
    if format.version != VERSION {
        return Err(OpenError::Damaged("it has no such version".into()));
    }
    match format.features.is_empty() {
        true => Ok(()),
        false => Err(OpenError::Features(format.features)),
    }
}

/// What is there in place of a repository. One that was begun and not finished is nothing yet.
fn absent(files: &dyn Files) -> OpenError {
    match files.list(&FilePath::root()) {
        Err(error) => error.into(),
        Ok(entries) if entries.iter().all(|e| paths::DIRS.contains(&&*e.name)) => {
            OpenError::Missing
        }
        Ok(_) => OpenError::NotARepository,
    }
}

#[cfg(test)]
mod tests {
    use shale_files::{MemoryFiles, OpenMode};

    use super::*;

    fn with_format(json: &str) -> MemoryFiles {
        let files = MemoryFiles::new();
        let file = files.open(&paths::format_file(), OpenMode::CreateNew);
        file.unwrap().write_at(0, json.as_bytes()).unwrap();
        files
    }

    #[test]
    fn each_reason_not_to_open_is_told_apart() {
        let files = MemoryFiles::new();
        assert!(matches!(check(&files), Err(OpenError::Missing)));
        init(&files).unwrap();
        check(&files).unwrap();
        assert!(matches!(init(&files), Err(InitError::Exists)));

        let json = |version, features| {
            format!(r#"{{"format":"shale.repository","version":{version},"features":{features}}}"#)
        };
        check(&with_format(&json(1, "[]"))).unwrap();
        let newer = check(&with_format(&json(2, r#"[],"more":1"#)));
        assert!(matches!(newer, Err(OpenError::Newer { found: 2 })));
        let features = check(&with_format(&json(1, r#"["domains"]"#)));
        assert!(features.unwrap_err().to_string().contains("domains"));
        let other = r#"{"format":"other","version":1,"features":[]}"#;
        assert!(matches!(
            check(&with_format(other)),
            Err(OpenError::NotARepository)
        ));
        for damaged in ["", "{", &json(0, "[]"), &" ".repeat(100_000)] {
            let found = check(&with_format(damaged));
            assert!(matches!(found, Err(OpenError::Damaged(_))), "{found:?}");
        }
    }

    #[test]
    fn a_directory_with_other_files_is_left_alone() {
        let files = MemoryFiles::new();
        let name = FilePath::new("homework").unwrap();
        files.open(&name, OpenMode::CreateNew).unwrap();
        assert!(matches!(check(&files), Err(OpenError::NotARepository)));
        assert!(matches!(init(&files), Err(InitError::NotEmpty(name)) if name == "homework"));
    }

    #[test]
    fn the_bytes_of_version_1_stay() {
        let files = MemoryFiles::new();
        init(&files).unwrap();
        let json = read_file(&files, &paths::format_file(), 1000).unwrap();
        assert_eq!(
            json,
            br#"{"format":"shale.repository","version":1,"features":[]}"#
        );
    }
}
