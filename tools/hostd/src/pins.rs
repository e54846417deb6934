//! The templates whose content stays in the cache: `pins.json` in the state directory, written durably.

use std::path::Path;

use serde::{Deserialize, Serialize};
use shale_files::{DirFiles, Files};
use shale_model::{PlanId, TemplateId};

use crate::dirs::known_path;
use crate::error::{HostError, HostResult};
use crate::kept::KeptIn;

/// The file's name, and that of its successor while it is written.
const NAME: &str = "pins.json";
const TEMP: &str = "pins.json.new";

/// Where one goes that cannot be read.
const DAMAGED: &str = "pins.json.damaged";

/// Longest file that is read: a pin has some 250 bytes.
const MAX_BYTES: usize = 16 << 20;

/// A template whose content stays in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    /// The reference as it was given.
    pub(crate) reference: String,
    pub(crate) template: TemplateId,
    pub(crate) plan: PlanId,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pins {
    format: String,
    pins: Vec<Pin>,
}

/// `format` of the file.
const FORMAT: &str = "shale.pins.v1";

/// What is pinned; nothing if nothing ever was, or if the file is damaged, which is then put aside: machines are not to
/// stand still for it.
pub(crate) fn read(state: &Path) -> HostResult<Vec<Pin>> {
    match FILE.get::<Pins>(state) {
        Ok(kept) => Ok(kept.map(|kept| kept.pins).unwrap_or_default()),
        Err(HostError::Record { .. }) => {
            DirFiles::open(state)?.rename(&known_path(NAME), &known_path(DAMAGED))?;
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Keeps what is pinned, durably.
pub(crate) fn write(state: &Path, pins: &[Pin]) -> HostResult<()> {
    let pins = Pins {
        format: FORMAT.into(),
        pins: pins.to_vec(),
    };
    FILE.put(state, &pins)
}

const FILE: KeptIn = KeptIn {
    name: NAME,
    temp: TEMP,
    format: FORMAT,
    max_bytes: MAX_BYTES,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_kept_and_damage_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        let pin = Pin {
            reference: "demo/base:12".into(),
            template: TemplateId::of(b"t"),
            plan: PlanId::of(b"p"),
        };
        write(dir.path(), std::slice::from_ref(&pin)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [pin]);
        let file = dir.path().join(NAME);
        let text = std::fs::read_to_string(&file).unwrap();
        for damaged in ["", "{}", &text.replace(".v1", ".v9")] {
            std::fs::write(&file, damaged).unwrap();
            assert_eq!(read(dir.path()).unwrap(), []);
            let aside = std::fs::read_to_string(dir.path().join(DAMAGED)).unwrap();
            assert_eq!(aside, *damaged);
        }
    }
}
