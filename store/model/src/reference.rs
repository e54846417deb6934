//! References: `[registry/]project/name[:tag][@blake3:...]`, and the compositions made of them.

use std::fmt;
use std::str::FromStr;

use crate::id::{IdError, TemplateId};

/// Longest project, name or tag, in bytes: what OCI registries allow a tag.
pub const MAX_REF_PART_BYTES: usize = 128;

/// The tag of a reference that names none.
pub const DEFAULT_TAG: &str = "latest";

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not of the form `[registry/]project/name[:tag][@blake3:...]`.
    #[error("`{0}` is not of the form [registry/]project/name[:tag][@blake3:hex]")]
    Shape(String),
    /// A project, name or tag with other characters than the grammar of OCI has.
    #[error(
        "`{0}`: projects and names are lower-case letters, digits and single `.`, `_`, `-` between \
         them; tags may also have upper-case letters; at most {MAX_REF_PART_BYTES} characters"
    )]
    Part(String),
    /// What follows the `@` is not an id.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// A name in one repository: `project/name:tag`. Safe to be used as a file path of three components.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName {
    project: Box<str>,
    name: Box<str>,
    tag: Box<str>,
}

impl RefName {
    /// Checks the three parts.
    pub fn new(project: &str, name: &str, tag: &str) -> Result<Self, ReferenceError> {
        for part in [project, name] {
            check_part(part, |c| c.is_ascii_lowercase() || c.is_ascii_digit())?;
        }
        check_part(tag, |c| c.is_ascii_alphanumeric())?;
        Ok(Self {
            project: project.into(),
            name: name.into(),
            tag: tag.into(),
        })
    }

    /// The project.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The name in the project.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag of the name.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

/// Letters of the given kind and digits, with single separators between them.
fn check_part(part: &str, letter: impl Fn(char) -> bool) -> Result<(), ReferenceError> {
    let mut after_separator = true;
    for c in part.chars() {
        let separator = matches!(c, '.' | '_' | '-');
        if !(letter(c) || separator && !after_separator) {
            return Err(ReferenceError::Part(part.to_owned()));
        }
        after_separator = separator;
    }
    if after_separator || part.len() > MAX_REF_PART_BYTES {
        return Err(ReferenceError::Part(part.to_owned()));
    }
    Ok(())
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.project, self.name, self.tag)
    }
}

impl FromStr for RefName {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let reference: Reference = text.parse()?;
        match (reference.registry, reference.id) {
            (None, None) => Ok(reference.name),
            _ => Err(ReferenceError::Shape(text.to_owned())),
        }
    }
}

/// A reference as a person writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `host[:port]` of the registry; `None` for the default one.
    pub registry: Option<String>,
    /// The name there.
    pub name: RefName,
    /// The template that is meant; the name is then only where to look.
    pub id: Option<TemplateId>,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        write!(f, "{}", self.name)?;
        match &self.id {
            Some(id) => write!(f, "@{id}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let shape = || ReferenceError::Shape(text.chars().take(200).collect());
        let (rest, id) = match text.split_once('@') {
            Some((rest, id)) => (rest, Some(id.parse()?)),
            None => (text, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (rest, DEFAULT_TAG),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (registry, project, name) = match parts[..] {
            [project, name] => (None, project, name),
            [registry, project, name] => (Some(registry), project, name),
            _ => return Err(shape()),
        };
        if registry.is_some_and(|host| !is_host(host)) {
            return Err(shape());
        }
        Ok(Self {
            registry: registry.map(str::to_owned),
            name: RefName::new(project, name, tag)?,
            id,
        })
    }
}

fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
}

/// `base:tag+app:tag+app:tag`: a base reference and the applications on it, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composition {
    /// The template at the bottom.
    pub base: Reference,
    /// The templates whose own layers go on top.
    pub apps: Vec<Reference>,
}

impl FromStr for Composition {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let mut references = text.split('+').map(str::parse::<Reference>);
        let base = references
            .next()
            .unwrap_or_else(|| Err(ReferenceError::Shape(text.to_owned())))?;
        let apps = references.collect::<Result<_, _>>()?;
        Ok(Self { base, apps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found() {
        let hex = TemplateId::of(b"").to_string();
        let cases = [
            ("demo/base", None, "demo/base:latest"),
            ("demo/base:12", None, "demo/base:12"),
            (
                "reg.example:5000/demo/base:12.1",
                Some("reg.example:5000"),
                "demo/base:12.1",
            ),
            ("localhost/demo/base", Some("localhost"), "demo/base:latest"),
        ];
        for (text, registry, name) in cases {
            for (text, id) in [(text.to_owned(), false), (format!("{text}@{hex}"), true)] {
                let reference: Reference = text.parse().unwrap();
                assert_eq!(reference.registry.as_deref(), registry, "{text}");
                assert_eq!(reference.name.to_string(), name, "{text}");
                assert_eq!(reference.id.is_some(), id, "{text}");
                assert_eq!(reference.to_string().parse(), Ok(reference), "{text}");
            }
        }
    }

    #[test]
    fn what_could_leave_a_directory_is_refused() {
        for text in [
            "",
            "base",
            "/base",
            "demo/",
            "a/b/c/d",
            "../x",
            "demo/..",
            "demo/base:..",
            "Demo/base",
            "demo/base:",
            "demo/ba se",
            "demo/base@sha256:00",
            "demo/a--b",
            "re g/demo/base",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_composition_is_references_joined_by_plus() {
        let composition: Composition = "demo/base:12+demo/nginx:1+demo/pg:15".parse().unwrap();
        assert_eq!(composition.base.name.name(), "base");
        assert_eq!(composition.apps.len(), 2);
        assert!("demo/base+".parse::<Composition>().is_err());
    }
}
