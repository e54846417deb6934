//! What is kept of a mount: `<state>/mounts/<name>.json`, written durably before anything is mounted.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shale_files::{DirFiles, FilePath, Files, remove_durably};
use shale_fusefs::{Access, DiskFile, Permissions};
use shale_model::Mtime;

use crate::dirs::known_path;
use crate::error::{HostError, HostResult};
use crate::keeper::KeptName;
use crate::kept::KeptFile;
use crate::record::Origin;

/// `format` of a record.
const FORMAT: &str = "shale.mount.v1";

/// Ends of the names of a record, and of one that is being written.
const END: &str = ".json";
const TEMP: &str = ".new";

/// Longest record that is read; they have less than a thousand bytes.
const MAX_RECORD_BYTES: usize = 1 << 16;

/// A mount as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MountRecord {
    format: String,
    /// The directory, with its path from the root, if it is on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) directory: Option<PathBuf>,
    pub(crate) origin: Origin,
    pub(crate) shows: Shows,
    /// Whose it is.
    pub(crate) owner: MountOwner,
    /// The boot of the host that it is of, in hex: no mount outlives one.
    pub(crate) boot: String,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shows {
    /// The tree of the template.
    Tree,
    /// Its disk, as a file.
    Disk {
        /// Where what is written to it goes; without it the disk is read-only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overlay: Option<PathBuf>,
        /// Numbers of the user and the group that the file belongs to.
        owner: (u32, u32),
    },
}

/// Whose a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MountOwner {
    /// Somebody asked for it.
    User,
    /// The host's own, for one of its machines.
    Host,
}

impl MountOwner {
    /// Who checks what may be done with the files: those of the host are seen by one process only.
    pub(crate) fn permissions(self) -> Permissions {
        match self {
            MountOwner::User => Permissions::Checked,
            MountOwner::Host => Permissions::Unchecked,
        }
    }
}

impl MountRecord {
    pub(crate) fn new(
        directory: Option<PathBuf>,
        origin: Origin,
        shows: Shows,
        owner: MountOwner,
        boot: String,
    ) -> Self {
        Self {
            format: FORMAT.into(),
            directory,
            origin,
            shows,
            owner,
            boot,
        }
    }
}

impl Shows {
    pub(crate) fn access(&self) -> Access {
        match self {
            Shows::Disk {
                overlay: Some(_), ..
            } => Access::ReadWrite,
            Shows::Tree | Shows::Disk { overlay: None, .. } => Access::ReadOnly,
        }
    }
}

impl MountRecord {
    /// What the file of a disk looks like, which every service must show alike.
    pub(crate) fn disk_file(&self, owner: (u32, u32)) -> DiskFile {
        DiskFile {
            access: self.shows.access(),
            owner,
            time: Mtime {
                seconds: self.origin.created as i64,
                nanos: 0,
            },
        }
    }
}

/// All records.
pub(crate) struct MountRecords {
    files: DirFiles,
    root: PathBuf,
}

impl MountRecords {
    /// The records in the existing directory `root`, which no other process uses.
    pub(crate) fn open(root: PathBuf) -> HostResult<Self> {
        let files = DirFiles::open(&root)?;
        // What a service was writing when it was killed.
        for entry in files.list(&FilePath::root())? {
            if entry.name.ends_with(TEMP) {
                files.remove(&known_path(&entry.name))?;
            }
        }
        Ok(Self { files, root })
    }

    pub(crate) fn names(&self) -> HostResult<Vec<KeptName>> {
        let entries = self.files.list(&FilePath::root())?;
        let names = entries.iter().filter_map(|entry| {
            let name = entry.name.strip_suffix(END)?;
            KeptName::new(name)
        });
        Ok(names.collect())
    }

    /// The record of `name`, which there is.
    pub(crate) fn get(&self, name: &KeptName) -> HostResult<MountRecord> {
        let missing = || HostError::Record {
            path: self.root.join(path_of(name).as_str()),
            reason: "it is gone".into(),
        };
        self.file(name).get()?.ok_or_else(missing)
    }

    /// Keeps a record, durably.
    pub(crate) fn put(&self, name: &KeptName, record: &MountRecord) -> HostResult<()> {
        let temp = known_path(&format!("{name}{TEMP}"));
        Ok(self.file(name).put(&temp, record)?)
    }

    fn file(&self, name: &KeptName) -> KeptFile<'_> {
        KeptFile {
            files: &self.files,
            root: &self.root,
            path: path_of(name),
            format: FORMAT,
            max_bytes: MAX_RECORD_BYTES,
        }
    }

    /// Removes a record, durably; that there is none is no error.
    pub(crate) fn remove(&self, name: &KeptName) -> HostResult<()> {
        match remove_durably(&self.files, &path_of(name)) {
            Err(error) if error.is_missing() => Ok(()),
            done => Ok(done?),
        }
    }
}

fn path_of(name: &KeptName) -> FilePath {
    known_path(&format!("{name}{END}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Credentials;
    use shale_model::{PlanId, TemplateId};

    #[test]
    fn a_record_is_kept_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let records = MountRecords::open(dir.path().to_owned()).unwrap();
        let name = KeptName::new("mount.1").unwrap();
        let origin = Origin {
            reference: "demo/base:12".into(),
            repository: "https://registry.example".into(),
            credentials: Credentials::default(),
            mirrors: Vec::new(),
            template: TemplateId::of(b"t"),
            plan: PlanId::of(b"p"),
            command_line: String::new(),
            created: 1,
        };
        let shows = Shows::Disk {
            overlay: Some("/overlay".into()),
            owner: (1, 2),
        };
        let record = MountRecord::new(
            Some("/mnt".into()),
            origin,
            shows,
            MountOwner::User,
            "b".into(),
        );
        records.put(&name, &record).unwrap();
        assert_eq!(records.get(&name).unwrap(), record);
        assert_eq!(record.disk_file((1, 2)).access, Access::ReadWrite);
        let file = dir.path().join("mount.1.json");
        let text = std::fs::read_to_string(&file).unwrap();
        for damaged in ["", "{", &text.replace(".v1", ".v9")] {
            std::fs::write(&file, damaged).unwrap();
            let error = records.get(&name).unwrap_err();
            assert!(matches!(error, HostError::Record { .. }), "{error}");
        }
        std::fs::write(dir.path().join("mount.2.new"), "half").unwrap();
        let records = MountRecords::open(dir.path().to_owned()).unwrap();
        assert_eq!(records.names().unwrap(), std::slice::from_ref(&name));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        records.remove(&name).unwrap();
        records.remove(&name).unwrap();
        assert_eq!(records.names().unwrap(), []);
    }
}
