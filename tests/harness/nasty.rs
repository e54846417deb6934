//! A source tree with one of everything that Linux can have in a file system, and the edges of each.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat, utimensat};

use crate::tools::{need_root, run, tool};

/// Fills the existing, empty directory `root`, with `many` small files in one directory of it. The same `many`
/// gives the same tree, times included, on every machine.
///
/// Besides what the sections below name: a sparse file beyond 4 GiB, a path of 3,000 bytes. The file system of
/// `root` must hold all that; ext4 does, tmpfs and overlayfs do not.
///
/// # Errors
///
/// Not root, a missing program, or a file system that refuses something; the message says what.
pub fn build_nasty_tree(root: &Path, many: usize) -> Result<()> {
    need_root()?;
    let section = |name: &str, fill: &dyn Fn(&Path) -> Result<()>| -> Result<()> {
        let directory = root.join(name);
        fs::create_dir(&directory)?;
        fill(&directory).with_context(|| format!("make {}", directory.display()))
    };
    section("contents", &contents)?;
    section("sparse", &sparse)?;
    section("names", &names)?;
    section("links", &links)?;
    section("special", &special)?;
    section("owners", &owners)?;
    section("attributes", &attributes)?;
    section("directories", &|directory| directories(directory, many))?;
    // Whatever is made in a directory changes the directory's time: so times come last.
    section("times", &|directory| {
        TIMES
            .iter()
            .try_for_each(|time| write(&directory.join(time_name(time)), b""))
    })?;
    set_times(root, Path::new(""))
}

/// Seconds and nanoseconds around the ends of what 32 bits and what e2fsck takes for a time of ext4 (1901 to 2310).
const TIMES: [(i64, u32); 9] = [
    (-2_147_483_648, 0),
    (-1, 999_999_999),
    (0, 0),
    (0, 1),
    (1_700_000_000, 123_456_789),
    (2_147_483_647, 999_999_999),
    (2_147_483_648, 1),
    (4_294_967_296, 500_000_000),
    (10_737_418_239, 999_999_999),
];

fn time_name(&(seconds, nanos): &(i64, u32)) -> String {
    format!("{seconds}.{nanos:09}")
}

fn contents(directory: &Path) -> Result<()> {
    let sizes = [
        0,
        1,
        15,
        4095,
        4096,
        4097,
        16 << 10,
        (64 << 10) + 1,
        256 << 10,
        (1 << 20) + 13,
    ];
    for size in sizes {
        write(&directory.join(format!("random-{size}")), &random(size))?;
    }
    let text: String = (0..50_000)
        .map(|line| format!("line {line} of a file that compresses\n"))
        .collect();
    write(&directory.join("text"), text.as_bytes())?;
    write(&directory.join("zeros"), &vec![0; 300_000])?;
    // The same bytes in two files, and again after an insertion: what deduplication is for.
    let shared = random(700_000);
    write(&directory.join("shared-a"), &shared)?;
    write(&directory.join("shared-b"), &shared)?;
    write(
        &directory.join("shared-shifted"),
        &[b"inserted", &shared[..]].concat(),
    )
}

fn sparse(directory: &Path) -> Result<()> {
    let mib = 1 << 20;
    // Name, length, and where there are 5,000 bytes of data.
    let files: [(&str, u64, &[u64]); 6] = [
        ("hole-only", 10 * mib, &[]),
        ("hole-first", 3 * mib + 5000, &[3 * mib]),
        ("hole-last", 3 * mib, &[0]),
        ("hole-between", 4 * mib, &[0, 2 * mib, 4 * mib - 5000]),
        ("hole-unaligned", 100_001, &[12_345]),
        (
            "beyond-4-gib",
            (5 << 30) + 5000,
            &[0, (4 << 30) - 2500, 5 << 30],
        ),
    ];
    for (name, length, data) in files {
        let mut file = File::create(directory.join(name))?;
        file.set_len(length)?;
        for &at in data {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&random(5000))?;
        }
    }
    Ok(())
}

fn names(directory: &Path) -> Result<()> {
    let longest = [b'n'; 255];
    let names: [&[u8]; 16] = [
        b"not utf-8 \xff\xfe",
        b"\x80",
        b"new\nline",
        b"tab\tand\x01control",
        b" spaces around ",
        b"-leading-dash",
        b"quote'double\"back\\slash",
        b"glob*?[a]",
        b".hidden",
        b"...",
        b"trailing.",
        b"Case",
        b"case",
        b".wh",
        "größe-ж-語-🪨".as_bytes(),
        &longest,
    ];
    names
        .iter()
        .try_for_each(|name| write(&directory.join(OsStr::from_bytes(name)), name))
}

fn links(directory: &Path) -> Result<()> {
    let long = |length: usize| "x/".repeat(2048)[..length].to_owned();
    let targets: [(&str, Vec<u8>); 9] = [
        ("relative", b"../contents/text".to_vec()),
        ("dangling", b"nowhere".to_vec()),
        ("absolute", b"/etc/passwd".to_vec()),
        ("out-of-the-tree", b"../../../../etc/passwd".to_vec()),
        ("not-utf-8", b"\xff\xfe".to_vec()),
        // ext4 keeps up to 59 bytes in the inode.
        ("59-bytes", long(59).into()),
        ("60-bytes", long(60).into()),
        ("61-bytes", long(61).into()),
        ("4095-bytes", long(4095).into()),
    ];
    for (name, target) in targets {
        symlink(OsStr::from_bytes(&target), directory.join(name))?;
    }

    let (near, far) = (directory.join("near"), directory.join("far"));
    fs::create_dir(&near)?;
    fs::create_dir(&far)?;
    write(&near.join("file"), b"one inode, three names")?;
    symlink("file", near.join("symlink"))?;
    make_node(&near.join("fifo"), FileType::Fifo, 0, 0)?;
    make_node(&near.join("device"), FileType::CharacterDevice, 1, 5)?;
    fs::hard_link(near.join("file"), near.join("file-again"))?;
    for name in ["file", "symlink", "fifo", "device"] {
        fs::hard_link(near.join(name), far.join(name))?;
    }
    Ok(())
}

fn special(directory: &Path) -> Result<()> {
    let nodes = [
        ("null", FileType::CharacterDevice, 1, 3),
        ("loop", FileType::BlockDevice, 7, 200),
        ("old-edge", FileType::CharacterDevice, 255, 255),
        ("new-edge", FileType::BlockDevice, 256, 256),
        ("largest", FileType::CharacterDevice, 4095, 1_048_575),
        ("fifo", FileType::Fifo, 0, 0),
        ("socket", FileType::Socket, 0, 0),
    ];
    nodes.iter().try_for_each(|&(name, kind, major, minor)| {
        make_node(&directory.join(name), kind, major, minor)
    })
}

fn owners(directory: &Path) -> Result<()> {
    let owners = [
        (0, 0),
        (1000, 100),
        (65_535, 65_536),
        (4_294_967_294, 4_294_967_294),
    ];
    let modes = [0o000, 0o600, 0o644, 0o755, 0o4755, 0o2755, 0o1644, 0o7777];
    for (uid, gid) in owners {
        for mode in modes {
            let path = directory.join(format!("file-{uid}-{gid}-{mode:04o}"));
            write(&path, b"owned")?;
            own(&path, uid, gid, mode)?;
        }
    }
    for mode in [0o1777, 0o2775, 0o700] {
        let path = directory.join(format!("directory-{mode:04o}"));
        fs::create_dir(&path)?;
        own(&path, 1000, 1000, mode)?;
    }
    symlink("nowhere", directory.join("symlink-1000-100"))?;
    lchown(directory.join("symlink-1000-100"), Some(1000), Some(100))?;
    Ok(())
}

fn attributes(directory: &Path) -> Result<()> {
    let file = |name: &str| -> Result<PathBuf> {
        let path = directory.join(name);
        write(&path, name.as_bytes())?;
        Ok(path)
    };
    let xattrs = file("xattrs")?;
    xattr::set(&xattrs, "user.empty", b"")?;
    xattr::set(&xattrs, "user.binary", b"\0\xff\n")?;
    xattr::set(&xattrs, "trusted.of-the-administrator", b"yes")?;
    xattr::set(&xattrs, "security.of-a-module", b"yes")?;
    xattr::set(file("large-xattr")?, "user.large", &random(3000))?;
    let many = file("many-xattrs")?;
    for number in 0..50 {
        xattr::set(
            &many,
            format!("user.number-{number}"),
            number.to_string().as_bytes(),
        )?;
    }
    symlink("xattrs", directory.join("symlink"))?;
    xattr::set(directory.join("symlink"), "trusted.of-the-link", b"yes")?;
    make_node(&directory.join("fifo"), FileType::Fifo, 0, 0)?;
    xattr::set(directory.join("fifo"), "trusted.of-the-fifo", b"yes")?;

    let capable = file("capabilities")?;
    fs::set_permissions(&capable, PermissionsExt::from_mode(0o755))?;
    run(tool("setcap")?
        .arg("cap_net_raw,cap_net_bind_service+ep")
        .arg(&capable))?;

    run(tool("setfacl")?
        .args(["-m", "u:1000:rw-,g:100:r--,m::rw-"])
        .arg(file("acl")?))?;
    let shared = directory.join("default-acl");
    fs::create_dir(&shared)?;
    xattr::set(&shared, "user.on-a-directory", b"yes")?;
    run(tool("setfacl")?
        .args(["-m", "g:100:rwx,d:u:1000:rwx,d:g:100:r-x"])
        .arg(&shared))?;
    write(&shared.join("inherits"), b"from its directory")
}

fn directories(directory: &Path, many: usize) -> Result<()> {
    fs::create_dir(directory.join("empty"))?;
    // Components of one byte, then of 100: depth without length, and a path of 3,000 bytes.
    fs::create_dir_all(directory.join(vec!["d"; 200].join("/")))?;
    let long = directory.join(vec!["d".repeat(100); 29].join("/"));
    fs::create_dir_all(&long)?;
    write(&long.join("at-the-bottom"), b"deep")?;

    let crowd = directory.join("many");
    fs::create_dir(&crowd)?;
    for number in 0..many {
        fs::write(
            crowd.join(format!("a name among many, number {number}")),
            number.to_string(),
        )?;
    }
    // More subdirectories than one directory block holds.
    let wide = directory.join("wide");
    (0..300).try_for_each(|number| fs::create_dir_all(wide.join(format!("{number}"))))?;
    Ok(())
}

/// Gives everything below and including `root/path` a time that depends on its path alone, but what is in `times`.
fn set_times(root: &Path, path: &Path) -> Result<()> {
    let full = root.join(path);
    let metadata = fs::symlink_metadata(&full)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(&full)? {
            set_times(root, &path.join(entry?.file_name()))?;
        }
    }
    let own_time = || {
        TIMES
            .into_iter()
            .find(|time| path == Path::new("times").join(time_name(time)))
    };
    let by_path = || {
        let sum = path
            .as_os_str()
            .as_bytes()
            .iter()
            .fold(7u32, |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into()));
        (
            1_600_000_000 + i64::from(sum % 100_000_000),
            sum % 1_000_000_000,
        )
    };
    // All names of an inode must ask for one time.
    let (seconds, nanos) = if metadata.nlink() > 1 && !metadata.is_dir() {
        (1_650_000_000, 650)
    } else {
        own_time().unwrap_or_else(by_path)
    };
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, &full, &times, AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("set the time of {full:?}"))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {path:?}"))
}

/// The mode last, because a change of owner takes set-id bits away.
fn own(path: &Path, uid: u32, gid: u32, mode: u32) -> Result<()> {
    lchown(path, Some(uid), Some(gid)).with_context(|| format!("give {path:?} to {uid}:{gid}"))?;
    fs::set_permissions(path, PermissionsExt::from_mode(mode))
        .with_context(|| format!("chmod {path:?}"))
}

fn make_node(path: &Path, kind: FileType, major: u32, minor: u32) -> Result<()> {
    mknodat(CWD, path, kind, Mode::from(0o640), makedev(major, minor))
        .with_context(|| format!("mknod {path:?}"))
}

/// Bytes that do not compress, the same for the same `length` (xorshift64*, Vigna 2016).
fn random(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ length as u64;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56
    };
    (0..length).map(|_| next() as u8).collect()
}
