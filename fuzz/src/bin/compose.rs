//! Up to four layers of arbitrary entries, composed, laid out on a disk, and the disk's plan read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale_fuzz::LayerFromBytes;
use shale_image::{Layout, LayoutError, default_bytes, identity, lay_out, minimum_bytes};
use shale_model::{
    Chunker, Filesystem, FormatError, LayerDecoder, LayerEncoder, Plan, TemplateId, TreeLayer,
    compose,
};

/// Largest disk whose groups are laid out: their number is what a layout takes time and memory for.
const MOST_DISK_BYTES: u64 = 16 << 30;

fuzz_target!(|input: (u8, Vec<LayerFromBytes>)| {
    let (size, layers) = input;
    let layers: Vec<TreeLayer> = layers.into_iter().take(4).map(|layer| layer.0).collect();
    for layer in &layers {
        let (pages, root) = LayerEncoder::encode(layer, Chunker::FastCdc).expect("in order");
        let pages = pages.iter().map(|page| &page.bytes[..]);
        assert_eq!(LayerDecoder::decode(&root, pages).as_ref(), Ok(layer));
    }
    let Ok(tree) = compose(&layers) else {
        return;
    };
    tree.walk().for_each(drop);
    identity::lint(&tree);
    identity::need(&tree);
    let Ok(minimum) = minimum_bytes(&tree, Filesystem::Ext4V1) else {
        return;
    };
    let default = default_bytes(&tree, Filesystem::Ext4V1).expect("a minimum has a default");
    assert!(minimum <= default);
    let disk_bytes = match size % 4 {
        0 => 0,
        1 => minimum,
        2 => default,
        _ => minimum.saturating_sub(4096),
    };
    if default > MOST_DISK_BYTES {
        return;
    }
    let layout = Layout {
        template: TemplateId::of(b"fuzz"),
        filesystem: Filesystem::Ext4V1,
        disk_bytes,
        uuid: [size; 16],
    };
    let parts = match lay_out(&tree, &layout, &Default::default()) {
        Ok(parts) => parts,
        Err(LayoutError::Node { .. }) => return,
        Err(LayoutError::TooSmall { asked, .. }) if asked < minimum => return,
        Err(error) => panic!("{error}, of {minimum} bytes at least"),
    };
    for pair in parts.runs.windows(2) {
        assert!(pair[0].end_block() <= u64::from(pair[1].block), "{pair:?}");
    }
    let (_, bytes) = parts.encode();
    let plan = Plan::open(bytes).expect("a plan");
    let mut covered = 0;
    let count = |piece: shale_model::Piece<'_>| -> Result<(), FormatError> {
        covered += piece.len();
        Ok(())
    };
    plan.pieces(0, plan.disk_bytes(), count)
        .expect("every piece");
    assert_eq!(covered, plan.disk_bytes());
});
