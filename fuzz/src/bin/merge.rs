//! Three versions of a file that merges by record: of the base and of two layers made on it. First which file
//! (1 byte), then the versions; an empty one is a layer without the file.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use shale_fuzz::split;
use shale_image::merge::{ChunkBytes, NamedLayer, StackLayer, merge, need};
use shale_model::limits::MAX_CHUNK_BYTES;
use shale_model::{
    Attrs, ChunkId, Content, Entry, Extent, Kind, LayerDir, LayerId, Name, TreeLayer, TreePath,
    compose,
};

/// One file for each format of the table in store/image/src/merge/rules.rs.
const FILES: [&[u8]; 12] = [
    b"etc/passwd",
    b"etc/group",
    b"etc/shadow",
    b"etc/gshadow",
    b"etc/subuid",
    b"etc/shells",
    b"etc/ld.so.cache",
    b"var/lib/dpkg/status",
    b"var/lib/dpkg/diversions",
    b"var/lib/dpkg/statoverride",
    b"var/cache/debconf/config.dat",
    b"var/lib/ucf/registry",
];

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nweb:x:100:100::/:/bin/false\n";
const GROUP: &[u8] = b"root:x:0:\nweb:x:100:\nadm:x:4:web\n";

fuzz_target!(|data: &[u8]| {
    let Some((file, versions)) = data.split_first() else {
        return;
    };
    let file = FILES[usize::from(*file) % FILES.len()];
    let mut bytes = ChunkBytes::new();
    let [base, one, two] = split::<3>(versions);
    let base_files = [(FILES[0], PASSWD), (FILES[1], GROUP), (file, base)];
    let base = layer(&base_files, &mut bytes);
    let [one, two] = [one, two].map(|version| layer(&[(file, version)], &mut bytes));
    let named = |name: &[u8], tree| NamedLayer {
        id: LayerId::of(name),
        tree,
    };
    let (base, one, two) = (named(b"base", &base), named(b"1", &one), named(b"2", &two));
    check(&[on(base, &[]), on(one, &[base]), on(two, &[base])], &bytes);
    check(&[on(base, &[]), on(two, &[base]), on(one, &[base])], &bytes);
});

fn on<'a>(layer: NamedLayer<'a>, made_on: &[NamedLayer<'a>]) -> StackLayer<'a> {
    let made_on = made_on.to_vec();
    StackLayer { layer, made_on }
}

fn check(stack: &[StackLayer<'_>], bytes: &ChunkBytes) {
    for id in need(stack) {
        assert!(
            bytes.contains_key(&id),
            "a chunk is needed that no layer has"
        );
    }
    let Ok(merged) = merge(stack, bytes) else {
        return;
    };
    for (id, bytes) in &merged.synthetic {
        assert_eq!(*id, ChunkId::of(bytes));
    }
    for (id, len) in merged.trees().flat_map(TreeLayer::chunks) {
        let bytes = bytes.get(&id).or_else(|| merged.synthetic.get(&id));
        assert_eq!(bytes.map(Vec::len), Some(len as usize));
    }
    if merged.conflicts.is_empty() {
        compose(merged.trees()).expect("what merges without conflict composes");
    }
    assert_eq!(merge(stack, bytes).as_ref(), Ok(&merged));
}

/// A layer of these files; of two of one name the last.
fn layer(files: &[(&[u8], &[u8])], bytes: &mut ChunkBytes) -> TreeLayer {
    let mut dirs: BTreeMap<TreePath, BTreeMap<Name, Entry>> = BTreeMap::new();
    for (file, content) in files.iter().filter(|(_, content)| !content.is_empty()) {
        let path = TreePath::new(file).expect("a path");
        let (dir, name) = path.split().expect("not the root");
        let extent = |chunk: &[u8]| {
            let id = ChunkId::of(chunk);
            bytes.insert(id, chunk.to_vec());
            let len = chunk.len() as u32;
            Extent::Chunk { id, len }
        };
        let extents = content.chunks(MAX_CHUNK_BYTES).map(extent).collect();
        let kind = Kind::File(Content::new(extents).expect("possible lengths"));
        let attrs = Attrs::default();
        let entry = Entry {
            name: name.clone(),
            attrs,
            kind,
        };
        dirs.entry(dir).or_default().insert(name, entry);
    }
    let dir = |(path, entries): (TreePath, BTreeMap<Name, Entry>)| LayerDir {
        path,
        entries: entries.into_values().collect(),
    };
    TreeLayer {
        root: None,
        dirs: dirs.into_iter().map(dir).collect(),
    }
}
