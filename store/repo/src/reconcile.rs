//! Index and packs brought together again.

use std::collections::BTreeSet;

use shale_files::{Files, LockFiles, OpenMode};
use shale_model::{ChunkIndex, PackContents, PackId, SeamError, SeamResult};

use crate::packs::{PackFault, list_packs, read_pack_contents};
use crate::paths;
use crate::trouble::not_read;

/// What was found and done when the index was compared with the packs.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Packs that were there and that the index did not know: their pusher died before it could tell,
    /// or the index is new. It knows them now.
    pub added: Vec<PackId>,
    /// Packs that the index knew and that are gone. It has forgotten them.
    pub lost: Vec<PackId>,
    /// Packs whose header or footer is damaged, with the fault; the index does not know them.
    pub damaged: Vec<(PackId, SeamError)>,
}

/// Tells `index` about packs that it does not know, and makes it forget those that are gone. Safe while
/// others push: costs a listing, and the footers of new packs.
pub(crate) fn reconcile(files: &dyn LockFiles, index: &dyn ChunkIndex) -> SeamResult<Reconciled> {
    // The index is asked first: every pack that it knows by then has its file already.
    let known: BTreeSet<PackId> = index.packs()?.into_iter().collect();
    let there: BTreeSet<PackId> = list_packs(files)?.into_iter().collect();
    let mut done = Reconciled::default();
    for &pack in known.difference(&there) {
        index.remove_pack(pack)?;
        done.lost.push(pack);
    }
    for &pack in there.difference(&known) {
        match contents_of(files, pack) {
            Ok(contents) => {
                index.add_pack(pack, &contents)?;
                done.added.push(pack);
            }
            Err(fault) => done.damaged.push((pack, fault)),
        }
    }
    Ok(done)
}

fn contents_of(files: &dyn Files, pack: PackId) -> SeamResult<PackContents> {
    let file = files.open(&paths::pack(pack), OpenMode::Read);
    let file = file.map_err(|error| not_read(format!("read pack {pack}"), error))?;
    read_pack_contents(&*file).map_err(|fault: PackFault| fault.of(pack))
}
