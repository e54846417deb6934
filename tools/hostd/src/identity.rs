//! What makes an instance a machine of its own, and the disk with it in place.

use std::collections::HashMap;
use std::io;

use memmap2::MmapMut;
use shale_image::identity::{self, ExtraFile, HostKey, Identity, Login, Network};
use shale_image::merge::ChunkBytes;
use shale_model::{ChunkId, Extent, Mtime, NodeData, Template, TemplateId, Tree, TreeLayer};
use shale_view::PlanFile;

use crate::compose::{ComposeError, Composed, Composer};
use crate::keys::{SshKey, random};

/// A new identity, and how SSH clients will know it.
pub(crate) struct NewIdentity {
    pub(crate) identity: Identity,
    /// The public host key, as a line of `known_hosts` without the name.
    pub(crate) host_key: String,
}

/// An identity of the system's randomness.
///
/// `seconds` is the time of its files, since 1970.
pub(crate) fn new_identity(
    hostname: &str,
    user: &str,
    authorized_keys: Vec<String>,
    seconds: u64,
) -> io::Result<NewIdentity> {
    let mut machine_id = [0; 16];
    random(&mut machine_id)?;
    // As machine-id(5) wants them: of version 4, which is also never zero.
    machine_id[6] = machine_id[6] & 0x0f | 0x40;
    machine_id[8] = machine_id[8] & 0x3f | 0x80;
    let key = SshKey::generate(&format!("root@{hostname}"))?;
    let host_key = key.public.clone();
    let identity = Identity {
        hostname: hostname.to_owned(),
        machine_id,
        ssh_host_keys: vec![HostKey {
            name: "ssh_host_ed25519_key".into(),
            private: key.private,
            public: format!("{}\n", key.public).into_bytes(),
        }],
        login: Some(Login {
            user: user.to_owned(),
            uid: None,
            authorized_keys,
        }),
        network: Network::Dhcp,
        time: Mtime {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: 0,
        },
    };
    Ok(NewIdentity { identity, host_key })
}

/// What stands for an identity in a machine that waits for one: nothing of it is anybody's.
/// Keys may log in as `user` later, who so has a place for them.
pub(crate) fn no_identity(user: &str, seconds: u64) -> io::Result<Identity> {
    let new = new_identity("localhost", user, vec![], seconds)?;
    Ok(Identity {
        ssh_host_keys: vec![],
        ..new.identity
    })
}

impl Composer {
    /// The plan of a template with an identity, on a disk of `disk_bytes`. It holds private keys: it is
    /// never written to a file, and lives in memory of its own.
    pub(crate) fn plan_with_identity(
        &self,
        id: TemplateId,
        template: &Template,
        disk_bytes: u64,
        identity: &Identity,
    ) -> Result<PlanFile, ComposeError> {
        self.plan_with_files(id, template, disk_bytes, (identity, &[]))
    }

    /// The same with files besides the identity.
    pub(crate) fn plan_with_files(
        &self,
        id: TemplateId,
        template: &Template,
        disk_bytes: u64,
        (identity, more): (&Identity, &[ExtraFile]),
    ) -> Result<PlanFile, ComposeError> {
        let apply =
            |tree: &Tree, synthetic: &ChunkBytes| self.apply(tree, synthetic, identity, more);
        let composed = self.compose_with(template, apply)?;
        let parts = self.lay_out(id, template, disk_bytes, &composed)?;
        in_memory(&parts.encode().1)
    }

    /// A template with an identity as one tree.
    pub(crate) fn compose_as(
        &self,
        template: &Template,
        identity: &Identity,
    ) -> Result<Composed, ComposeError> {
        let apply =
            |tree: &Tree, synthetic: &ChunkBytes| self.apply(tree, synthetic, identity, &[]);
        self.compose_with(template, apply)
    }

    /// The plan of a template on a disk of `disk_bytes`, in memory.
    pub(crate) fn plan_of_size(
        &self,
        id: TemplateId,
        template: &Template,
        disk_bytes: u64,
    ) -> Result<PlanFile, ComposeError> {
        let composed = self.compose(template)?;
        let parts = self.lay_out(id, template, disk_bytes, &composed)?;
        in_memory(&parts.encode().1)
    }

    /// The layer that gives a tree an identity and more files, and the bytes that it makes.
    pub(crate) fn apply(
        &self,
        tree: &Tree,
        synthetic: &ChunkBytes,
        identity: &Identity,
        more: &[ExtraFile],
    ) -> Result<(TreeLayer, ChunkBytes), ComposeError> {
        let wanted = identity::need(tree);
        let lengths = lengths(tree);
        let stored = wanted.iter().filter(|id| !synthetic.contains_key(id));
        let stored: Vec<(ChunkId, u32)> = stored
            .filter_map(|id| Some((*id, *lengths.get(id)?)))
            .collect();
        let mut bytes = self.read_chunks(&stored)?;
        let made = wanted.iter().filter_map(|id| synthetic.get_key_value(id));
        bytes.extend(made.map(|(id, bytes)| (*id, bytes.clone())));
        let applied = identity::apply_with(tree, &bytes, identity, more)?;
        Ok((applied.layer, applied.synthetic))
    }
}

/// Plain lengths of the chunks of a tree.
fn lengths(tree: &Tree) -> HashMap<ChunkId, u32> {
    let files = tree.nodes().iter().filter_map(|node| match &node.data {
        NodeData::File(content) => Some(content.extents()),
        _ => None,
    });
    let chunks = files.flatten().filter_map(|extent| match extent {
        Extent::Chunk { id, len } => Some((*id, *len)),
        Extent::Hole { .. } => None,
    });
    chunks.collect()
}

/// A plan in anonymous memory.
fn in_memory(bytes: &[u8]) -> Result<PlanFile, ComposeError> {
    let mut map = MmapMut::map_anon(bytes.len()).map_err(ComposeError::Memory)?;
    map.copy_from_slice(bytes);
    let map = map.make_read_only().map_err(ComposeError::Memory)?;
    PlanFile::open(map).map_err(|source| ComposeError::Format {
        what: "the plan of an instance".into(),
        source,
    })
}
