//! Where everything lies in a repository's directory.
//!
//! ```text
//! shale-repository                 what this directory is: format, version, feature flags
//! packs/<2 hex>/<sha256>.pack      packs, immutable; the first two digits of the id spread them
//! layers/<2 hex>/<id>              layer roots
//! templates/<2 hex>/<id>.json      templates, canonical JSON
//! refs/<project>/<name>/<tag>      what a name points at: a template index, canonical JSON
//! traces/<2 hex>/<template>/<n>    chunk ids that a boot of the template read, the newest with the highest n
//! boot-sets/<2 hex>/<template>     the boot set that was made of them: its pack and the one before
//! boot-sets/layers/<layer>         the template with the newest boot set that has this layer
//! boot-packs/<2 hex>/<sha256>.pack the packs of boot sets, which the chunk index does not know
//! index/                           the chunk index; its own affair, and can be rebuilt from packs/
//! tmp/<n>/                         files on their way of one open repository ("session")
//! tmp/<n>/lock                     locked as long as that session lives: what is not locked is swept
//! locks/use                        shared by every open repository, exclusive for deletion and rebuilds
//! locks/tmp                        held for the moment in which a session begins
//! locks/refs                       held for the moment in which a reference changes
//! ```
//! Ids are 64 hex digits without their algorithm tag. Locks are `flock`s; their files are empty and stay.

use shale_files::FilePath;
use shale_model::{LayerId, PackId, RefName, TemplateId};

/// Name of the file that makes a directory a repository.
pub const FORMAT_FILE: &str = "shale-repository";

/// Name of the directory that belongs to the chunk index.
pub const INDEX_DIR: &str = "index";

/// Directories that a repository is made with.
pub(crate) const DIRS: [&str; 6] = ["packs", "layers", "templates", "refs", "tmp", "locks"];

/// Ending of pack files.
const PACK_SUFFIX: &str = ".pack";

pub(crate) fn format_file() -> FilePath {
    path(FORMAT_FILE)
}

pub(crate) fn dir(name: &str) -> FilePath {
    path(name)
}

/// Where the pack of this id lies.
pub fn pack(id: PackId) -> FilePath {
    let hex = id.hex();
    path(&format!("packs/{}/{hex}{PACK_SUFFIX}", &hex[..2]))
}

/// The pack that a file of this name in `packs/<2 hex>` is.
pub(crate) fn pack_of_name(name: &str) -> Option<PackId> {
    PackId::from_hex(name.strip_suffix(PACK_SUFFIX)?).ok()
}

/// Where the pack of a boot set lies.
pub(crate) fn boot_pack(id: PackId) -> FilePath {
    let hex = id.hex();
    path(&format!("boot-packs/{}/{hex}{PACK_SUFFIX}", &hex[..2]))
}

/// The directory of a template's traces.
pub(crate) fn traces(id: TemplateId) -> FilePath {
    let hex = id.hex();
    path(&format!("traces/{}/{hex}", &hex[..2]))
}

/// Where the trace of this number lies.
pub(crate) fn trace(id: TemplateId, number: u64) -> FilePath {
    let hex = id.hex();
    path(&format!("traces/{}/{hex}/{number}", &hex[..2]))
}

/// Where it is said which boot set a template has.
pub(crate) fn boot_set(id: TemplateId) -> FilePath {
    let hex = id.hex();
    path(&format!("boot-sets/{}/{hex}", &hex[..2]))
}

/// Where it is said which template with this layer has a boot set.
pub(crate) fn boot_set_of_layer(id: LayerId) -> FilePath {
    path(&format!("boot-sets/layers/{}", id.hex()))
}

/// Where the root of the layer of this id lies.
pub fn layer(id: LayerId) -> FilePath {
    let hex = id.hex();
    path(&format!("layers/{}/{hex}", &hex[..2]))
}

/// Where the template of this id lies.
pub fn template(id: TemplateId) -> FilePath {
    let hex = id.hex();
    path(&format!("templates/{}/{hex}.json", &hex[..2]))
}

/// Where the reference of this name lies.
pub fn reference(name: &RefName) -> FilePath {
    let (project, tag) = (name.project(), name.tag());
    path(&format!("refs/{project}/{}/{tag}", name.name()))
}

pub(crate) fn use_lock() -> FilePath {
    path("locks/use")
}

pub(crate) fn tmp_lock() -> FilePath {
    path("locks/tmp")
}

pub(crate) fn refs_lock() -> FilePath {
    path("locks/refs")
}

/// Hex digits and the parts of a reference name are path components by their own rules, and so are
/// the names in this file.
fn path(text: &str) -> FilePath {
    FilePath::new(text).expect("names of a repository are checked before they come here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_path() {
        let long = "x".repeat(128);
        let name = RefName::new(&long, &long, &long).unwrap();
        assert_eq!(reference(&name).components().count(), 4);
        let id = PackId::from_bytes([0xab; 32]);
        let (dir, file) = ("packs/ab/", format!("{}.pack", "ab".repeat(32)));
        assert_eq!(pack(id).as_str(), format!("{dir}{file}"));
        assert_eq!(pack_of_name(&file), Some(id));
        for wrong in ["x.pack", &"ab".repeat(32), ".pack", ""] {
            assert_eq!(pack_of_name(wrong), None);
        }
        assert!(
            layer(LayerId::of(b""))
                .as_str()
                .starts_with("layers/af/af1349")
        );
        assert!(
            template(TemplateId::of(b""))
                .as_str()
                .ends_with("3262.json")
        );
    }
}
