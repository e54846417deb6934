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
    /// All of it, in a plain file: nothing else is needed any more.
    File { file: RawFile },
}

/// That of an instance which never had another.
impl Default for DiskPlace {
    fn default() -> Self {
        let directory = Numbered(0);
        Self::Overlay { directory }
    }
}

impl DiskPlace {
    /// The place of a disk that has this name, if it is that of one.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let overlay = || OverlayDir::named(name).map(|directory| Self::Overlay { directory });
        let file = || RawFile::named(name).map(|file| Self::File { file });
        overlay().or_else(file)
    }

    /// The name of what lies there.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Overlay { directory } => directory.to_string(),
            Self::File { file } => file.to_string(),
        }
    }

    /// Where an overlay that replaces this disk is made. What lies there was never finished.
    pub(crate) fn next_overlay(&self) -> Self {
        let directory = Numbered(self.next_number());
        Self::Overlay { directory }
    }

    /// The same for a file.
    pub(crate) fn next_file(&self) -> Self {
        let file = Numbered(self.next_number());
        Self::File { file }
    }

    fn next_number(&self) -> u32 {
        let number = match self {
            Self::Overlay { directory } => directory.0,
            Self::File { file } => file.0,
        };
        number.wrapping_add(1)
    }
}

/// The directory of an overlay: `overlay`, then `overlay-1` and so on.
pub(crate) type OverlayDir = Numbered<b'o'>;

/// A file that is a disk: `disk.raw`, then `disk-1.raw` and so on.
pub(crate) type RawFile = Numbered<b'd'>;

/// A name with a number: the first part and the last are those of its `KIND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Numbered<const KIND: u8>(u32);

impl<const KIND: u8> Numbered<KIND> {
    const PARTS: (&str, &str) = match KIND {
        b'o' => ("overlay", ""),
        _ => ("disk", ".raw"),
    };

    /// What has this name, if it is one of this kind.
    fn named(name: &str) -> Option<Self> {
        let (first, last) = Self::PARTS;
        let rest = name.strip_prefix(first)?.strip_suffix(last)?;
        let number = match rest.strip_prefix('-') {
            Some(digits) => digits.parse().ok()?,
            None => 0,
        };
        let found = Self(number);
        // One way to write each.
        (found.to_string() == name).then_some(found)
    }
}

impl<const KIND: u8> fmt::Display for Numbered<KIND> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = Self::PARTS;
        match self.0 {
            0 => write!(f, "{first}{last}"),
            number => write!(f, "{first}-{number}{last}"),
        }
    }
}

impl<const KIND: u8> From<Numbered<KIND>> for String {
    fn from(numbered: Numbered<KIND>) -> Self {
        numbered.to_string()
    }
}

impl<const KIND: u8> TryFrom<String> for Numbered<KIND> {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::named(&name).ok_or_else(|| format!("`{name}` is no name of a disk"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_numbered_and_lie_nowhere_else() {
        let first = DiskPlace::default();
        let second = first.next_overlay();
        let third = second.next_file();
        let names = [&first, &second, &third].map(DiskPlace::name);
        assert_eq!(names, ["overlay", "overlay-1", "disk-2.raw"]);
        assert_eq!(third.next_overlay().name(), "overlay-3");
        for place in [&first, &second, &third] {
            assert_eq!(DiskPlace::named(&place.name()).as_ref(), Some(place));
        }
        let json = serde_json::to_string(&third).unwrap();
        assert_eq!(json, r#"{"file":{"file":"disk-2.raw"}}"#);
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
            "disk-0.raw",
            "disk-1",
            "disk-.raw",
            "data0.raw",
        ] {
            assert_eq!(DiskPlace::named(wrong), None, "{wrong}");
        }
    }
}
