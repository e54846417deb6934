//! Where the disk of an instance lies: its record says so, because a disk is replaced by a record that names another
//! one, and never in place (I6).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where the disk of an instance lies, below its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DiskPlace {
    /// What the guest wrote, over the plan that the record names.
    Overlay { directory: OverlayDir },
}

/// That of an instance which never had another.
impl Default for DiskPlace {
    fn default() -> Self {
        let directory = OverlayDir { number: 0 };
        Self::Overlay { directory }
    }
}

impl DiskPlace {
    /// The name of what lies there.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Overlay { directory } => directory.to_string(),
        }
    }

    /// Where an overlay that replaces this disk is made. What lies there was never finished.
    pub(crate) fn next_overlay(&self) -> Self {
        let Self::Overlay { directory } = self;
        let number = directory.number.wrapping_add(1);
        let directory = OverlayDir { number };
        Self::Overlay { directory }
    }
}

/// The directory of an overlay: `overlay`, then `overlay-1` and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct OverlayDir {
    number: u32,
}

const FIRST: &str = "overlay";

impl OverlayDir {
    /// The directory of this name, if it is one of an overlay.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(FIRST)?;
        let number = match rest.strip_prefix('-') {
            Some(digits) => digits.parse().ok()?,
            None => 0,
        };
        let found = Self { number };
        // One way to write each.
        (found.to_string() == name).then_some(found)
    }
}

impl fmt::Display for OverlayDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            0 => f.write_str(FIRST),
            number => write!(f, "{FIRST}-{number}"),
        }
    }
}

impl From<OverlayDir> for String {
    fn from(dir: OverlayDir) -> Self {
        dir.to_string()
    }
}

impl TryFrom<String> for OverlayDir {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::named(&name).ok_or_else(|| format!("`{name}` is no directory of an overlay"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays_are_numbered_and_lie_nowhere_else() {
        let first = DiskPlace::default();
        let second = first.next_overlay();
        assert_eq!([first.name(), second.name()], ["overlay", "overlay-1"]);
        let json = serde_json::to_string(&second).unwrap();
        assert_eq!(json, r#"{"overlay":{"directory":"overlay-1"}}"#);
        assert_eq!(serde_json::from_str::<DiskPlace>(&json).unwrap(), second);
        for wrong in [
            "",
            "..",
            "overlay-0",
            "overlay-01",
            "overlay-",
            "overlay-+1",
            "overlay/",
            "snapshots",
        ] {
            assert_eq!(OverlayDir::named(wrong), None, "{wrong}");
        }
    }
}
