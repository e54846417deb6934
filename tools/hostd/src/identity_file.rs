//! What makes an instance itself, kept for a disk that it may get later: `identity.json` in its directory, for its owner
//! only. It holds the private host keys, which are nowhere else but on its disks.

use std::path::Path;

use serde::{Deserialize, Serialize};
use shale_image::identity::{HostKey, Identity, Login, Network};
use shale_model::Mtime;

use crate::error::{HostError, HostResult};
use crate::kept::KeptIn;

/// `format` of the file.
const FORMAT: &str = "shale.identity.v1";

/// The file's name, and that of its successor while it is written.
const NAME: &str = "identity.json";
const TEMP: &str = "identity.json.new";

/// Longest file that is read: some hundred authorized keys, which come in a call of at most a megabyte.
const MAX_BYTES: usize = 4 << 20;

/// Without `Debug`, so that keys stay out of logs.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: String,
    hostname: String,
    /// In hex.
    machine_id: String,
    ssh_host_keys: Vec<KeptKey>,
    login: Option<KeptLogin>,
}

/// The files of an SSH host key, which are text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptKey {
    name: String,
    private: String,
    public: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptLogin {
    user: String,
    authorized_keys: Vec<String>,
}

/// Keeps an identity in the directory of its instance, durably.
pub(crate) fn put(directory: &Path, identity: &Identity) -> HostResult<()> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let key = |key: &HostKey| KeptKey {
        name: key.name.clone(),
        private: text(&key.private),
        public: text(&key.public),
    };
    let kept = Kept {
        format: FORMAT.into(),
        hostname: identity.hostname.clone(),
        machine_id: format!("{:032x}", u128::from_be_bytes(identity.machine_id)),
        ssh_host_keys: identity.ssh_host_keys.iter().map(key).collect(),
        login: identity.login.as_ref().map(|login| KeptLogin {
            user: login.user.clone(),
            authorized_keys: login.authorized_keys.clone(),
        }),
    };
    FILE.put(directory, &kept)
}

const FILE: KeptIn = KeptIn {
    name: NAME,
    temp: TEMP,
    format: FORMAT,
    max_bytes: MAX_BYTES,
};

/// The identity that was kept, whose files are written at a time in seconds since 1970; `None` where an older version
/// deployed the instance.
pub(crate) fn get(directory: &Path, seconds: u64) -> HostResult<Option<Identity>> {
    let Some(kept) = FILE.get::<Kept>(directory)? else {
        return Ok(None);
    };
    let machine_id = u128::from_str_radix(&kept.machine_id, 16);
    let key = |key: KeptKey| HostKey {
        name: key.name,
        private: key.private.into_bytes(),
        public: key.public.into_bytes(),
    };
    Ok(Some(Identity {
        hostname: kept.hostname,
        machine_id: machine_id
            .map_err(|_| HostError::Record {
                path: directory.join(NAME),
                reason: "its machine id is none".into(),
            })?
            .to_be_bytes(),
        ssh_host_keys: kept.ssh_host_keys.into_iter().map(key).collect(),
        login: kept.login.map(|login| Login {
            user: login.user,
            uid: None,
            authorized_keys: login.authorized_keys,
        }),
        network: Network::Dhcp,
        time: Mtime {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: 0,
        },
    }))
}

/// The host key of an identity as a line of `known_hosts` without the name.
pub(crate) fn host_key(identity: &Identity) -> String {
    let first = identity.ssh_host_keys.first();
    let line = first.map_or(String::new(), |key| {
        String::from_utf8_lossy(&key.public).into()
    });
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::new_identity;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn an_identity_is_kept_for_its_owner_and_damage_tells_no_key() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(get(dir.path(), 5).unwrap(), None);
        let keys = vec!["ssh-ed25519 AAAA me".to_owned()];
        let new = new_identity("web", "ada", keys, 5).unwrap();
        put(dir.path(), &new.identity).unwrap();
        put(dir.path(), &new.identity).unwrap();
        assert_eq!(get(dir.path(), 5).unwrap(), Some(new.identity.clone()));
        assert_eq!(host_key(&new.identity), new.host_key);
        let file = dir.path().join(NAME);
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);

        let text = std::fs::read_to_string(&file).unwrap();
        let number = text.replace("\"hostname\": \"web\"", "\"hostname\": 7");
        assert_ne!(number, text);
        for damaged in [
            "",
            &text[..text.len() / 2],
            &text.replace(".v1", ".v9"),
            &number,
        ] {
            std::fs::write(&file, damaged).unwrap();
            let error = get(dir.path(), 5).unwrap_err();
            assert!(matches!(error, HostError::Record { .. }), "{error}");
            assert!(!error.failure().message.contains("KEY"), "{error}");
        }
    }
}
