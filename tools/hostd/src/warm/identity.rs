//! An identity as an archive: the files that a cold start would find on its disk, for a guest that is there already.

use std::io;

use shale_image::identity::Identity;
use shale_image::merge::ChunkBytes;
use shale_model::{ChunkId, Content, Entry, Extent, Kind, Template, Tree, TreeLayer, TreePath};
use tar::{Builder, EntryType, Header};

use crate::compose::{ComposeError, Composer};

/// The databases of accounts. A guest may have added to its own when it booted, so they are merged there.
const ACCOUNTS: [&str; 4] = ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"];

/// Where these come, and where the script comes that does the rest. The guest forgets them when it stops.
const MERGED: &str = "run/shale.accounts";
const FINISH: &str = "run/shale.finish";

/// What an identity changes on a template.
pub(crate) struct IdentityFiles {
    pub(crate) layer: TreeLayer,
    pub(crate) bytes: ChunkBytes,
}

impl Composer {
    /// What an identity changes on a template, with the bytes of all of it. Blocks.
    pub(crate) fn identity_files(
        &self,
        template: &Template,
        identity: &Identity,
    ) -> Result<IdentityFiles, ComposeError> {
        let mut files = IdentityFiles {
            layer: TreeLayer::default(),
            bytes: ChunkBytes::new(),
        };
        self.compose_with(template, |tree: &Tree, synthetic: &ChunkBytes| {
            let (layer, mut bytes) = self.apply(tree, synthetic, identity, &[])?;
            // Files that are the template's own, as those of a new home directory are.
            let chunks: Vec<(ChunkId, u32)> = layer.chunks().collect();
            for (id, _) in &chunks {
                if let Some(made) = synthetic.get(id) {
                    bytes.entry(*id).or_insert_with(|| made.clone());
                }
            }
            let stored: Vec<_> = chunks
                .into_iter()
                .filter(|(id, _)| !bytes.contains_key(id))
                .collect();
            bytes.extend(self.read_chunks(&stored)?);
            files = IdentityFiles { layer, bytes };
            // Nobody wants the tree with it.
            Ok((TreeLayer::default(), ChunkBytes::new()))
        })?;
        Ok(files)
    }
}

/// The archive of an identity, with the script `finish`. What an identity removes is not in it: a machine that waits for
/// one was made without that.
pub(crate) fn archive(files: &IdentityFiles, finish: &str) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for (parent, entry) in files.layer.entries() {
        let path = parent.join(&entry.name).map_err(invalid)?;
        add(&mut archive, &place_of(&path), entry, &files.bytes)?;
    }
    let mut header = header(EntryType::Regular, 0o600);
    header.set_size(finish.len() as u64);
    archive.append_data(&mut header, FINISH, finish.as_bytes())?;
    archive.into_inner()
}

/// Where the guest puts a file first.
fn place_of(path: &TreePath) -> Vec<u8> {
    let account = ACCOUNTS
        .iter()
        .find(|name| path.as_bytes() == name.as_bytes());
    match account.and_then(|name| name.strip_prefix("etc/")) {
        Some(name) => format!("{MERGED}/{name}").into_bytes(),
        None => path.as_bytes().to_vec(),
    }
}

fn add(
    archive: &mut Builder<Vec<u8>>,
    path: &[u8],
    entry: &Entry,
    bytes: &ChunkBytes,
) -> io::Result<()> {
    let path = std::str::from_utf8(path).map_err(invalid)?;
    let attrs = &entry.attrs;
    let fill = |kind: EntryType| {
        let mut header = header(kind, attrs.mode);
        header.set_uid(attrs.uid.into());
        header.set_gid(attrs.gid.into());
        header.set_mtime(u64::try_from(attrs.mtime.seconds).unwrap_or(0));
        header
    };
    match &entry.kind {
        Kind::File(content) => {
            let content = content_of(content, bytes)?;
            let mut header = fill(EntryType::Regular);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, &content[..])
        }
        Kind::Directory => archive.append_data(&mut fill(EntryType::Directory), path, io::empty()),
        Kind::Symlink(target) => {
            let target = std::str::from_utf8(target).map_err(invalid)?;
            archive.append_link(&mut fill(EntryType::Symlink), path, target)
        }
        // Nothing else is part of an identity, but for what it removes.
        _ => Ok(()),
    }
}

fn header(kind: EntryType, mode: u16) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode.into());
    header.set_size(0);
    header
}

fn content_of(content: &Content, bytes: &ChunkBytes) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    for extent in content.extents() {
        match extent {
            Extent::Hole { len } => all.resize(all.len() + *len as usize, 0),
            Extent::Chunk { id, .. } => {
                let missing = || io::Error::new(io::ErrorKind::NotFound, format!("chunk {id}"));
                all.extend_from_slice(bytes.get(id).ok_or_else(missing)?);
            }
        }
    }
    Ok(all)
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
