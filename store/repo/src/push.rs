//! A push into the repository.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use shale_files::TempFile;
use shale_model::limits::MAX_PACK_BYTES;
use shale_model::{
    ChunkId, LayerChecker, LayerId, LayerRoot, MAX_MISSING_IDS, PackContents, PackId, PackWriter,
    RefName, SeamError, SeamResult, Sink, Template, TemplateId, TemplateIndex, Trouble,
};

use crate::packs::{read_pack_contents, verify_pack};
use crate::paths;
use crate::repository::{Repository, check_count, layer_manifest, template_manifest};
use crate::trouble::failed;

/// One push. While it lives the repository is in shared use, so that nothing is deleted: what it was
/// told to be present stays (I11). Several may run at once, of the same things too.
pub struct Push {
    repository: Arc<Repository>,
}

impl Push {
    pub(crate) fn new(repository: Arc<Repository>) -> Self {
        Self { repository }
    }

    /// Begins a pack from somebody who is not trusted: it is checked as a whole, chunk by chunk.
    pub fn receive_pack(&self) -> SeamResult<PackReceiver<'_>> {
        IncomingPack::begin(&self.repository).map(PackReceiver)
    }

    /// Checks that each chunk is present with this length, which is what its reader will count on.
    fn check_present(&self, chunks: &[(ChunkId, u32)], action: &str) -> SeamResult<()> {
        for batch in chunks.chunks(MAX_MISSING_IDS) {
            let ids: Vec<ChunkId> = batch.iter().map(|(id, _)| *id).collect();
            let found = self.repository.index.get(&ids)?;
            for ((id, len), location) in batch.iter().zip(found) {
                let problem = match location {
                    Some(location) if location.len == *len => continue,
                    Some(_) => (Trouble::Invalid, "has another length than the layer says"),
                    None => (Trouble::Conflict, "is not in the repository"),
                };
                let action = format!("{action}: chunk {id} {}", problem.1);
                return Err(SeamError::new(problem.0, action));
            }
        }
        Ok(())
    }
}

impl Sink for Push {
    fn missing(&self, ids: &[ChunkId]) -> SeamResult<Vec<bool>> {
        check_count(ids)?;
        let found = self.repository.index.get(ids)?;
        Ok(found.iter().map(Option::is_none).collect())
    }

    fn new_pack(&self) -> SeamResult<Box<dyn PackWriter + '_>> {
        Ok(Box::new(IncomingPack::begin(&self.repository)?))
    }

    fn put_layer(&self, root: &[u8]) -> SeamResult<LayerId> {
        let id = LayerId::of(root);
        let action = format!("store layer {id}");
        let invalid = |error| SeamError::caused(Trouble::Invalid, action.clone(), error);
        let decoded = LayerRoot::decode(root).map_err(invalid)?;
        let pages: Vec<_> = decoded.pages.iter().map(|p| (p.id, p.len)).collect();
        self.check_present(&pages, &action)?;
        let mut checker = LayerChecker::new(&decoded);
        for page in &decoded.pages {
            let bytes = self.repository.chunk(page.id)?;
            let chunks = checker.push(&bytes).map_err(invalid)?;
            self.check_present(&chunks, &action)?;
        }
        checker.finish().map_err(invalid)?;
        let (files, session) = (&*self.repository.files, &self.repository.session);
        layer_manifest(id).write(files, session, root)?;
        Ok(id)
    }

    fn put_template(&self, json: &[u8]) -> SeamResult<TemplateId> {
        let id = TemplateId::of(json);
        let action = format!("store template {id}");
        let template = Template::decode(json)
            .map_err(|error| SeamError::caused(Trouble::Invalid, action.clone(), error))?;
        // The layers that a layer was made on are needed as well: merging compares with them.
        let layers = template.layers.iter();
        for layer in layers.flat_map(|layer| layer.made_on.iter().chain([&layer.id])) {
            let read = layer_manifest(*layer).read(&*self.repository.files, |bytes| {
                LayerId::of(bytes) == *layer
            });
            read.map_err(|error| depends(&action, error))?;
        }
        let (files, session) = (&*self.repository.files, &self.repository.session);
        template_manifest(id).write(files, session, json)?;
        Ok(id)
    }

    fn set_ref(
        &self,
        name: &RefName,
        expected: Option<&TemplateIndex>,
        new: &TemplateIndex,
    ) -> SeamResult<()> {
        for entry in new.entries() {
            let id = entry.template;
            let read = template_manifest(id)
                .read(&*self.repository.files, |bytes| TemplateId::of(bytes) == id);
            read.map_err(|error| depends(&format!("set reference {name}"), error))?;
        }
        self.repository.refs.compare_and_set(name, expected, new)
    }
}

/// The error of something that `action` depends on: that it is missing is a conflict.
fn depends(action: &str, error: SeamError) -> SeamError {
    let trouble = match error.trouble {
        Trouble::NotFound => Trouble::Conflict,
        other => other,
    };
    SeamError::caused(trouble, action, error)
}

/// A pack on its way: hashed while it is written into a temp file.
struct IncomingPack<'a> {
    repository: &'a Repository,
    temp: TempFile<'a>,
    size: u64,
    hash: Sha256,
}

impl<'a> IncomingPack<'a> {
    fn begin(repository: &'a Repository) -> SeamResult<Self> {
        let temp = TempFile::create(&*repository.files, repository.session.temp())
            .map_err(|error| failed("begin a pack", error))?;
        Ok(Self {
            repository,
            temp,
            size: 0,
            hash: Sha256::new(),
        })
    }

    fn append(&mut self, bytes: &[u8]) -> SeamResult<()> {
        let end = self.size.saturating_add(bytes.len() as u64);
        if end > MAX_PACK_BYTES {
            let action = format!("write a pack of more than {MAX_PACK_BYTES} bytes");
            return Err(SeamError::new(Trouble::Invalid, action));
        }
        let written = self.temp.file().write_at(self.size, bytes);
        written.map_err(|error| failed("write a pack", error))?;
        self.hash.update(bytes);
        self.size = end;
        Ok(())
    }

    fn check_id(&mut self, id: PackId) -> SeamResult<()> {
        let found = PackId::from_bytes(self.hash.finalize_reset().into());
        if found == id {
            return Ok(());
        }
        let action = format!("check pack {id}: its bytes are {found}");
        Err(SeamError::new(Trouble::Integrity, action))
    }

    /// Makes the pack durable, then known to the index.
    fn publish(self, id: PackId, contents: &PackContents) -> SeamResult<()> {
        self.temp
            .publish(&paths::pack(id))
            .map_err(|error| failed(format!("store pack {id}"), error))?;
        self.repository.index.add_pack(id, contents)
    }
}

/// A pack of this process, whose packer hashed every chunk.
impl PackWriter for IncomingPack<'_> {
    fn write(&mut self, bytes: &[u8]) -> SeamResult<()> {
        self.append(bytes)
    }

    fn finish(mut self: Box<Self>, id: PackId, contents: PackContents) -> SeamResult<()> {
        self.check_id(id)?;
        let found = read_pack_contents(self.temp.file()).map_err(|fault| fault.of(id))?;
        if found != contents {
            let action = format!("check pack {id}: its footer says something else than its sender");
            return Err(SeamError::new(Trouble::Invalid, action));
        }
        self.publish(id, &contents)
    }
}

/// A pack from somebody who is not trusted. Dropping it unfinished leaves nothing behind.
pub struct PackReceiver<'a>(IncomingPack<'a>);

impl PackReceiver<'_> {
    /// Appends bytes of the pack file.
    pub fn write(&mut self, bytes: &[u8]) -> SeamResult<()> {
        self.0.append(bytes)
    }

    /// Ends the pack: checks it against `id`, decompresses every frame and hashes every chunk, and
    /// only then stores it durably. What is wrong with the bytes is [`Trouble::Integrity`].
    pub fn finish(mut self, id: PackId) -> SeamResult<PackContents> {
        self.0.check_id(id)?;
        let contents = verify_pack(self.0.temp.file()).map_err(|fault| fault.of(id))?;
        self.0.publish(id, &contents)?;
        Ok(contents)
    }
}
