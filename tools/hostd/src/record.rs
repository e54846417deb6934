//! What is kept of an instance: `record.json` in its directory, written durably before anything else of it
//! is made or started.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shale_files::{DirFiles, FilePath, Files, remove_durably};
use shale_hvplug::{Forward, Resources};
use shale_model::{PlanId, TemplateId};

use crate::api::{Credentials, Mirror, Repository, WarmStart};
use crate::data_disk::DataDisk;
use crate::dirs::known_path;
use crate::disk_place::DiskPlace;
use crate::error::HostResult;
use crate::kept::KeptFile;
use crate::name::InstanceName;

/// `format` of a record.
const FORMAT: &str = "shale.instance.v1";

/// End of the name of a record that is being written; no name of an instance has a dot.
const TEMP: &str = ".record";

/// Longest record that is read; they have about a thousand bytes.
const MAX_RECORD_BYTES: usize = 1 << 20;

/// An instance as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    format: String,
    pub(crate) phase: Phase,
    pub(crate) origin: Origin,
    /// In hex; the machine's identity for the hypervisor.
    pub(crate) uuid: String,
    /// Bytes of the disk.
    pub(crate) disk_bytes: u64,
    /// Where the disk lies; any other that is found is what a killed service left.
    #[serde(default)]
    pub(crate) disk: DiskPlace,
    /// The disks behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) data_disks: Vec<DataDisk>,
    pub(crate) resources: Resources,
    pub(crate) ports: Vec<Forward>,
    pub(crate) login: LoginRecord,
    /// Seconds that a request of the guest may wait for content; then the hypervisor pauses it. `None` waits on, as do
    /// guests of older records, whose hypervisors may run without having been told to pause.
    #[serde(default)]
    pub(crate) pause_after_seconds: Option<u64>,
    /// How it began, where a warm start was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warm: Option<WarmStart>,
    /// Whether somebody has paused it and wants it to stay so.
    #[serde(default)]
    pub(crate) paused: bool,
    /// Whether it starts by itself after a boot of the host.
    #[serde(default)]
    pub(crate) autostart: bool,
    /// The boot of the host that its machine was last seen in, in hex; kept where it starts by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<String>,
    /// Milliseconds from the command to the login prompt at its last boot, without those in which reads waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ready_millis: Option<u64>,
    /// The same of its warm start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warm_ready_millis: Option<u64>,
}

/// How far an instance has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Its disk is being made: what a start of the service finds like this is removed.
    Deploying,
    /// It is complete and should not run.
    Stopped,
    /// It is complete and should run.
    Started,
    /// It was shut down as the host was about to be, and starts by itself after the next boot of the host.
    ShutDown,
}

/// Where an instance comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    /// The reference as it was given.
    pub(crate) reference: String,
    /// The repository: an absolute directory or a URL.
    pub(crate) repository: String,
    /// What opens it: a path and a hash, no secret.
    #[serde(default, skip_serializing_if = "Credentials::is_empty")]
    pub(crate) credentials: Credentials,
    /// Other registries that may have its chunks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) template: TemplateId,
    /// The plan: no later version computes it again (I3).
    pub(crate) plan: PlanId,
    /// Kernel command line of the template.
    pub(crate) command_line: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
}

impl Origin {
    /// The repository with what opens it.
    pub(crate) fn repository(&self) -> Repository {
        Repository {
            address: self.repository.clone(),
            credentials: self.credentials.clone(),
            mirrors: self.mirrors.clone(),
        }
    }
}

/// How to log in to an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoginRecord {
    pub(crate) user: String,
    pub(crate) ssh_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity_file: Option<PathBuf>,
    /// The guest's public host key.
    pub(crate) host_key: String,
}

/// What a new record holds besides its origin.
pub(crate) struct NewRecord {
    pub(crate) uuid: [u8; 16],
    pub(crate) disk_bytes: u64,
    pub(crate) data_disks: Vec<DataDisk>,
    pub(crate) resources: Resources,
    pub(crate) ports: Vec<Forward>,
    pub(crate) login: LoginRecord,
    pub(crate) pause_after_seconds: Option<u64>,
    pub(crate) autostart: bool,
}

impl Record {
    /// The record of an instance whose disk is about to be made.
    pub(crate) fn new(origin: Origin, new: NewRecord) -> Self {
        Self {
            format: FORMAT.into(),
            phase: Phase::Deploying,
            origin,
            uuid: new.uuid.iter().map(|byte| format!("{byte:02x}")).collect(),
            disk_bytes: new.disk_bytes,
            disk: DiskPlace::default(),
            data_disks: new.data_disks,
            resources: new.resources,
            ports: new.ports,
            login: new.login,
            pause_after_seconds: new.pause_after_seconds,
            warm: None,
            paused: false,
            autostart: new.autostart,
            boot: None,
            ready_millis: None,
            warm_ready_millis: None,
        }
    }

    /// The UUID's bytes; zeros for what is no UUID.
    pub(crate) fn uuid(&self) -> [u8; 16] {
        u128::from_str_radix(&self.uuid, 16)
            .unwrap_or(0)
            .to_be_bytes()
    }
}

/// The records of a host: one directory each, below `instances`.
pub(crate) struct Records {
    files: DirFiles,
    root: PathBuf,
}

impl Records {
    /// The records in the existing directory `root`, which no other process uses.
    pub(crate) fn open(root: PathBuf) -> HostResult<Self> {
        let files = DirFiles::open(&root)?;
        // What a service was writing when it was killed.
        let entries = files.list(&FilePath::root())?;
        for entry in entries.iter().filter(|entry| entry.name.ends_with(TEMP)) {
            files.remove(&known_path(&entry.name))?;
        }
        Ok(Self { files, root })
    }

    /// The record of `name`; `None` if it has none.
    pub(crate) fn get(&self, name: &InstanceName) -> HostResult<Option<Record>> {
        self.file(name).get()
    }

    /// Keeps a record, durably.
    pub(crate) fn put(&self, name: &InstanceName, record: &Record) -> HostResult<()> {
        let temp = known_path(&format!("{name}{TEMP}"));
        Ok(self.file(name).put(&temp, record)?)
    }

    fn file(&self, name: &InstanceName) -> KeptFile<'_> {
        KeptFile {
            files: &self.files,
            root: &self.root,
            path: record_path(name),
            format: FORMAT,
            max_bytes: MAX_RECORD_BYTES,
        }
    }

    /// Removes a record, durably: what is left of the instance is garbage from now on.
    pub(crate) fn remove(&self, name: &InstanceName) -> HostResult<()> {
        match remove_durably(&self.files, &record_path(name)) {
            // Its directory was never made.
            Err(error) if error.is_missing() => Ok(()),
            done => Ok(done?),
        }
    }

    /// Names of the directories that there are; what is no name of an instance is none of ours.
    pub(crate) fn names(&self) -> HostResult<Vec<InstanceName>> {
        let entries = self.files.list(&FilePath::root())?;
        let names = entries.iter().map(|entry| InstanceName::new(&entry.name));
        Ok(names.filter_map(Result::ok).collect())
    }
}

fn record_path(name: &InstanceName) -> FilePath {
    known_path(&format!("{name}/record.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::HostError;
    use shale_hvplug::Acceleration;

    #[test]
    fn a_record_is_kept_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().to_owned()).unwrap();
        let name = InstanceName::new("web").unwrap();
        assert_eq!(records.get(&name).unwrap(), None);
        let origin = Origin {
            reference: "demo/base:12".into(),
            repository: "https://registry.example".into(),
            credentials: Credentials {
                token_file: Some("/etc/token".into()),
                fingerprint: None,
            },
            mirrors: vec![
                Mirror {
                    address: "https://mirror.example".into(),
                    credentials: Credentials::default(),
                },
                Mirror {
                    address: "https://other.example".into(),
                    credentials: Credentials {
                        token_file: Some("/etc/other".into()),
                        fingerprint: Some("sha256:00".into()),
                    },
                },
            ],
            template: TemplateId::of(b"t"),
            plan: PlanId::of(b"p"),
            command_line: String::new(),
            created: 1,
        };
        let record = Record::new(
            origin,
            NewRecord {
                uuid: std::array::from_fn(|n| n as u8),
                disk_bytes: 2 << 30,
                data_disks: DataDisk::of(&[1 << 30]).unwrap(),
                resources: Resources {
                    memory_bytes: 512 << 20,
                    cpus: 2,
                    acceleration: Acceleration::Tcg,
                },
                ports: vec![],
                login: LoginRecord {
                    user: "root".into(),
                    ssh_port: 22000,
                    identity_file: None,
                    host_key: "ssh-ed25519 AAAA".into(),
                },
                pause_after_seconds: Some(10),
                autostart: false,
            },
        );
        records.put(&name, &record).unwrap();
        assert_eq!(records.get(&name).unwrap().as_ref(), Some(&record));
        assert_eq!(record.uuid()[15], 15);
        // As all mirrors were written once.
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["origin"]["mirrors"][0], "https://mirror.example");
        // One of a version that knew nothing of other disks.
        let mut old = serde_json::to_value(&record).unwrap();
        let fields = old.as_object_mut().unwrap();
        assert!(fields.remove("disk").is_some() && fields.remove("data_disks").is_some());
        let old: Record = serde_json::from_value(old).unwrap();
        assert_eq!(
            (old.disk.name().as_str(), old.data_disks.len()),
            ("overlay", 0)
        );
        assert_eq!(records.names().unwrap(), std::slice::from_ref(&name));

        let file = dir.path().join("web/record.json");
        let text = std::fs::read_to_string(&file).unwrap();
        // As it was kept before there were mirrors, or hashes.
        let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(old.as_object_mut().unwrap().remove("blake3").is_some());
        old["origin"].as_object_mut().unwrap().remove("mirrors");
        std::fs::write(&file, old.to_string()).unwrap();
        let old = records.get(&name).unwrap().unwrap();
        assert_eq!(old.origin.repository().mirrors, vec![]);
        for damaged in [
            "",
            "{",
            &text.replace(".v1", ".v9"),
            &text[..text.len() / 2],
        ] {
            std::fs::write(&file, damaged).unwrap();
            let error = records.get(&name).unwrap_err();
            assert!(matches!(error, HostError::Record { .. }), "{error}");
        }
        records.remove(&name).unwrap();
        assert_eq!(records.get(&name).unwrap(), None);
        records.remove(&name).unwrap();
    }
}
