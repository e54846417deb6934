//! Writes the inputs that fuzzing starts from, with the real encoders, to `corpus/TARGET/seed-NAME`:
//! `cargo run --release --example seeds` in this directory.

use std::fs;
use std::io;
use std::path::Path;

use shale_fuzz::{Lcg, join};
use shale_model::{
    Attrs, ChunkId, Chunker, Codec, Content, Entry, Extent, FrameEncoder, Kind, LayerDir,
    LayerEncoder, LayerId, Machine, Mtime, Name, PackContents, PlanParts, Platform, Rdev,
    RootEntry, Run, RunSource, Template, TemplateId, TemplateIndex, TemplateLayer, TreeLayer,
    TreePath, Xattrs, pack_header,
};

fn main() -> io::Result<()> {
    packs()?;
    layers()?;
    manifests()?;
    plans()?;
    references()?;
    archives()?;
    nbd()?;
    databases()?;
    fuse()?;
    for n in 0..4 {
        write(
            "plan_tree",
            &format!("random-{n}"),
            &Lcg(40 + n).bytes(1500),
        )?;
        write("compose", &format!("random-{n}"), &Lcg(n).bytes(1500))?;
        write(
            "disk_tree",
            &format!("random-{n}"),
            &Lcg(60 + n).bytes(1500),
        )?;
    }
    Ok(())
}

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(format!("seed-{name}")), bytes)
}

/// Requests of the kernel, each with the body that its operation has.
fn fuse() -> io::Result<()> {
    let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|w| w.to_ne_bytes()).collect() };
    let bodies = [
        ("lookup", 1, b"etc\0".to_vec()),
        ("setattr", 4, words(&[8, 0, 4096, 0])),
        ("read", 15, words(&[0, 4096, 131_072, 0, 0])),
        (
            "write",
            16,
            [words(&[0, 4096, 5, 0, 0]), b"bytes".to_vec()].concat(),
        ),
        (
            "getxattr",
            22,
            [words(&[64]), b"user.a\0".to_vec()].concat(),
        ),
        ("init", 26, words(&[7 | 31 << 32, 1 << 20 | 0xFFFF << 32])),
        ("readdirplus", 44, words(&[0, 24, 4096, 0, 0])),
        ("interrupt", 36, words(&[2])),
        ("fallocate", 43, words(&[0, 4096, 8192, 3])),
        ("lseek", 46, words(&[0, 4096, 3])),
    ];
    for (name, op, body) in bodies {
        let header = words(&[(40 + body.len() as u64) | op << 32, 2, 1, 0, 1]);
        write("fuse_request", name, &[header, body].concat())?;
    }
    Ok(())
}

fn packs() -> io::Result<()> {
    let text = b"what is said twice is said twice. ".repeat(20);
    let stored = FrameEncoder::new()?.compress(&text)?;
    let stored = stored.ok_or(io::ErrorKind::InvalidData)?;
    let frame =
        |tag: u8, stored: &[u8]| [&[tag][..], &(text.len() as u32).to_le_bytes(), stored].concat();
    write("frame", "zstd", &frame(1, &stored))?;
    write("frame", "plain", &frame(0, &text))?;

    let chunk = |bytes: &[u8]| (ChunkId::of(bytes), bytes.len() as u32);
    let mut contents = PackContents::default();
    contents.push_frame(Codec::Plain, 6, &[chunk(b"one"), chunk(b"two")]);
    let (left, right) = text.split_at(300);
    contents.push_frame(
        Codec::Zstd,
        stored.len() as u32,
        &[chunk(left), chunk(right)],
    );
    let pack = [
        &pack_header()[..],
        b"onetwo",
        &stored,
        &contents.encode_tail(),
    ]
    .concat();
    write("pack", "two-frames", &pack)?;
    let empty = [&pack_header()[..], &PackContents::default().encode_tail()].concat();
    write("pack", "empty", &empty)
}

/// A layer with an entry of each kind.
fn tree() -> TreeLayer {
    let attrs = |mode, pairs: &[(&[u8], &[u8])]| Attrs {
        mode,
        uid: 1000,
        gid: 70_000,
        mtime: Mtime {
            seconds: 1_700_000_000,
            nanos: 5,
        },
        xattrs: Xattrs::new(
            pairs
                .iter()
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect(),
        )
        .expect("attributes"),
    };
    let chunk = |bytes: &[u8]| Extent::Chunk {
        id: ChunkId::of(bytes),
        len: bytes.len() as u32,
    };
    let content = vec![
        chunk(b"some bytes"),
        Extent::Hole { len: 1 << 20 },
        chunk(b"more"),
    ];
    let device = Rdev { major: 8, minor: 1 };
    let root_path = TreePath::root();
    let in_root = [
        ("a-block", Kind::BlockDevice(device)),
        ("b-char", Kind::CharDevice(device)),
        ("c-directory", Kind::Directory),
        ("d-empty", Kind::File(Content::default())),
        ("e-fifo", Kind::Fifo),
        (
            "f-file",
            Kind::File(Content::new(content).expect("content")),
        ),
        (
            "g-one",
            Kind::File(Content::new(vec![chunk(b"whole")]).expect("content")),
        ),
        ("h-opaque", Kind::OpaqueDirectory),
        ("i-socket", Kind::Socket),
        ("j-symlink", Kind::symlink(b"f-file").expect("a link")),
        ("k-whiteout", Kind::Whiteout),
    ];
    let target = TreePath::new(b"f-file").expect("a path");
    let below = [
        ("hard-link", Kind::HardLink(target)),
        ("socket", Kind::Socket),
    ];
    let entries = |all: Vec<(&str, Kind)>| {
        let entry = |(name, kind): (&str, Kind)| Entry {
            name: Name::new(name.as_bytes()).expect("a name"),
            attrs: match kind {
                Kind::Whiteout | Kind::HardLink(_) => Attrs::default(),
                _ => attrs(0o644, &[(b"user.name", b"value")]),
            },
            kind,
        };
        all.into_iter().map(entry).collect()
    };
    let dir = |path, entries| LayerDir { path, entries };
    TreeLayer {
        root: Some(RootEntry {
            attrs: attrs(0o755, &[]),
            opaque: true,
        }),
        dirs: vec![
            dir(root_path, entries(in_root.to_vec())),
            dir(
                TreePath::new(b"c-directory").expect("a path"),
                entries(below.to_vec()),
            ),
        ],
    }
}

fn layers() -> io::Result<()> {
    for (name, tree) in [("kinds", tree()), ("empty", TreeLayer::default())] {
        let encoded = LayerEncoder::encode(&tree, Chunker::FastCdc);
        let (pages, root) = encoded.map_err(io::Error::other)?;
        let page = pages.first().map_or(&[][..], |page| &page.bytes);
        write("layer", name, &join(&[&root.encode(), page, &[], &[]]))?;
    }
    Ok(())
}

fn manifests() -> io::Result<()> {
    let id = |name: &str| LayerId::of(name.as_bytes());
    let layer = |name, made_on: &[&str]| TemplateLayer {
        id: id(name),
        made_on: made_on.iter().map(|name| id(name)).collect(),
    };
    let layers = vec![layer("base", &[]), layer("app", &["base"])];
    let template = Template::new(Platform::default(), layers, Machine::default());
    write("template", "two-layers", &template.encode())?;
    let index = TemplateIndex::one(Platform::default(), template.id());
    write("index", "one", &index.encode())
}

fn plans() -> io::Result<()> {
    let run = |block, bytes, source| Run {
        block,
        bytes,
        source,
    };
    let parts = PlanParts {
        template: TemplateId::of(b"template"),
        disk_bytes: 1 << 20,
        runs: vec![
            run(0, 4096, RunSource::Synthesised(0)),
            run(2, 10_000, RunSource::Content(100)),
            run(9, 5, RunSource::Synthesised(4091)),
            run(200, 3, RunSource::Content(0)),
        ],
        chunks: vec![(ChunkId::of(b"1"), 9000), (ChunkId::of(b"2"), 3000)],
        synthesised: vec![7; 4096],
    };
    write("plan", "small", &parts.encode().1)
}

fn references() -> io::Result<()> {
    let id = TemplateId::of(b"");
    let all = [
        ("name", "demo/base:12.1".to_owned()),
        ("whole", format!("reg.example:5000/demo/base:12@{id}")),
        (
            "composition",
            "demo/base:12+demo/nginx+[::1]:5000/demo/pg:15".to_owned(),
        ),
    ];
    all.iter()
        .try_for_each(|(name, text)| write("reference", name, text.as_bytes()))
}

fn archives() -> io::Result<()> {
    let mut gnu = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(1000);
        header.set_gid(1000);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        match link {
            "" => gnu.append_data(&mut header, name, data),
            link => gnu.append_link(&mut header, name, link),
        }
    };
    use tar::EntryType;
    let long = "long/".repeat(30) + "name";
    add("./", EntryType::Directory, "", b"")?;
    add("d/", EntryType::Directory, "", b"")?;
    add("d/file", EntryType::Regular, "", b"content")?;
    add("d/again", EntryType::Link, "d/file", b"")?;
    add("link", EntryType::Symlink, "d/file", b"")?;
    add("pipe", EntryType::Fifo, "", b"")?;
    add("d/.wh.gone", EntryType::Regular, "", b"")?;
    add("d/.wh..wh..opq", EntryType::Regular, "", b"")?;
    add(&long, EntryType::Regular, "", b"long")?;
    write("tar_source", "gnu", &gnu.into_inner()?)?;

    let mut pax = tar::Builder::new(Vec::new());
    let acl = b"user::rw-\nuser:1000:r--\ngroup::r--\nmask::r--\nother::---\n";
    pax.append_pax_extensions([
        ("path", &b"by/pax"[..]),
        ("mtime", b"1700000000.123456789"),
        ("SCHILY.xattr.user.name", b"value"),
        ("SCHILY.acl.access", acl),
        ("uid", b"3000000"),
    ])?;
    let mut header = tar::Header::new_ustar();
    header.set_size(4);
    header.set_mode(0o640);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    pax.append_data(&mut header, "in-header", &b"data"[..])?;
    pax.append_pax_extensions([
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"1048576"),
    ])?;
    let mut data = b"2\n4096\n4\n1048576\n0\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"data");
    header.set_size(data.len() as u64);
    pax.append_data(&mut header, "GNUSparseFile.0/sparse", &data[..])?;
    write("tar_source", "pax", &pax.into_inner()?)
}

fn nbd() -> io::Result<()> {
    // Numbers of the protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
    let option = |number: u32, data: &[u8]| {
        let len = data.len() as u32;
        [
            b"IHAVEOPT",
            &number.to_be_bytes()[..],
            &len.to_be_bytes(),
            data,
        ]
        .concat()
    };
    let string = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
    let flags = 3u32.to_be_bytes();
    let context = [string("disk"), vec![0, 0, 0, 1], string("base:allocation")].concat();
    let go = [string("disk"), vec![0, 2, 0, 1, 0, 2]].concat();
    let request = |command: u16, offset: u64, len: u32| {
        let magic = 0x2560_9513u32.to_be_bytes();
        let (command, cookie) = (command.to_be_bytes(), 7u64.to_be_bytes());
        let (offset, len) = (offset.to_be_bytes(), len.to_be_bytes());
        [&magic[..], &[0, 0], &command, &cookie, &offset, &len].concat()
    };
    let structured = [
        flags.to_vec(),
        option(8, b""),
        option(3, b""),
        option(9, &context),
        option(10, &context),
        option(6, &go),
        option(7, &go),
        request(0, 4096, 512),
        request(7, 0, 1 << 20),
        request(2, 0, 0),
    ];
    write("nbd_handshake", "structured", &structured.concat())?;
    let oldest = [
        flags.to_vec(),
        option(1, b""),
        request(1, 0, 4),
        b"data".to_vec(),
    ];
    write("nbd_handshake", "export-name", &oldest.concat())?;
    write(
        "nbd_handshake",
        "abort",
        &[flags.to_vec(), option(2, b"")].concat(),
    )?;
    for command in 0..8 {
        let start = [&(1u64 << 31).to_le_bytes()[..], &[7]].concat();
        let input = [start, request(command, 4096, 65536)].concat();
        write("nbd_request", &format!("command-{command}"), &input)?;
    }
    for (number, data) in [(7, go), (10, context)] {
        let input = [&[0; 8][..], &[number], &data].concat();
        write("nbd_request", &format!("option-{number}"), &input)?;
    }
    Ok(())
}

/// Versions of databases: of the base, of one layer, of another. In the order of `FILES` in the target.
fn databases() -> io::Result<()> {
    let texts: [(&str, [&str; 3]); 12] = [
        (
            "passwd",
            [
                "root:x:0:0:root:/root:/bin/sh\n",
                "root:x:0:0:root:/root:/bin/sh\none:x:100:100::/:/bin/false\n",
                "root:x:0:0:root:/root:/bin/sh\ntwo:x:100:101::/:/bin/false\n",
            ],
        ),
        (
            "group",
            [
                "adm:x:4:\n",
                "adm:x:4:one\none:x:100:\n",
                "adm:x:4:two\ntwo:x:100:\n",
            ],
        ),
        (
            "shadow",
            [
                "root:*:1:0:99999:7:::\n",
                "root:*:2:0:99999:7:::\n",
                "root:*:3:0:99999:7:::\none:!:1::::::\n",
            ],
        ),
        (
            "gshadow",
            ["adm:*::\n", "adm:*::one\n", "adm:*::two\ntwo:!:a,b:\n"],
        ),
        (
            "subuid",
            [
                "a:100000:65536\n",
                "a:100000:65536\nb:165536:65536\n",
                "a:100000:65536\nc:165536:65536\n",
            ],
        ),
        (
            "shells",
            [
                "/bin/sh\n",
                "/bin/sh\n/bin/bash\n",
                "# shells\n/bin/sh\n/bin/zsh\n",
            ],
        ),
        ("loader", ["", "", ""]),
        (
            "status",
            [
                "Package: a\nArchitecture: amd64\nVersion: 1\n\n",
                "Package: a\nArchitecture: amd64\nVersion: 1\n\nPackage: b\nDescription: b\n more\n .\n\n",
                "Package: a\nArchitecture: amd64\nVersion: 2\n\nPackage: c\n\n",
            ],
        ),
        (
            "diversions",
            [
                "/a\n/b\npackage\n",
                "/a\n/b\npackage\n/c\n/d\n:\n",
                "/e\n/f\ng\n",
            ],
        ),
        (
            "statoverride",
            [
                "root root 4755 /a\n",
                "root root 755 /a\nroot adm 640 /b\n",
                "root root 4755 /a\n",
            ],
        ),
        (
            "debconf",
            [
                "Name: a/b\nTemplate: a/b\nValue: 1\nOwners: a\n\n",
                "Name: a/b\nTemplate: a/b\nValue: 2\nOwners: a\n\n",
                "Name: a/b\nTemplate: a/b\nValue: 1\nOwners: a, b\nFlags: seen\n\n",
            ],
        ),
        (
            "registry",
            ["pkg /etc/a\n", "pkg /etc/a\npkg2 /etc/b\n", "pkg /etc/c\n"],
        ),
    ];
    for (number, (name, versions)) in texts.iter().enumerate() {
        let mut versions = versions.map(|text| text.as_bytes().to_vec());
        if *name == "loader" {
            versions = [
                &["liba.so.1"][..],
                &["liba.so.1", "libb.so.2"],
                &["libc.so.6", "liba.so.1"],
            ]
            .map(cache);
        }
        let [base, one, two] = &versions;
        let input = [vec![number as u8], join(&[base, one, two])].concat();
        write("merge", name, &input)?;
    }
    Ok(())
}

/// A cache of the dynamic loader: format 1.1 of glibc (`elf/dl-cache.h`).
fn cache(names: &[&str]) -> Vec<u8> {
    let mut strings = Vec::new();
    let mut entries = Vec::new();
    let start = 48 + 24 * names.len();
    for name in names {
        let key = start + strings.len();
        strings.extend_from_slice(format!("{name}\0/lib/{name}\0").as_bytes());
        for number in [0x0303, key, key + name.len() + 1, 0, 0, 0] {
            entries.extend_from_slice(&(number as u32).to_le_bytes());
        }
    }
    let mut cache = b"glibc-ld.so.cache1.1".to_vec();
    cache.extend_from_slice(&(names.len() as u32).to_le_bytes());
    cache.extend_from_slice(&(strings.len() as u32).to_le_bytes());
    cache.extend_from_slice(&[2, 0, 0, 0]);
    cache.resize(48, 0);
    [cache, entries, strings].concat()
}
