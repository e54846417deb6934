//! Archives that no honest tool makes, and what ext4 cannot hold.

use anyhow::{Context, Result, ensure};
use harness::{Shale, run, tool};

use super::limited;

/// A ustar header of this kind, name, link target and size, with its data; nothing is checked.
fn member(kind: u8, name: &str, link: &str, size: u64, data: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(136, "00000000001\0");
    put(148, "        ");
    put(157, link);
    put(257, "ustar\x0000");
    if size < 1 << 33 {
        put(124, &format!("{size:011o}\0"));
    } else {
        header[124] = 0x80;
        header[128..136].copy_from_slice(&size.to_be_bytes());
    }
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    member(b'0', name, "", data.len() as u64, data)
}

/// Records of a pax header for the next member.
fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let len = (rest..)
            .find(|len| len.to_string().len() + rest == *len)
            .unwrap_or(rest);
        data.extend_from_slice(format!("{len} {key}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    member(b'x', "pax", "", data.len() as u64, &data)
}

fn sparse(name: &str, real_bytes: &str, map: &str, data: &[u8]) -> Vec<u8> {
    let version = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0")];
    let names = [
        ("GNU.sparse.name", name.as_bytes()),
        ("GNU.sparse.realsize", real_bytes.as_bytes()),
    ];
    let mut stored = map.as_bytes().to_vec();
    stored.resize(stored.len().next_multiple_of(512), 0);
    stored.extend_from_slice(data);
    [
        pax(&[version, names].concat()),
        file("GNUSparseFile.0/x", &stored),
    ]
    .concat()
}

/// With the end mark.
fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = members.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

#[test]
fn archives_that_lie_are_refused_and_leave_nothing() -> Result<()> {
    let long = 4u64 << 30;
    let truncated = member(b'0', "half", "", 5000, b"not so many");
    let cases = [
        (
            "../../etc/passwd",
            archive(&[file("../../etc/passwd", b"x")]),
        ),
        ("/etc/passwd", archive(&[file("/etc/passwd", b"x")])),
        ("a/../../b", archive(&[file("a/../../b", b"x")])),
        (
            "link",
            archive(&[member(b'1', "link", "../../etc/passwd", 0, b"")]),
        ),
        (
            "link",
            archive(&[member(b'1', "link", "/etc/passwd", 0, b"")]),
        ),
        (
            "link",
            archive(&[member(b'1', "link", "not-there", 0, b"")]),
        ),
        (
            "by-pax/../../x",
            archive(&[pax(&[("path", b"by-pax/../../x")]), file("a", b"")]),
        ),
        (
            "file/below",
            archive(&[file("file", b""), file("file/below", b"")]),
        ),
        (
            "link/below",
            archive(&[
                member(b'2', "link", "/etc", 0, b""),
                file("link/below", b""),
            ]),
        ),
        (
            "number 1",
            archive(&[member(b'x', "pax", "", long, b"4294967296 path=a")]),
        ),
        (
            "number 1",
            archive(&[member(b'L', "././@LongLink", "", long, b"aaaa")]),
        ),
        (
            "liar",
            archive(&[sparse("liar", "100", "1\n0\n5000\n", b"data")]),
        ),
        (
            "number 1",
            archive(&[sparse("liar", "99999999999999999999", "1\n0\n4\n", b"data")]),
        ),
        (
            "liar",
            archive(&[sparse("liar", "9000", "2\n8000\n4\n0\n4\n", b"datadata")]),
        ),
        (
            "liar",
            archive(&[sparse("liar", "9000", "99999999999\n0\n4\n", b"data")]),
        ),
        ("half", truncated),
        (
            "number 1",
            archive(&[member(b'0', "half", "", 1 << 50, b"data")]),
        ),
        ("number 1", vec![b'x'; 5000]),
    ];
    let shale = Shale::new()?;
    for (name, bytes) in cases {
        let ended = limited(&shale, &["push", "-", "test/tree"], &bytes)?;
        ended
            .expect(1, name)
            .with_context(|| format!("archive with {name}"))?;
    }
    let listed = run(shale.command().args(["template", "ls", "--quiet"]))?;
    ensure!(listed.trim().is_empty(), "{listed}");
    Ok(())
}

#[test]
fn of_a_name_that_comes_twice_the_last_is_kept_and_links_may_point_anywhere() -> Result<()> {
    let shale = Shale::new()?;
    let members = [
        file("name", b"first"),
        file("name", b"second, and last"),
        member(b'2', "out", "../../../etc/passwd", 0, b""),
        member(b'5', "was-file/", "", 0, b""),
        file("was-file/inside", b"inside"),
    ];
    limited(&shale, &["push", "-", "test/tree"], &archive(&members))?.expect(0, "")?;
    limited(&shale, &["export", "test/tree", "disk.raw"], b"")?.expect(0, "")?;
    let disk = shale.home().join("disk.raw");
    run(tool("e2fsck")?.arg("-fn").arg(&disk))?;
    let ask = |what: &str| run(tool("debugfs")?.args(["-R", what]).arg(&disk));
    assert_eq!(ask("cat /name")?, "second, and last");
    ensure!(ask("stat /out")?.contains("../../../etc/passwd"));
    Ok(())
}

#[test]
fn what_ext4_cannot_hold_is_named_when_the_disk_is_made() -> Result<()> {
    let shale = Shale::new()?;
    let large = vec![b'x'; 100_000];
    let cases = [
        (
            "attributed",
            archive(&[
                pax(&[("SCHILY.xattr.user.large", &large)]),
                file("attributed", b""),
            ]),
        ),
        (
            "old",
            archive(&[pax(&[("mtime", b"-99999999999")]), file("old", b"")]),
        ),
        (
            "huge",
            archive(&[sparse(
                "huge",
                &(16u64 << 40).to_string(),
                "1\n0\n4\n",
                b"data",
            )]),
        ),
    ];
    for (name, bytes) in cases {
        let reference = format!("test/{name}");
        limited(&shale, &["push", "-", &reference], &bytes)?.expect(0, "")?;
        let ended = limited(&shale, &["export", &reference, "disk.raw"], b"")?;
        ended.expect(1, name)?;
        ensure!(
            !shale.home().join("disk.raw").exists(),
            "{name}: half a disk is left"
        );
    }
    Ok(())
}
