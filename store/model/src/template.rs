//! Templates: an ordered stack of layers with machine settings, and the index that a tag names.
//!
//! Both are canonical JSON: fields in the order declared here, no white space, defaults left out. A
//! reader decodes, encodes again and compares, so that one template has one id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bytes::{FormatError, Problem};
use crate::id::{LayerId, TemplateId};
use crate::limits::{MAX_LAYERS, MAX_TEMPLATE_BYTES};

/// `format` of a template.
pub const TEMPLATE_FORMAT: &str = "shale.template.v1";
/// `format` of an index.
pub const INDEX_FORMAT: &str = "shale.index.v1";

/// A template. Its id is the BLAKE3-256 of [`Template::encode`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    format: String,
    /// What it runs on.
    pub platform: Platform,
    /// The layers of the root disk, bottom first; at least one.
    pub layers: Vec<TemplateLayer>,
    /// The machine that it wants.
    pub machine: Machine,
}

/// Operating system and processor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// As Go and OCI spell it: `amd64`, `arm64`.
    pub architecture: String,
}

impl Default for Platform {
    fn default() -> Self {
        Self {
            os: "linux".into(),
            architecture: "amd64".into(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform: an operating system and a processor, such as linux/arm64")]
pub struct PlatformError(String);

impl FromStr for Platform {
    type Err = PlatformError;

    /// Reads `os/architecture`, both of a-z and 0-9. A variant behind them, such as `/v7`, is refused: templates
    /// do not have it.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let is_word = |word: &str| {
            let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            !word.is_empty() && word.bytes().all(known)
        };
        match text.split_once('/') {
            Some((os, architecture)) if is_word(os) && is_word(architecture) => Ok(Self {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
            }),
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

/// One layer of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateLayer {
    /// The layer.
    pub id: LayerId,
    /// The stack that it is the difference to, bottom first; empty for a base. Merging compares with
    /// it, so it is part of the template's identity, and rebasing keeps it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made_on: Vec<LayerId>,
}

/// The machine that a template wants, and how its root disk is laid out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// How the root disk's file system is laid out.
    pub filesystem: Filesystem,
    /// Bytes of the root disk, a multiple of 1 MiB; 0 for the smallest that leaves the usual room.
    pub disk_bytes: u64,
    /// Least memory, in bytes.
    pub memory_bytes: u64,
    /// Kernel command line of a direct boot, less the console and root arguments that drivers add.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub command_line: String,
    /// The user that `vm ssh` logs in as.
    pub login_user: String,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            filesystem: Filesystem::Ext4V1,
            disk_bytes: 0,
            memory_bytes: 512 << 20,
            command_line: String::new(),
            login_user: "root".into(),
        }
    }
}

/// A frozen way to lay out a tree as a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Filesystem {
    /// ext4 with 64-bit block numbers, metadata checksums, journal, hashed directories.
    #[serde(rename = "ext4-1")]
    Ext4V1,
    /// ext4 for guests that cannot read the former: no 64-bit, checksums of group descriptors only.
    #[serde(rename = "ext4-old")]
    Ext4Old,
}

impl Template {
    /// A template of these layers.
    pub fn new(platform: Platform, layers: Vec<TemplateLayer>, machine: Machine) -> Self {
        Self {
            format: TEMPLATE_FORMAT.into(),
            platform,
            layers,
            machine,
        }
    }

    /// The canonical JSON.
    pub fn encode(&self) -> Vec<u8> {
        canonical_json(self)
    }

    /// The id.
    pub fn id(&self) -> TemplateId {
        TemplateId::of(&self.encode())
    }

    /// Reads canonical JSON, checking every rule.
    pub fn decode(json: &[u8]) -> Result<Self, FormatError> {
        let this: Self = decode_json("template", json)?;
        let fault = |problem| fault("template", problem);
        if this.format != TEMPLATE_FORMAT {
            return Err(fault(Problem::Magic));
        }
        if this.layers.is_empty() {
            return Err(fault(Problem::Rule("it has no layer")));
        }
        let stacks = this.layers.iter().map(|layer| layer.made_on.len());
        let most = stacks.chain([this.layers.len()]).max().unwrap_or(0);
        if most > MAX_LAYERS {
            return Err(fault(Problem::Limit {
                name: "layers",
                found: most as u64,
                max: MAX_LAYERS as u64,
            }));
        }
        Ok(this)
    }

    /// The layers that were made on others: what `BASE+THIS` puts on top of the base.
    pub fn own_layers(&self) -> impl Iterator<Item = &TemplateLayer> {
        self.layers.iter().filter(|layer| !layer.made_on.is_empty())
    }
}

/// What a tag names: a template for each platform, in order of platform, each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateIndex {
    format: String,
    /// At least one.
    templates: Vec<IndexEntry>,
}

/// One platform of a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexEntry {
    /// What the template runs on.
    pub platform: Platform,
    /// The template.
    pub template: TemplateId,
}

impl TemplateIndex {
    /// An index of one template.
    pub fn one(platform: Platform, template: TemplateId) -> Self {
        Self {
            format: INDEX_FORMAT.into(),
            templates: vec![IndexEntry { platform, template }],
        }
    }

    /// This index with `template` for `platform`, in place of another that it had.
    #[must_use]
    pub fn with(mut self, platform: Platform, template: TemplateId) -> Self {
        self.templates.retain(|entry| entry.platform != platform);
        self.templates.push(IndexEntry { platform, template });
        self.templates.sort_by(|a, b| a.platform.cmp(&b.platform));
        self
    }

    /// The template for `platform`.
    pub fn get(&self, platform: &Platform) -> Option<TemplateId> {
        let found = self.templates.iter().find(|e| e.platform == *platform)?;
        Some(found.template)
    }

    /// Every platform with its template.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.templates
    }

    /// The canonical JSON.
    pub fn encode(&self) -> Vec<u8> {
        canonical_json(self)
    }

    /// Reads canonical JSON, checking every rule.
    pub fn decode(json: &[u8]) -> Result<Self, FormatError> {
        let this: Self = decode_json("index", json)?;
        if this.format != INDEX_FORMAT {
            return Err(fault("index", Problem::Magic));
        }
        let ordered = this
            .templates
            .windows(2)
            .all(|w| w[0].platform < w[1].platform);
        if this.templates.is_empty() || !ordered {
            let rule = "platforms are missing, double or out of order";
            return Err(fault("index", Problem::Rule(rule)));
        }
        Ok(this)
    }
}

fn canonical_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Serializing strings, integers and lists into a vector has no way to fail.
    serde_json::to_vec(value).unwrap_or_default()
}

fn decode_json<T: Serialize + for<'de> Deserialize<'de>>(
    what: &'static str,
    json: &[u8],
) -> Result<T, FormatError> {
    if json.len() > MAX_TEMPLATE_BYTES {
        return Err(fault(
            what,
            Problem::Limit {
                name: "bytes",
                found: json.len() as u64,
                max: MAX_TEMPLATE_BYTES as u64,
            },
        ));
    }
    let value: T = serde_json::from_slice(json).map_err(|error| FormatError {
        what,
        at: error.column(),
        problem: Problem::Rule("not the JSON of this format"),
    })?;
    if canonical_json(&value) == json {
        Ok(value)
    } else {
        Err(fault(what, Problem::NotCanonical))
    }
}

fn fault(what: &'static str, problem: Problem) -> FormatError {
    FormatError {
        what,
        at: 0,
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Template {
        let base = LayerId::of(b"base");
        let layers = vec![
            TemplateLayer {
                id: base,
                made_on: vec![],
            },
            TemplateLayer {
                id: LayerId::of(b"app"),
                made_on: vec![base],
            },
        ];
        Template::new(Platform::default(), layers, Machine::default())
    }

    #[test]
    fn a_template_has_one_form() {
        let json = sample().encode();
        assert_eq!(Template::decode(&json), Ok(sample()));
        let spaced = [&json[..], b" "].concat();
        assert_eq!(
            Template::decode(&spaced).unwrap_err().problem,
            Problem::NotCanonical
        );
        let text = String::from_utf8(json).unwrap();
        let unknown = text.replacen("\"platform\"", "\"x\":1,\"platform\"", 1);
        assert!(Template::decode(unknown.as_bytes()).is_err());
        let other = text.replacen("template.v1", "template.v2", 1);
        assert_eq!(
            Template::decode(other.as_bytes()).unwrap_err().problem,
            Problem::Magic
        );
    }

    #[test]
    fn the_json_of_version_1_stays() {
        let json = String::from_utf8(sample().encode()).unwrap();
        let base = LayerId::of(b"base");
        let app = LayerId::of(b"app");
        let expected = format!(
            "{{\"format\":\"shale.template.v1\",\"platform\":{{\"os\":\"linux\",\"architecture\":\"amd64\"}},\
             \"layers\":[{{\"id\":\"{base}\"}},{{\"id\":\"{app}\",\"made_on\":[\"{base}\"]}}],\
             \"machine\":{{\"filesystem\":\"ext4-1\",\"disk_bytes\":0,\"memory_bytes\":536870912,\
             \"login_user\":\"root\"}}}}"
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn a_platform_is_spelled_as_others_do() {
        for text in ["linux/amd64", "linux/arm64", "linux/riscv64"] {
            let platform: Platform = text.parse().unwrap();
            assert_eq!(platform.to_string(), text);
        }
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm/v7",
            "Linux/amd64",
            "linux/a b",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn own_layers_are_those_made_on_others() {
        let own: Vec<_> = sample().own_layers().map(|l| l.id).collect();
        assert_eq!(own, [LayerId::of(b"app")]);
    }

    #[test]
    fn an_index_holds_each_platform_once_in_order() {
        let arm = Platform {
            architecture: "arm64".into(),
            ..Platform::default()
        };
        let (one, two) = (TemplateId::of(b"1"), TemplateId::of(b"2"));
        let index = TemplateIndex::one(arm.clone(), one)
            .with(Platform::default(), one)
            .with(arm.clone(), two);
        assert_eq!(index.get(&arm), Some(two));
        assert_eq!(index.entries().len(), 2);
        assert_eq!(TemplateIndex::decode(&index.encode()), Ok(index));
    }
}
