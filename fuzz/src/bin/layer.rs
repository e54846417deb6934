//! A layer: its root, and up to three pages, whose ids and lengths are mended in the root.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale_fuzz::split;
use shale_model::{ChunkId, LayerChecker, LayerDecoder, LayerEncoder, LayerRoot, compose};

fuzz_target!(|data: &[u8]| {
    let [root, pages @ ..] = split::<4>(data);
    let Ok(mut root) = LayerRoot::decode(root) else {
        return;
    };
    let pages = &pages[..pages.len().min(root.pages.len())];
    for (page, bytes) in root.pages.iter_mut().zip(pages) {
        (page.id, page.len) = (ChunkId::of(bytes), bytes.len() as u32);
    }
    assert_eq!(LayerRoot::decode(&root.encode()).as_ref(), Ok(&root));
    let mut checker = LayerChecker::new(&root);
    let checked: Result<Vec<_>, _> = pages.iter().map(|page| checker.push(page)).collect();
    let checked = checked.and_then(|chunks| checker.finish().map(|()| chunks.concat()));
    let tree = LayerDecoder::decode(&root, pages.iter().copied());
    assert_eq!(checked.is_ok(), tree.is_ok());
    let Ok(tree) = tree else {
        return;
    };
    assert_eq!(checked, Ok(tree.chunks().collect()));
    // Pages may be cut elsewhere than our encoder does, but an encoder's are read as the same tree.
    let (pages, root) =
        LayerEncoder::encode(&tree, root.chunker).expect("what was read is in order");
    let again = LayerDecoder::decode(&root, pages.iter().map(|page| &page.bytes[..]));
    assert_eq!(again.as_ref(), Ok(&tree));
    if let Ok(tree) = compose(&[tree]) {
        tree.walk().for_each(drop);
    }
});
