//! State that is kept as JSON, with a hash of what it says: a file that was cut off, or in which a bit was flipped, is an
//! error, and is never taken for another state. What names the disk of an instance decides which disks are swept.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shale_files::{DirFiles, FilePath, FileResult, put_durably, read_file};

use crate::dirs::known_path;
use crate::error::{HostError, HostResult};

/// The field that holds the BLAKE3 hash, in hex, of the others as compact JSON.
const HASH: &str = "blake3";

/// What is said of any damage: what serde says may quote a key.
const NOT_KEPT: &str = "it is not what was written to it";

/// A file of this kind.
pub(crate) struct KeptFile<'a> {
    pub(crate) files: &'a DirFiles,
    /// The directory of `files`, for errors.
    pub(crate) root: &'a Path,
    pub(crate) path: FilePath,
    /// What its field `format` says.
    pub(crate) format: &'static str,
    /// Longest that is read.
    pub(crate) max_bytes: usize,
}

/// A file that has one name in every directory that has one.
pub(crate) struct KeptIn {
    pub(crate) name: &'static str,
    /// Its name while it is written.
    pub(crate) temp: &'static str,
    pub(crate) format: &'static str,
    pub(crate) max_bytes: usize,
}

impl KeptIn {
    /// As [`KeptFile::get`], in the directory `root`.
    pub(crate) fn get<T: DeserializeOwned>(&self, root: &Path) -> HostResult<Option<T>> {
        self.file(&DirFiles::open(root)?, root).get()
    }

    /// As [`KeptFile::put`], in the directory `root`.
    pub(crate) fn put<T: Serialize>(&self, root: &Path, value: &T) -> HostResult<()> {
        let files = DirFiles::open(root)?;
        Ok(self.file(&files, root).put(&known_path(self.temp), value)?)
    }

    fn file<'a>(&self, files: &'a DirFiles, root: &'a Path) -> KeptFile<'a> {
        KeptFile {
            files,
            root,
            path: known_path(self.name),
            format: self.format,
            max_bytes: self.max_bytes,
        }
    }
}

impl KeptFile<'_> {
    /// What is kept; `None` if there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or is damaged: [`HostError::Record`].
    pub(crate) fn get<T: DeserializeOwned>(&self) -> HostResult<Option<T>> {
        let bytes = match read_file(self.files, &self.path, self.max_bytes) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        parse(&bytes, self.format).map(Some).map_err(|reason| {
            let path = self.root.join(self.path.as_str());
            HostError::Record { path, reason }
        })
    }

    /// Keeps `value` in place of what is there, durably. It is written under the name `temp` first.
    pub(crate) fn put<T: Serialize>(&self, temp: &FilePath, value: &T) -> FileResult<()> {
        let bytes = encode(value);
        // What a service was writing when it was killed.
        let _ = shale_files::Files::remove(self.files, temp);
        put_durably(self.files, temp, &self.path, |file| {
            file.write_at(0, &bytes)
        })
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Strings, numbers and lists have no way not to become JSON.
    let mut value = serde_json::to_value(value).unwrap_or_default();
    let hash = hash(&value);
    if let Some(fields) = value.as_object_mut() {
        fields.insert(HASH.into(), hash.into());
    }
    serde_json::to_vec_pretty(&value).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(bytes: &[u8], format: &str) -> Result<T, String> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|_| NOT_KEPT)?;
    let said = value.as_object_mut().and_then(|fields| fields.remove(HASH));
    // Versions before the first release wrote none; what is of another name is no field.
    if said.is_some_and(|said| said != hash(&value).as_str()) {
        return Err(NOT_KEPT.into());
    }
    match value["format"].as_str() {
        Some(found) if found != format => Err(format!("its format is `{found}`")),
        _ => serde_json::from_value(value).map_err(|_| NOT_KEPT.into()),
    }
}

fn hash(value: &Value) -> String {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    blake3::hash(&bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        format: String,
        disk: String,
        bytes: u64,
    }

    fn sample() -> Sample {
        Sample {
            format: "shale.sample.v1".into(),
            disk: "overlay-7".into(),
            bytes: 1 << 40,
        }
    }

    proptest! {
        #[test]
        fn a_flip_or_a_cut_is_an_error_or_changes_nothing(at in any::<usize>(), bit in 0..8u32, cuts in any::<bool>()) {
            let mut bytes = encode(&sample());
            let at = at % bytes.len();
            match cuts {
                true => bytes.truncate(at),
                false => bytes[at] ^= 1 << bit,
            }
            match parse::<Sample>(&bytes, "shale.sample.v1") {
                Ok(same) => prop_assert_eq!(same, sample()),
                Err(reason) => prop_assert_eq!(reason, NOT_KEPT),
            }
        }
    }

    #[test]
    fn other_formats_and_files_without_a_hash_are_told_apart() {
        let bytes = encode(&sample());
        assert_eq!(parse(&bytes, "shale.sample.v1"), Ok(sample()));
        let other = parse::<Sample>(&bytes, "shale.sample.v2").unwrap_err();
        assert_eq!(other, "its format is `shale.sample.v1`");
        let old = serde_json::to_vec(&sample()).unwrap();
        assert_eq!(parse(&old, "shale.sample.v1"), Ok(sample()));
    }
}
