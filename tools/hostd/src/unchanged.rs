//! Which files of a guest are those of its template, without looking at their content: it need not be here.

use std::collections::HashMap;
use std::sync::Arc;

use shale_image::{Replayed, TreeInode, TreeReader, TreeShape};
use shale_model::limits::BLOCK_BYTES;
use shale_model::{Content, FormatError, NodeData, NodeId, Plan, Tree};
use shale_view::{Overlay, PlanFile};

use crate::guest_disk::{GuestDisk, GuestDiskError};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// The files of a template as they lie on the disk of its plan.
pub(crate) struct Unchanged<'a> {
    tree: &'a Tree,
    plan: &'a PlanFile,
    shape: TreeShape,
    /// What each inode of the plan is in the tree.
    nodes: HashMap<u32, NodeId>,
    /// What the guest wrote.
    overlay: Arc<Overlay>,
}

impl<'a> Unchanged<'a> {
    /// `tree` was laid out as `plan`, and `overlay` lies on that.
    pub(crate) fn new(
        tree: &'a Tree,
        plan: &'a PlanFile,
        overlay: Arc<Overlay>,
    ) -> Result<Self, FormatError> {
        let shape = TreeShape::of(plan)?;
        Ok(Self {
            tree,
            plan,
            shape,
            nodes: numbers(tree, plan, shape)?,
            overlay,
        })
    }

    /// The content of a file of the guest, if it is one of the template's: it has the same inode, the same blocks, and none
    /// of them was written.
    pub(crate) fn content(
        &self,
        guest: &TreeReader<'_, Replayed<GuestDisk>>,
        disk: &Replayed<GuestDisk>,
        inode: &TreeInode,
    ) -> Result<Option<&'a Content>, GuestDiskError> {
        let Some(node) = self.nodes.get(&inode.number) else {
            return Ok(None);
        };
        let NodeData::File(content) = &self.tree.node(*node).data else {
            return Ok(None);
        };
        let ours = self.shape.tree(self.plan);
        let Some(before) = ours.inode(inode.number)? else {
            return Ok(None);
        };
        if inode.size != before.size || content.size() != inode.size {
            return Ok(None);
        }
        let blocks = inode.size.div_ceil(BLOCK);
        let mut at = 0;
        while at < blocks {
            // A file of the template has at most 2^32 blocks.
            let (now, then) = (guest.run(inode, at as u32)?, ours.run(&before, at as u32)?);
            let len = now.blocks.min(then.blocks).min(blocks - at);
            let is_same = now.start == then.start
                && now
                    .start
                    .is_none_or(|start| self.is_untouched(disk, start, len));
            if !is_same {
                return Ok(None);
            }
            at += len;
        }
        Ok(Some(content))
    }

    /// Whether nothing was written to blocks of the disk.
    fn is_untouched(&self, disk: &Replayed<GuestDisk>, start: u64, blocks: u64) -> bool {
        let runs = self.overlay.runs(start * BLOCK, blocks * BLOCK);
        let is_here = runs.iter().any(|(_, here)| *here);
        !is_here && !(start..start + blocks).any(|block| disk.is_replaced(block))
    }
}

/// The inode numbers of a tree's files in its plan.
fn numbers(
    tree: &Tree,
    plan: &Plan<impl AsRef<[u8]>>,
    shape: TreeShape,
) -> Result<HashMap<u32, NodeId>, FormatError> {
    let reader = shape.tree(plan);
    let mut numbers = HashMap::new();
    let mut pending = vec![(NodeId::ROOT, TreeShape::ROOT)];
    while let Some((directory, number)) = pending.pop() {
        let Some(inode) = reader.inode(number)? else {
            continue;
        };
        for child in tree.children(directory) {
            let Some(number) = reader.lookup(&inode, child.name.as_bytes())? else {
                continue;
            };
            match &tree.node(child.node).data {
                NodeData::Directory(_) => pending.push((child.node, number)),
                NodeData::File(_) => drop(numbers.insert(number, child.node)),
                _ => {}
            }
        }
    }
    Ok(numbers)
}
