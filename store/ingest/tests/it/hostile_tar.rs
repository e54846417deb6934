//! Archives that no honest tool makes: each gets an error that names the member, in bounded memory.

use std::io::{self, Read};

use proptest::prelude::*;
use shale_ingest::TarSource;
use tar::{EntryType, Header};

use crate::sink::{push, text};

/// An archive, member by member.
#[derive(Debug, Clone)]
pub(crate) struct Archive(Vec<Vec<u8>>);

impl Archive {
    pub(crate) fn new(members: &[Vec<u8>]) -> Self {
        Self(members.to_vec())
    }

    /// With the end mark.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.0.concat();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

/// A member as it lies in an archive; nothing is checked.
pub(crate) fn member(name: &str, kind: u8, link: &str, size: u64, data: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(EntryType::new(kind));
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(size);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub(crate) fn file(name: &str, data: &[u8]) -> Vec<u8> {
    member(name, b'0', "", data.len() as u64, data)
}

pub(crate) fn directory(name: &str) -> Vec<u8> {
    member(name, b'5', "", 0, b"")
}

pub(crate) fn link(name: &str, target: &str) -> Vec<u8> {
    member(name, b'1', target, 0, b"")
}

/// An extended header, `x` or `g`.
pub(crate) fn pax(kind: u8, records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let len = (1..8)
            .map(|digits| rest + digits)
            .find(|len| len.to_string().len() + rest == *len);
        data.extend_from_slice(format!("{} {key}=", len.unwrap()).as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    member("pax", kind, "", data.len() as u64, &data)
}

fn error(bytes: &[u8]) -> String {
    match push(&mut TarSource::new(bytes)) {
        Ok(_) => String::new(),
        Err(error) => text(&error),
    }
}

/// The error of an archive of these members; none is empty.
fn error_of(members: &[Vec<u8>]) -> String {
    error(&Archive::new(members).bytes())
}

/// Members, and what the error must say: the name of the bad one and the fault.
fn check(cases: &[(&[Vec<u8>], &str, &str)]) {
    for (members, name, problem) in cases {
        let message = error_of(members);
        let right = message.contains(&format!("tar member {name}: ")) && message.contains(problem);
        assert!(right, "expected {name}: {problem}, found `{message}`");
    }
}

#[test]
fn names_that_lead_out_of_the_tree() {
    check(&[
        (&[file("/etc/passwd", b"x")], "/etc/passwd", "absolute"),
        (&[directory("/")], "/", "absolute"),
        (&[file("a/../../b", b"x")], "a/../../b", "not a path inside"),
        (&[directory("..")], "..", "not a path inside"),
        (&[file(".", b"")], ".", "not a path inside"),
        (&[link("a", "/etc/passwd")], "a", "absolute"),
        (&[link("a", "../x")], "a", "not a path inside"),
        (
            &[link("a", "later"), file("later", b"")],
            "a",
            "hard link to later",
        ),
        (&[directory("d"), link("a", "d")], "a", "hard link to d"),
        (
            &[pax(b'x', &[("path", b"/abs")]), file("a", b"")],
            "/abs",
            "absolute",
        ),
        (
            &[pax(b'x', &[("path", b"a\0b")]), file("a", b"")],
            "a\\x00b",
            "NUL",
        ),
        (&[member("s", b'2', "", 0, b"")], "s", "symbolic link"),
    ]);
}

/// Extended headers with new attributes, without end.
struct EndlessHeaders {
    next: u32,
    rest: io::Cursor<Vec<u8>>,
}

impl Read for EndlessHeaders {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.position() == self.rest.get_ref().len() as u64 {
            let key = format!("SCHILY.xattr.user.{}", self.next);
            self.next += 1;
            self.rest = io::Cursor::new(pax(b'x', &[(&key, b"value")]));
        }
        self.rest.read(buffer)
    }
}

#[test]
fn attributes_without_end_are_refused_while_they_are_read() {
    let endless = EndlessHeaders {
        next: 0,
        rest: io::Cursor::default(),
    };
    let error = push(&mut TarSource::new(endless)).map(drop).unwrap_err();
    assert!(
        text(&error).contains("the extended header has 10485"),
        "{error:?}"
    );

    let names: Vec<String> = (0..2000)
        .map(|n| format!("SCHILY.xattr.user.{n}"))
        .collect();
    let one_each: Vec<Vec<u8>> = names.iter().map(|name| pax(b'x', &[(name, b"")])).collect();
    check(&[(
        &[one_each, vec![file("f", b"")]].concat(),
        "f",
        "2000 extended attributes",
    )]);
    // What is set again counts once, and what no layer keeps does not count.
    let again = ("SCHILY.xattr.user.a", &[b'x'; 70_000][..]);
    let left_out = ("SCHILY.xattr.trusted.overlay.x", &[b'x'; 140_000][..]);
    let members = [
        pax(b'x', &[again, left_out, again]),
        pax(b'x', &[again]),
        file("f", b""),
    ];
    assert_eq!(error_of(&members), "");
}

#[test]
fn a_global_header_has_no_map_of_a_sparse_file() {
    for (key, value) in [("GNU.sparse.map", &b"0,1"[..]), ("GNU.sparse.major", b"2")] {
        let members = [pax(b'g', &[(key, value)]), file("f", b"")];
        check(&[(&members, "number 1", "only one member")]);
    }
}

#[test]
fn a_deep_tree_of_many_directories_is_checked_in_time() {
    // 3,000 directories in one 1,900 deep: walking up from each would be six million paths of 4 KB.
    let deep = "d/".repeat(1900);
    let names: Vec<String> = (0..3000).map(|n| format!("{deep}{n}/f")).collect();
    let members: Vec<Vec<u8>> = names
        .iter()
        .flat_map(|name| [pax(b'x', &[("path", name.as_bytes())]), file("f", b"")])
        .collect();
    assert_eq!(error_of(&members), "");
}

#[test]
fn what_lies_in_something_else_than_a_directory() {
    check(&[
        (
            &[file("a", b""), file("a/b", b"")],
            "a/b",
            "/a, which is not a directory",
        ),
        (
            &[file("a/b/c", b""), member("a", b'2', "/etc", 0, b"")],
            "a/b/c",
            "/a, which",
        ),
        (&[file("a/b", b""), file(".wh.a", b"")], "a/b", "/a, which"),
        (&[file("a/.wh..wh..opq", b"")], "a", "opaque"),
        (&[file(".wh..wh.plnk", b"")], ".wh..wh.plnk", "reserved"),
        (&[file("a/.wh.", b"")], "a/.wh.", "not a path inside"),
        (&[file(".wh...", b"")], ".wh...", "not a path inside"),
    ]);
}

#[test]
fn headers_that_lie() {
    let mut damaged = file("a", b"x");
    damaged[0] = b'b';
    let mut no_size = file("a", b"");
    no_size[124..136].copy_from_slice(&[b'9'; 12]);
    check(&[
        (&[damaged], "number 1", "checksum"),
        (&[no_size], "number 1", "checksum"),
        (&[file("ok", b""), vec![7; 512]], "number 2", "checksum"),
        (
            &[member("a", b'5', "", 512, &[0; 512])],
            "a",
            "no files and have content",
        ),
        (&[member("a", b'Z', "", 0, b"")], "a", "its type"),
        (&[member("a", b'M', "", 0, b"")], "a", "several volumes"),
        (
            &[member("a", b'0', "", u64::MAX / 2, b"")],
            "number 1",
            "limit",
        ),
        (
            &[pax(b'x', &[("size", b"99999999999999999")]), file("a", b"")],
            "a",
            "limit",
        ),
        (
            &[pax(b'x', &[("uid", b"4294967296")]), file("a", b"")],
            "a",
            "uid",
        ),
        (
            &[pax(b'x', &[("mtime", b"1e9")]), file("a", b"")],
            "number 1",
            "mtime",
        ),
        (
            &[
                pax(
                    b'x',
                    &[("SCHILY.acl.access", b"user:eve:rwx,u::r,g::r,o::r")],
                ),
                file("a", b""),
            ],
            "a",
            "`eve`",
        ),
        (
            &[
                pax(b'x', &[("SCHILY.xattr.user.x", &[7; 140_000])]),
                file("a", b""),
            ],
            "a",
            "extended attributes",
        ),
        (
            &[pax(b'g', &[("path", b"a")]), file("b", b"")],
            "number 1",
            "global",
        ),
        (&[pax(b'x', &[])], "number 1", "truncated"),
        (
            &[
                member("l", b'L', "", 2, b"a\0"),
                member("l", b'L', "", 2, b"b\0"),
            ],
            "number 1",
            "two long",
        ),
    ]);
}

#[test]
fn sparse_maps_that_lie() {
    let sparse = |records: &[(&str, &[u8])], data: &[u8]| [pax(b'x', records), file("a", data)];
    let old = |size: u64| {
        let mut bytes = member("a", b'S', "", size, &[]);
        // One part at 4096 of 10 bytes in a file of 5000.
        bytes[386..398].copy_from_slice(b"00000010000\0");
        bytes[398..410].copy_from_slice(b"00000000012\0");
        bytes[483..495].copy_from_slice(b"00000011610\0");
        let mut header = Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&bytes[..512]);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let map: &[u8] = b"0,5,4096,5";
    check(&[
        (
            &sparse(
                &[("GNU.sparse.size", b"9000"), ("GNU.sparse.map", map)],
                &[1; 11],
            ),
            "a",
            "sparse",
        ),
        (
            &sparse(
                &[("GNU.sparse.size", b"4100"), ("GNU.sparse.map", map)],
                &[1; 10],
            ),
            "a",
            "sparse",
        ),
        (
            &sparse(
                &[
                    ("GNU.sparse.size", b"9000"),
                    ("GNU.sparse.map", b"0,5,4096"),
                ],
                &[1; 5],
            ),
            "a",
            "sparse",
        ),
        (
            &sparse(&[("GNU.sparse.numbytes", b"5")], &[]),
            "number 1",
            "sparse",
        ),
        (
            &sparse(&[("GNU.sparse.size", b"99999999999999999999")], &[]),
            "number 1",
            "sparse",
        ),
        (
            &sparse(
                &[
                    ("GNU.sparse.size", b"18446744073709551615"),
                    ("GNU.sparse.map", b"18446744073709551615,0"),
                ],
                &[],
            ),
            "a",
            "limit",
        ),
        (
            &sparse(
                &[("GNU.sparse.major", b"1"), ("GNU.sparse.size", b"9")],
                b"nonsense",
            ),
            "a",
            "sparse",
        ),
        (
            &sparse(
                &[("GNU.sparse.major", b"2"), ("GNU.sparse.size", b"9")],
                b"1\n",
            ),
            "a",
            "newer",
        ),
        (&[old(11)], "a", "sparse"),
    ]);
    let mut right = old(10);
    right.extend_from_slice(&[b'x'; 512]);
    assert_eq!(error(&Archive::new(&[right]).bytes()), "");
}

/// Endless bytes after a start; counts what is read.
struct Endless<'a> {
    start: &'a [u8],
    read: &'a mut u64,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        *self.read += buffer.len() as u64;
        match self.start.read(buffer)? {
            0 => {
                buffer.fill(b'n');
                Ok(buffer.len())
            }
            len => Ok(len),
        }
    }
}

#[test]
fn names_of_four_gigabytes_are_not_read() {
    for (kind, what) in [
        (b'L', "name"),
        (b'K', "name"),
        (b'x', "extended header"),
        (b'g', "extended header"),
    ] {
        let start = member("huge", kind, "", 4 << 30, b"");
        let mut read = 0;
        let mut source = TarSource::new(Endless {
            start: &start,
            read: &mut read,
        });
        let message = text(&push(&mut source).map(drop).expect_err("an error"));
        let told = message.contains(&format!("the {what} has 4294967296 bytes"));
        assert!(told, "{message}");
        assert!(read < 1 << 20, "{read}");
    }
}

fn honest() -> Vec<u8> {
    Archive::new(&[
        directory("."),
        member("l", b'L', "", 151, &[[b'n'; 150].as_slice(), &[0]].concat()),
        file("short", b"content"),
        pax(b'x', &[("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"\n1")]),
        file("a/b", &[7; 3000]),
        pax(
            b'x',
            &[
                ("GNU.sparse.size", b"200000"),
                ("GNU.sparse.map", b"0,5,100000,5"),
            ],
        ),
        file("sparse", &[1; 10]),
        link("c", "a/b"),
        member("d", b'3', "", 0, b""),
        file("a/.wh.x", b""),
    ])
    .bytes()
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = honest();
    let marked = bytes.len() - 1024;
    for len in (0..=marked).step_by(64) {
        let message = error(&bytes[..len]);
        assert!(message.contains("truncated"), "{len}: {message}");
    }
    assert_eq!(error(&bytes), "");
    assert_eq!(error(&bytes[..marked + 512]), "");
}

#[test]
fn a_reader_that_fails_is_the_error() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the cable is out"))
        }
    }
    let message = text(
        &push(&mut TarSource::new(Failing))
            .map(drop)
            .expect_err("an error"),
    );
    assert!(message.contains("the cable is out"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// Damage never panics; where it hits a header, it is found unless the checksum is made right again.
    #[test]
    fn damage_is_an_error_or_another_archive(at in 0usize..9000, byte: u8, mend: bool) {
        let mut bytes = honest();
        let at = at % bytes.len();
        bytes[at] = byte;
        if mend {
            let start = at - at % 512;
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&bytes[start..start + 512]);
            header.set_cksum();
            bytes[start..start + 512].copy_from_slice(header.as_bytes());
        }
        let _ = error(&bytes);
    }
}
