//! Objects that are impossible but rightly named and hashed, in a repository that somebody else filled: what no check of
//! bytes against an id finds.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{Shale, run, tool};
use shale_model::limits::{MAX_PAGE_BYTES, MAX_XATTR_BYTES};
use shale_model::{
    Attrs, ChunkId, Chunker, Codec, Content, Entry, Extent, FrameEncoder, Kind, LayerDir,
    LayerEncoder, LayerId, LayerRoot, LayerTotals, Machine, Name, PackContents, PageRef, Platform,
    Template, TemplateId, TemplateIndex, TemplateLayer, TreeLayer, TreePath, pack_header,
    put_uvarint,
};

use super::limited;

/// The content of the only chunk that forged layers name. It begins as a page of a layer does.
const CONTENT: &[u8] = b"\x01content";

/// A repository that objects are put into without being asked.
struct Forge(Shale);

impl Forge {
    /// With a template `test/right`.
    fn new() -> Result<Self> {
        let shale = Shale::new()?;
        let tree = tempfile::tempdir()?;
        fs::write(tree.path().join("file"), CONTENT)?;
        let mut push = shale.command();
        run(push.arg("push").arg(tree.path()).arg("test/right"))?;
        Ok(Self(shale))
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let path = self.0.repository().join(path);
        fs::create_dir_all(path.parent().context("a directory")?)?;
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
    }

    /// A pack, named by its hash.
    fn pack(&self, bytes: &[u8]) -> Result<()> {
        let file = self.0.home().join("pack");
        fs::write(&file, bytes)?;
        let sum = run(tool("sha256sum")?.arg(&file))?;
        let hex = sum.split_whitespace().next().context("a hash")?;
        self.put(&format!("packs/{}/{hex}.pack", &hex[..2]), bytes)
    }

    /// A pack of these chunks, each in a frame of its own.
    fn chunks(&self, chunks: &[&[u8]]) -> Result<()> {
        let mut contents = PackContents::default();
        let mut bytes = pack_header().to_vec();
        for chunk in chunks {
            let (id, len) = (ChunkId::of(chunk), chunk.len() as u32);
            contents.push_frame(Codec::Plain, len, &[(id, len)]);
            bytes.extend_from_slice(chunk);
        }
        bytes.extend(contents.encode_tail());
        self.pack(&bytes)
    }

    /// A layer of this root.
    fn layer(&self, root: &[u8]) -> Result<LayerId> {
        let hex = LayerId::of(root).hex();
        self.put(&format!("layers/{}/{hex}", &hex[..2]), root)?;
        Ok(LayerId::of(root))
    }

    /// A template of this JSON, and `test/<name>` that points at it.
    fn template(&self, name: &str, json: &[u8]) -> Result<()> {
        let id = TemplateId::of(json);
        let hex = id.hex();
        self.put(&format!("templates/{}/{hex}.json", &hex[..2]), json)?;
        let index = TemplateIndex::one(Platform::default(), id);
        self.put(&format!("refs/test/{name}/latest"), &index.encode())
    }

    /// A template of this layer.
    fn template_of(&self, name: &str, layer: LayerId) -> Result<()> {
        let layers = vec![TemplateLayer {
            id: layer,
            made_on: Vec::new(),
        }];
        let template = Template::new(Platform::default(), layers, Machine::default());
        self.template(name, &template.encode())
    }

    /// Checks that the export of `test/<name>` ends with this exit code and text, and leaves no disk.
    fn refuses(&self, name: &str, code: i32, text: &str) -> Result<()> {
        let reference = format!("test/{name}");
        let ended = limited(&self.0, &["export", &reference, "disk.raw"], b"")?;
        ended.expect(code, text).with_context(|| name.to_owned())?;
        ensure!(!disk(&self.0).exists(), "{name}: a disk is left");
        // What others put there does not touch what was right.
        limited(&self.0, &["export", "test/right", "disk.raw"], b"")?.expect(0, "")?;
        Ok(fs::remove_file(disk(&self.0))?)
    }
}

fn disk(shale: &Shale) -> std::path::PathBuf {
    Path::join(shale.home(), "disk.raw")
}

fn entry(name: &str, kind: Kind) -> Result<Entry> {
    Ok(Entry {
        name: Name::new(name.as_bytes())?,
        attrs: Attrs::default(),
        kind,
    })
}

/// A file of one chunk, which is [`CONTENT`], said to be of `len` bytes.
fn file(len: u32) -> Result<Kind> {
    let id = ChunkId::of(CONTENT);
    Ok(Kind::File(Content::new(vec![Extent::Chunk { id, len }])?))
}

/// Trees that encode and decode, but cannot be.
fn impossible_trees() -> Result<Vec<(&'static str, i32, &'static str, TreeLayer)>> {
    let right = CONTENT.len() as u32;
    let dir = |path: &str, entries| -> Result<LayerDir> {
        let path = TreePath::new(path.as_bytes())?;
        Ok(LayerDir { path, entries })
    };
    let tree = |dirs| TreeLayer { root: None, dirs };
    let nowhere = Kind::HardLink(TreePath::new(b"nowhere")?);
    let long = dir("", vec![entry("a", file(right + 5000)?)?])?;
    let below = vec![
        dir("", vec![entry("a", file(right)?)?])?,
        dir("a", vec![entry("b", file(right)?)?])?,
    ];
    let link = dir("", vec![entry("a", nowhere)?])?;
    Ok(vec![
        ("below-a-file", 7, "not a directory", tree(below)),
        ("link-to-nowhere", 7, "/nowhere", tree(vec![link])),
        ("longer-than-its-chunk", 7, "shorter", tree(vec![long])),
    ])
}

#[test]
fn layers_that_cannot_be_are_named() -> Result<()> {
    let forge = Forge::new()?;
    for (name, code, text, tree) in impossible_trees()? {
        let (pages, root) = LayerEncoder::encode(&tree, Chunker::FastCdc)?;
        let pages: Vec<&[u8]> = pages.iter().map(|page| &page.bytes[..]).collect();
        forge.chunks(&pages)?;
        forge.template_of(name, forge.layer(&root.encode())?)?;
        forge.refuses(name, code, text)?;
    }
    Ok(())
}

#[test]
fn roots_that_lie_are_named() -> Result<()> {
    let forge = Forge::new()?;
    let dirs = vec![LayerDir {
        path: TreePath::root(),
        entries: vec![entry("a", file(CONTENT.len() as u32)?)?],
    }];
    let tree = TreeLayer { root: None, dirs };
    let (pages, right) = LayerEncoder::encode(&tree, Chunker::FastCdc)?;
    forge.chunks(&[&pages[0].bytes])?;
    let page = &right.pages[0];
    let mut cases: Vec<(&str, &str, LayerRoot)> = Vec::new();
    let mut with = |name, text, change: &dyn Fn(&mut LayerRoot)| {
        let mut root = right.clone();
        change(&mut root);
        cases.push((name, text, root));
    };
    with("other-sums", "the bytes of its files differ", &|root| {
        root.totals.bytes += 1;
    });
    with(
        "other-entries",
        "differs from what the root says",
        &|root| {
            root.pages[0].entries += 1;
            root.totals.entries += 1;
        },
    );
    with("a-page-too-short", "", &|root| root.pages[0].len -= 1);
    with("a-page-of-content", "layer page", &|root| {
        root.pages[0].id = ChunkId::of(CONTENT);
        root.pages[0].len = CONTENT.len() as u32;
    });
    with("a-page-that-is-not-there", "no source has", &|root| {
        root.pages[0].id = ChunkId::of(b"not there");
    });
    // As many as a root can list: asking for all of them at once would take 100 GB.
    with("many-pages", "out of order", &|root| {
        root.pages = vec![page.clone(); 300_000];
        root.totals.entries = 300_000;
        root.totals.chunks = 300_000;
    });
    for (name, text, root) in cases {
        forge.template_of(name, forge.layer(&root.encode())?)?;
        forge.refuses(name, 7, text)?;
    }
    forge.template_of("no-root", forge.layer(b"no root")?)?;
    forge.refuses("no-root", 7, "layer")
}

/// A page of 1 MiB whose 100,000 files share one row with as many attributes as an entry can have.
fn bomb() -> (Vec<u8>, LayerRoot) {
    const COUNT: usize = 100_000;
    let value = MAX_XATTR_BYTES - b"user.x".len();
    let mut row = vec![0, 0, 0, 0, 1, 6];
    row.extend_from_slice(b"user.x");
    put_uvarint(&mut row, value as u64);
    row.resize(row.len() + value, b'x');
    let mut dir = vec![0, 0];
    put_uvarint(&mut dir, COUNT as u64);
    let digit = |n: usize| 100 + (n % 100) as u8;
    let names = (0..COUNT).flat_map(|n| [digit(n / 10_000), digit(n / 100), digit(n), 0]);
    let zeros = vec![0; COUNT];
    let mut columns = <[Vec<u8>; 12]>::default();
    for (column, bytes) in [
        (0, dir),
        (1, zeros.clone()),
        (2, names.collect()),
        (3, zeros.clone()),
        (4, row),
        (5, zeros.clone()),
        (6, vec![0, 0]),
        (7, zeros),
    ] {
        columns[column] = bytes;
    }
    let mut page = vec![1];
    for number in [1, COUNT, 0]
        .into_iter()
        .chain(columns.iter().map(Vec::len))
    {
        put_uvarint(&mut page, number as u64);
    }
    page.extend(columns.concat());
    let root = LayerRoot {
        chunker: Chunker::FastCdc,
        totals: LayerTotals {
            entries: COUNT as u64,
            ..LayerTotals::default()
        },
        root: None,
        pages: vec![PageRef {
            id: ChunkId::of(&page),
            len: page.len() as u32,
            entries: COUNT as u32,
            chunks: 0,
            first_dir: TreePath::root(),
            first_name: Name::new(b"ddd").unwrap_or_else(|_| unreachable!("a name")),
        }],
    };
    (page, root)
}

#[test]
fn a_page_that_stands_for_13_gigabytes_is_refused_in_bounded_memory() -> Result<()> {
    let forge = Forge::new()?;
    let (page, root) = bomb();
    ensure!(page.len() <= MAX_PAGE_BYTES, "{} bytes", page.len());
    forge.chunks(&[&page])?;
    forge.template_of("bomb", forge.layer(&root.encode())?)?;
    forge.refuses("bomb", 7, "bytes that the entries stand for")
}

#[test]
fn templates_that_cannot_be_are_named() -> Result<()> {
    let forge = Forge::new()?;
    let layers = |count: usize| {
        let layer = TemplateLayer {
            id: LayerId::of(b"not there"),
            made_on: Vec::new(),
        };
        let layers = vec![layer; count];
        Template::new(Platform::default(), layers, Machine::default()).encode()
    };
    let spaced = [&b" "[..], &layers(1)].concat();
    let mut unknown = layers(1);
    unknown.splice(1..1, *b"\"more\":1,");
    for (name, code, json) in [
        ("no-layers", 7, layers(0)),
        ("too-many-layers", 7, layers(129)),
        ("spaced", 7, spaced),
        ("unknown-field", 7, unknown),
        ("no-json", 7, b"\xff\x00".to_vec()),
        ("a-layer-that-is-not-there", 3, layers(1)),
    ] {
        forge.template(name, &json)?;
        forge.refuses(name, code, "")?;
    }
    Ok(())
}

#[test]
fn packs_that_lie_give_an_error_and_never_other_bytes() -> Result<()> {
    let forge = Forge::new()?;
    let large = vec![0; 1 << 20];
    let more = vec![0; 64 << 20];
    let compress = |plain: &[u8]| -> Result<Vec<u8>> {
        FrameEncoder::new()?.compress(plain)?.context("smaller")
    };
    let stored = compress(&large)?;
    let cases: [(&str, Codec, &[u8], u32, u32); 6] = [
        ("bomb", Codec::Zstd, &compress(&more)?, 0, 1 << 20),
        ("no-zstd", Codec::Zstd, b"not zstd", 0, 1 << 20),
        (
            "other-bytes",
            Codec::Plain,
            CONTENT,
            0,
            CONTENT.len() as u32,
        ),
        (
            "short",
            Codec::Zstd,
            &stored[..stored.len() - 1],
            0,
            1 << 20,
        ),
        ("longer-than-the-pack", Codec::Plain, b"x", 1 << 30, 1 << 20),
        ("too-large", Codec::Zstd, &stored, 0, u32::MAX),
    ];
    for (name, codec, frame, more_stored, plain) in cases {
        // Each pack says that it holds the page of a layer of its own.
        let page = ChunkId::of(name.as_bytes());
        let mut contents = PackContents::default();
        contents.push_frame(codec, frame.len() as u32 + more_stored, &[(page, plain)]);
        forge.pack(&[&pack_header()[..], frame, &contents.encode_tail()].concat())?;
        let root = LayerRoot {
            chunker: Chunker::FastCdc,
            totals: LayerTotals {
                entries: 1,
                ..LayerTotals::default()
            },
            root: None,
            pages: vec![PageRef {
                id: page,
                len: plain.min(1 << 20),
                entries: 1,
                chunks: 0,
                first_dir: TreePath::root(),
                first_name: Name::new(b"a")?,
            }],
        };
        forge.template_of(name, forge.layer(&root.encode())?)?;
        forge.refuses(name, 7, &page.hex())?;
    }
    Ok(())
}
