//! Boot sets: traces of boots are merged, and what they have in common is packed again in their order.
//!
//! All of it is made of what lies elsewhere: without it, hosts boot as well, only slower.

use std::collections::HashSet;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shale_files::{FileError, TempFile, put_durably, read_file};
use shale_model::{
    BootSet, BootSets, BoxFuture, Catalog, ChunkId, Codec, FrameEncoder, ID_LEN, LayerChecker,
    LayerRoot, MAX_TRACE_CHUNKS, MAX_TRACES, PackContents, PackId, SeamError, SeamResult, Template,
    TemplateId, Trouble, limits::MAX_LAYERS, merge_traces, pack_header,
};

use crate::packs::read_pack_contents;
use crate::paths;
use crate::repository::Repository;
use crate::trouble::{failed, not_read};

/// Plain bytes of a frame, unless one chunk has more: a read that is waited for brings one.
const FRAME_BYTES: usize = 256 << 10;

/// Stored bytes at which a boot set ends: many times what an operating system reads until it is ready.
const MAX_BOOT_SET_BYTES: u64 = 512 << 20;

/// A boot set is made again when more than one in so many of its chunks changed.
const CHANGED_SHARE: usize = 20;

/// Largest record of a boot set.
const MAX_RECORD_BYTES: usize = 4096;

/// Which boot set a template has.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: String,
    pack: PackId,
    /// The one before, which hosts may still be reading.
    previous: Option<PackId>,
}

const FORMAT: &str = "shale.boot-set.v1";

impl BootSets for Repository {
    fn boot_set(&self, template: TemplateId) -> BoxFuture<'_, SeamResult<Option<BootSet>>> {
        Box::pin(async move { self.find_boot_set(template) })
    }

    fn add_trace<'a>(
        &'a self,
        template: TemplateId,
        chunks: &'a [ChunkId],
    ) -> BoxFuture<'a, SeamResult<()>> {
        Box::pin(async move { self.take_trace(template, chunks) })
    }
}

impl Repository {
    fn find_boot_set(&self, template: TemplateId) -> SeamResult<Option<BootSet>> {
        if let Some(found) = self.own_boot_set(template)? {
            return Ok(Some(found));
        }
        // Upper layers are made on lower ones: who shares one of them shares those below.
        let decoded = match self.decoded(template) {
            Err(error) if error.trouble == Trouble::NotFound => return Ok(None),
            decoded => decoded?,
        };
        for layer in decoded.layers.iter().rev() {
            let path = paths::boot_set_of_layer(layer.id);
            let hex = match read_file(&*self.files, &path, 2 * ID_LEN) {
                Ok(hex) => hex,
                Err(error) if error.is_missing() => continue,
                Err(error) => return Err(not_read("look for a boot set", error)),
            };
            let hex = std::str::from_utf8(&hex).unwrap_or_default();
            if let Ok(nearest) = TemplateId::from_hex(hex)
                && let Some(found) = self.own_boot_set(nearest)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn own_boot_set(&self, template: TemplateId) -> SeamResult<Option<BootSet>> {
        let Some(record) = self.record(template)? else {
            return Ok(None);
        };
        let contents = self.boot_contents(record.pack)?;
        Ok(contents.map(|contents| BootSet {
            template,
            pack: record.pack,
            footer_offset: contents.frames_end(),
            pack_bytes: contents.pack_bytes(),
        }))
    }

    fn record(&self, template: TemplateId) -> SeamResult<Option<Record>> {
        let action = || format!("read the boot set of template {template}");
        match read_file(&*self.files, &paths::boot_set(template), MAX_RECORD_BYTES) {
            // A record that is damaged is replaced with the next trace.
            Ok(json) => Ok(serde_json::from_slice(&json)
                .ok()
                .filter(|record: &Record| record.format == FORMAT)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(not_read(action(), error)),
        }
    }

    /// What the pack of a boot set holds; `None` if it is gone or damaged.
    fn boot_contents(&self, pack: PackId) -> SeamResult<Option<PackContents>> {
        match self.open_pack(pack) {
            Ok(file) => Ok(read_pack_contents(&*file).ok()),
            Err(error) if error.trouble == Trouble::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn take_trace(&self, template: TemplateId, chunks: &[ChunkId]) -> SeamResult<()> {
        if chunks.len() > MAX_TRACE_CHUNKS {
            let action = format!(
                "take a trace of {} chunks; the limit is {MAX_TRACE_CHUNKS}",
                chunks.len()
            );
            return Err(SeamError::new(Trouble::Invalid, action));
        }
        let decoded = self.decoded(template)?;
        let _alone = self
            .making_boot_set
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut left = self.content_of(&decoded)?;
        // Each once, and none of another template: who may read one shall not learn of others.
        let own: Vec<ChunkId> = chunks
            .iter()
            .copied()
            .filter(|id| left.remove(id))
            .collect();
        if own.is_empty() {
            return Ok(());
        }
        let traces = self.keep_trace(template, &own)?;
        let wanted = merge_traces(&traces);
        let record = self.record(template)?;
        let had = match &record {
            Some(record) => self.boot_contents(record.pack)?,
            None => None,
        };
        if had.is_some_and(|had| hardly_changed(&had, &wanted)) {
            return Ok(());
        }
        let pack = self.pack_boot_set(&wanted)?;
        self.publish_boot_set(template, &decoded, pack, record)
    }

    fn decoded(&self, template: TemplateId) -> SeamResult<Template> {
        let json = self.template(template)?;
        let decoded = Template::decode(&json);
        decoded.map_err(|error| {
            SeamError::caused(
                Trouble::Integrity,
                format!("read template {template}"),
                error,
            )
        })
    }

    /// The chunks of a template's files.
    fn content_of(&self, template: &Template) -> SeamResult<HashSet<ChunkId>> {
        let mut content = HashSet::new();
        for layer in template.layers.iter().take(MAX_LAYERS) {
            let damaged = |error| {
                let action = format!("read layer {}", layer.id);
                SeamError::caused(Trouble::Integrity, action, error)
            };
            let root = LayerRoot::decode(&self.layer(layer.id)?).map_err(damaged)?;
            let mut checker = LayerChecker::new(&root);
            for page in &root.pages {
                let chunks = checker.push(&self.chunk(page.id)?).map_err(damaged)?;
                content.extend(chunks.into_iter().map(|(id, _)| id));
            }
        }
        Ok(content)
    }

    /// Stores a trace, forgets the oldest, and gives those that count.
    fn keep_trace(&self, template: TemplateId, trace: &[ChunkId]) -> SeamResult<Vec<Vec<ChunkId>>> {
        let action = || format!("keep a trace of template {template}");
        let dir = paths::traces(template);
        let entries = match self.files.list(&dir) {
            Ok(entries) => entries,
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => return Err(failed(action(), error)),
        };
        let numbers = entries.iter().filter_map(|entry| entry.name.parse().ok());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        let next = numbers.last().map_or(0, |last| last.saturating_add(1));
        let bytes: Vec<u8> = trace.iter().flat_map(|id| *id.as_bytes()).collect();
        let path = paths::trace(template, next);
        put_durably(&*self.files, &self.session.temp(), &path, |file| {
            file.write_at(0, &bytes)
        })
        .map_err(|error: FileError| failed(action(), error))?;
        let old = numbers.len().saturating_sub(MAX_TRACES - 1);
        for number in numbers.drain(..old) {
            // Best effort: one that stays goes the next time.
            let _ = self.files.remove(&paths::trace(template, number));
        }
        let mut traces = vec![trace.to_vec()];
        for number in numbers {
            // One that cannot be read counts as none.
            let path = paths::trace(template, number);
            if let Ok(bytes) = read_file(&*self.files, &path, MAX_TRACE_CHUNKS * ID_LEN) {
                let (ids, _) = bytes.as_chunks::<ID_LEN>();
                traces.push(ids.iter().map(|id| ChunkId::from_bytes(*id)).collect());
            }
        }
        Ok(traces)
    }

    /// Packs these chunks in this order, up to [`MAX_BOOT_SET_BYTES`].
    fn pack_boot_set(&self, wanted: &[ChunkId]) -> SeamResult<PackId> {
        let begin = |error| failed("begin a boot set", error);
        let temp = TempFile::create(&*self.files, self.session.temp()).map_err(begin)?;
        let mut pack = BootPack {
            temp: &temp,
            hash: Sha256::new(),
            size: 0,
            contents: PackContents::default(),
            encoder: FrameEncoder::new()
                .map_err(|error| SeamError::caused(Trouble::Failed, "begin a boot set", error))?,
        };
        pack.write(&pack_header())?;
        let mut frame: Vec<(ChunkId, Vec<u8>)> = Vec::new();
        for id in wanted {
            let bytes: usize = frame.iter().map(|(_, chunk)| chunk.len()).sum();
            let chunk = self.chunk(*id)?;
            if !frame.is_empty() && bytes + chunk.len() > FRAME_BYTES {
                pack.frame(&std::mem::take(&mut frame))?;
            }
            if pack.size > MAX_BOOT_SET_BYTES {
                break;
            }
            frame.push((*id, chunk));
        }
        if !frame.is_empty() {
            pack.frame(&frame)?;
        }
        let tail = pack.contents.encode_tail();
        pack.write(&tail)?;
        let id = PackId::from_bytes(pack.hash.finalize().into());
        let published = temp.publish(&paths::boot_pack(id));
        published.map_err(|error| failed("store a boot set", error))?;
        Ok(id)
    }

    fn publish_boot_set(
        &self,
        template: TemplateId,
        decoded: &Template,
        pack: PackId,
        before: Option<Record>,
    ) -> SeamResult<()> {
        let (previous, oldest) = match before {
            Some(before) if before.pack == pack => (before.previous, None),
            Some(before) => (Some(before.pack), before.previous),
            None => (None, None),
        };
        let record = Record {
            format: FORMAT.to_owned(),
            pack,
            previous,
        };
        let json = serde_json::to_vec(&record)
            .map_err(|error| SeamError::caused(Trouble::Failed, "name a boot set", error))?;
        let put = |path, bytes: &[u8]| {
            let put = put_durably(&*self.files, &self.session.temp(), &path, |file| {
                file.write_at(0, bytes)
            });
            put.map_err(|error: FileError| failed("name a boot set", error))
        };
        put(paths::boot_set(template), &json)?;
        for layer in &decoded.layers {
            put(
                paths::boot_set_of_layer(layer.id),
                template.hex().as_bytes(),
            )?;
        }
        if let Some(oldest) = oldest.filter(|oldest| *oldest != pack) {
            // Another template may have the same: its hosts do without.
            let _ = self.files.remove(&paths::boot_pack(oldest));
        }
        Ok(())
    }
}

/// Whether a boot set is still good enough for what boots want.
fn hardly_changed(had: &PackContents, wanted: &[ChunkId]) -> bool {
    let had: HashSet<ChunkId> = had.chunks().iter().map(|chunk| chunk.id).collect();
    let wanted: HashSet<ChunkId> = wanted.iter().copied().collect();
    had.symmetric_difference(&wanted).count() * CHANGED_SHARE <= had.len()
}

/// The pack of a boot set while it is written.
struct BootPack<'a> {
    temp: &'a TempFile<'a>,
    hash: Sha256,
    size: u64,
    contents: PackContents,
    encoder: FrameEncoder,
}

impl BootPack<'_> {
    fn write(&mut self, bytes: &[u8]) -> SeamResult<()> {
        let written = self.temp.file().write_at(self.size, bytes);
        written.map_err(|error| failed("write a boot set", error))?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn frame(&mut self, chunks: &[(ChunkId, Vec<u8>)]) -> SeamResult<()> {
        let ids: Vec<(ChunkId, u32)> = chunks
            .iter()
            .map(|(id, bytes)| (*id, bytes.len() as u32))
            .collect();
        let plain: Vec<u8> = chunks
            .iter()
            .flat_map(|(_, bytes)| bytes)
            .copied()
            .collect();
        let packed = self.encoder.compress(&plain);
        let packed =
            packed.map_err(|error| SeamError::caused(Trouble::Failed, "pack a boot set", error))?;
        let (codec, stored) = match packed {
            Some(stored) => (Codec::Zstd, stored),
            None => (Codec::Plain, plain),
        };
        self.contents.push_frame(codec, stored.len() as u32, &ids);
        self.write(&stored)
    }
}
