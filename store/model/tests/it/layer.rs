//! Layers as bytes.

use proptest::prelude::*;
use shale_model::*;

use crate::generate::layers;

fn decode(root: &[u8], pages: &[EncodedPage]) -> Result<TreeLayer, FormatError> {
    let root = LayerRoot::decode(root)?;
    LayerDecoder::decode(&root, pages.iter().map(|page| &page.bytes[..]))
}

/// The chunks that a checker finds in the pages.
fn check(root: &LayerRoot, pages: &[EncodedPage]) -> Result<Vec<(ChunkId, u32)>, FormatError> {
    let mut checker = LayerChecker::new(root);
    let mut chunks = Vec::new();
    for page in pages {
        chunks.extend(checker.push(&page.bytes)?);
    }
    checker.finish().map(|()| chunks)
}

/// A file of `chunks` chunks among small ones.
fn with_large_file(chunks: usize) -> TreeLayer {
    let extents = (0..chunks)
        .map(|n| Extent::Chunk {
            id: ChunkId::of(&n.to_le_bytes()),
            len: 8,
        })
        .collect();
    let file = |name: &str, content| Entry {
        name: Name::new(name.as_bytes()).unwrap(),
        attrs: Attrs::default(),
        kind: Kind::File(content),
    };
    let entries = vec![
        file("a", Content::default()),
        file("large", Content::new(extents).unwrap()),
        file("z", Content::default()),
    ];
    TreeLayer {
        root: None,
        dirs: vec![LayerDir {
            path: TreePath::root(),
            entries,
        }],
    }
}

/// `count` files in directories of a hundred.
fn many(count: usize) -> TreeLayer {
    let mut dirs: Vec<LayerDir> = Vec::new();
    for n in 0..count {
        if n % 100 == 0 {
            let path = TreePath::new(format!("d{:07}", n / 100).as_bytes()).unwrap();
            dirs.push(LayerDir {
                path,
                entries: vec![],
            });
        }
        let name = Name::new(format!("file-{:07}.txt", n).as_bytes()).unwrap();
        let attrs = Attrs {
            mode: 0o644,
            mtime: Mtime {
                seconds: n as i64 / 7,
                nanos: 0,
            },
            ..Attrs::default()
        };
        let extent = Extent::Chunk {
            id: ChunkId::of(&n.to_le_bytes()),
            len: 1 + n as u32 % 9000,
        };
        let kind = Kind::File(Content::new(vec![extent]).unwrap());
        dirs.last_mut()
            .unwrap()
            .entries
            .push(Entry { name, attrs, kind });
    }
    TreeLayer { root: None, dirs }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_encoded_is_decoded(tree in layers(60)) {
        let (pages, root) = LayerEncoder::encode(&tree, Chunker::FastCdc).unwrap();
        prop_assert_eq!(check(&root, &pages), Ok(tree.chunks().collect()));
        prop_assert_eq!(decode(&root.encode(), &pages), Ok(tree));
    }

    #[test]
    fn damaged_bytes_are_an_error(tree in layers(20), at: usize, flip in 1u8..=255) {
        let (mut pages, root) = LayerEncoder::encode(&tree, Chunker::FastCdc).unwrap();
        let mut root_bytes = root.encode();
        let at_root = at % root_bytes.len();
        root_bytes[at_root] ^= flip;
        // A root that still decodes is another layer, never this one.
        prop_assert!(LayerRoot::decode(&root_bytes).map_or(true, |other| other.id() != root.id()));
        if let Some(page) = pages.first_mut() {
            let at = at % page.bytes.len();
            page.bytes[at] ^= flip;
            prop_assert!(decode(&root.encode(), &pages).is_err());
            // The page parser itself is reached when an attacker names the damaged page by its own id.
            let mut forged = root.clone();
            forged.pages[0].id = ChunkId::of(&pages[0].bytes);
            let _ = decode(&forged.encode(), &pages);
        }
    }
}

#[test]
fn a_file_of_many_chunks_spans_pages() {
    let tree = with_large_file(70_000);
    let (pages, root) = LayerEncoder::encode(&tree, Chunker::FastCdc).unwrap();
    assert!(pages.len() > 4);
    assert_eq!(check(&root, &pages), Ok(tree.chunks().collect()));
    // A page that is left out is noticed, though the pages around it name the same file.
    let mut forged = root.clone();
    forged.pages.remove(1);
    let rest = [&pages[..1], &pages[2..]].concat();
    assert!(check(&forged, &rest).is_err());
    assert!(
        pages
            .iter()
            .all(|page| page.bytes.len() <= limits::MAX_PAGE_BYTES)
    );
    assert_eq!(decode(&root.encode(), &pages), Ok(tree));
}

#[test]
fn a_small_change_rewrites_few_pages() {
    let mut tree = many(30_000);
    let (before, _) = LayerEncoder::encode(&tree, Chunker::FastCdc).unwrap();
    tree.dirs[40].entries.remove(17);
    tree.dirs[40].entries[3].attrs.uid = 7;
    let (after, root) = LayerEncoder::encode(&tree, Chunker::FastCdc).unwrap();
    let new = after.iter().filter(|page| !before.contains(page)).count();
    assert!(after.len() >= 8, "{} pages", after.len());
    assert!(new <= 2, "{new} of {} pages are new", after.len());
    assert_eq!(decode(&root.encode(), &after), Ok(tree));
}

#[test]
fn a_directory_of_many_names_is_cut_too() {
    let mut tree = many(100_000);
    let entries = tree.dirs.drain(..).flat_map(|dir| dir.entries).collect();
    tree.dirs = vec![LayerDir {
        path: TreePath::root(),
        entries,
    }];
    let (pages, root) = LayerEncoder::encode(&tree, Chunker::FastCdc).unwrap();
    assert!(
        pages
            .iter()
            .all(|page| page.bytes.len() <= limits::MAX_PAGE_BYTES)
    );
    assert_eq!(decode(&root.encode(), &pages), Ok(tree));
}

#[test]
fn entries_out_of_order_are_refused() {
    let tree = many(2);
    let dir = &tree.dirs[0];
    let mut encoder = LayerEncoder::new(Chunker::FastCdc, None);
    encoder.push(&dir.path, &dir.entries[1]).unwrap();
    for entry in &dir.entries {
        let error = encoder.push(&dir.path, entry).unwrap_err();
        assert!(matches!(error, LayerError::Order { .. }), "{error}");
    }
}

#[test]
fn missing_and_swapped_pages_are_errors() {
    let tree = many(5000);
    let (mut pages, root) = LayerEncoder::encode(&tree, Chunker::FastCdc).unwrap();
    let root = root.encode();
    assert!(decode(&root, &pages[..pages.len() - 1]).is_err());
    pages.swap(0, 1);
    assert!(decode(&root, &pages).is_err());
}

#[test]
fn the_bytes_of_version_1_stay() {
    let (pages, root) = LayerEncoder::encode(&many(3), Chunker::FastCdc).unwrap();
    let ids = [pages[0].id.short(), root.id().short()];
    assert_eq!(ids, ["fdf05a233122", "f812bde4a19e"]);
}

/// A file called `name` with these attributes and no content.
fn attributed(name: &str, xattrs: &Xattrs) -> Entry {
    Entry {
        name: Name::new(name.as_bytes()).unwrap(),
        attrs: Attrs {
            xattrs: xattrs.clone(),
            ..Attrs::default()
        },
        kind: Kind::File(Content::default()),
    }
}

/// As many bytes of extended attributes as one entry can have.
fn most_xattrs() -> Xattrs {
    let value = vec![b'x'; limits::MAX_XATTR_BYTES - 6];
    Xattrs::new(vec![(b"user.x"[..].into(), value.into())]).unwrap()
}

/// A directory with as long a path as there can be, which ends with `n`.
fn deep(n: usize, entries: Vec<Entry>) -> LayerDir {
    let name = [&[b'd'; 199][..], b"/"].concat();
    let path = [name.repeat(20), format!("{n:095}").into_bytes()].concat();
    let path = TreePath::new(&path).unwrap();
    assert_eq!(path.as_bytes().len(), limits::MAX_PATH_BYTES);
    LayerDir { path, entries }
}

#[test]
fn what_shares_much_is_cut_into_pages_that_can_be_read() {
    let xattrs = most_xattrs();
    let files = (0..600).map(|n| attributed(&format!("{n:05}"), &xattrs));
    let mut dirs = vec![LayerDir {
        path: TreePath::root(),
        entries: files.collect(),
    }];
    let one = |n| deep(n, vec![attributed("a", &Xattrs::default())]);
    dirs.extend((0..20_000).map(one));
    let tree = TreeLayer { root: None, dirs };
    let (pages, root) = LayerEncoder::encode(&tree, Chunker::FastCdc).unwrap();
    let all = 600 * limits::MAX_XATTR_BYTES + 20_000 * limits::MAX_PATH_BYTES;
    assert!(pages.len() >= all / limits::MAX_PAGE_EXPANDED_BYTES);
    assert_eq!(decode(&root.encode(), &pages), Ok(tree));
}

/// A page of version 1 with these columns, and a root that names it.
fn forged(counts: [usize; 3], columns: [Vec<u8>; 12]) -> (LayerRoot, Vec<EncodedPage>) {
    let mut bytes = vec![1];
    let lengths = columns.iter().map(Vec::len);
    for number in counts.into_iter().chain(lengths) {
        put_uvarint(&mut bytes, number as u64);
    }
    bytes.extend(columns.concat());
    assert!(bytes.len() <= limits::MAX_PAGE_BYTES);
    let id = ChunkId::of(&bytes);
    let page = PageRef {
        id,
        len: bytes.len() as u32,
        entries: counts[1] as u32,
        chunks: 0,
        first_dir: TreePath::root(),
        first_name: Name::new(b"a").unwrap(),
    };
    let root = LayerRoot {
        chunker: Chunker::FastCdc,
        totals: LayerTotals {
            entries: counts[1] as u64,
            ..LayerTotals::default()
        },
        root: None,
        pages: vec![page],
    };
    (root, vec![EncodedPage { id, bytes }])
}

fn refused_as_too_large(root: &LayerRoot, pages: &[EncodedPage]) {
    let error = check(root, pages).unwrap_err();
    let max = limits::MAX_PAGE_EXPANDED_BYTES as u64;
    match error.problem {
        Problem::Limit { found, max: of, .. } => {
            // It stops where the limit is passed, and not at the end of the page.
            assert!(of == max && found < 2 * max, "{error}");
        }
        _ => panic!("{error}"),
    }
}

#[test]
fn a_page_that_stands_for_far_more_bytes_than_it_has_is_refused() {
    // 100,000 files that share 128 KiB of attributes: 13 GB.
    let count = 100_000;
    let mut row = vec![0, 0, 0, 0, 1, 6];
    row.extend(b"user.x");
    put_uvarint(&mut row, limits::MAX_XATTR_BYTES as u64 - 6);
    row.resize(row.len() + limits::MAX_XATTR_BYTES - 6, b'x');
    let digit = |n: usize| 100 + (n % 100) as u8;
    let names = (0..count).flat_map(|n| [digit(n / 10_000), digit(n / 100), digit(n), 0]);
    let names = names.collect();
    let zeros = vec![0; count];
    let mut dir = vec![0, 0];
    put_uvarint(&mut dir, count as u64);
    let columns = [
        dir,
        zeros.clone(),
        names,
        zeros.clone(),
        row,
        zeros.clone(),
        vec![0, 0],
        zeros,
        vec![],
        vec![],
        vec![],
        vec![],
    ];
    let (root, pages) = forged([1, count, 0], columns);
    refused_as_too_large(&root, &pages);

    // 10,000 directories that share a path of 4,092 bytes, with a whiteout in each: 41 MB.
    let dirs = (0..10_000).map(|n| deep(n, vec![]).path);
    let mut column = Vec::new();
    let mut last = Vec::new();
    for path in dirs {
        let path = path.as_bytes().to_vec();
        let shared = path.iter().zip(&last).take_while(|(a, b)| a == b).count();
        for number in [shared, path.len() - shared] {
            put_uvarint(&mut column, number as u64);
        }
        column.extend_from_slice(&path[shared..]);
        column.push(1);
        last = path;
    }
    let count = 10_000;
    let columns = [
        column,
        vec![0; count],
        b"a\0".repeat(count),
        vec![0; count],
        vec![8, 0, 0, 0, 0],
        vec![],
        vec![],
        vec![],
        vec![],
        vec![],
        vec![],
        vec![],
    ];
    let (root, pages) = forged([count, count, 0], columns);
    refused_as_too_large(&root, &pages);
}

#[test]
fn a_page_cannot_announce_more_entries_than_it_has_bytes_for() {
    let count = 1_000_000;
    let mut dir = vec![0, 0];
    put_uvarint(&mut dir, count as u64);
    let mut columns = <[Vec<u8>; 12]>::default();
    columns[0] = dir;
    let (root, pages) = forged([1, count, 0], columns);
    let error = check(&root, &pages).unwrap_err();
    assert!(
        matches!(
            error.problem,
            Problem::Limit {
                name: "entries",
                ..
            }
        ),
        "{error}"
    );
}
