//! Single disks: clean for the check, and as the tree says.

use shale_model::{Kind, Rdev, RunSource};
use tempfile::TempDir;

use crate::mount::{Mount, compare};
use crate::support::{
    LayerBuilder, PROFILES, Store, attrs, check, debugfs, plan, write_disk, xattrs,
};

#[test]
fn a_small_tree_is_clean_and_reads_back() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    let text = store.file(b"hello\n");
    let large: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let big = store.file(&large[..200_000]);
    let empty = store.file(b"");
    layer
        .dir("etc")
        .dir("dev")
        .dir("usr")
        .dir("usr/bin")
        .add(b"etc/motd", text, attrs(0o644))
        .add(b"usr/bin/big", big, attrs(0o4755))
        .add(b"etc/empty", empty, attrs(0o600))
        .add(b"bin", Kind::symlink(b"usr/bin").unwrap(), attrs(0o777))
        .add(b"long", Kind::symlink(&[b'x'; 300]).unwrap(), attrs(0o777))
        .add(b"dev/pipe", Kind::Fifo, attrs(0o600))
        .add(b"dev/sock", Kind::Socket, attrs(0o600))
        .add(
            b"dev/null",
            Kind::CharDevice(Rdev { major: 1, minor: 3 }),
            attrs(0o666),
        )
        .add(
            b"dev/vda",
            Kind::BlockDevice(Rdev {
                major: 254,
                minor: 300,
            }),
            attrs(0o660),
        );
    let temp = TempDir::new().unwrap();
    for filesystem in PROFILES {
        let disk = temp.path().join("disk");
        let (_, parts) = plan(&[layer.build()], filesystem, 0);
        write_disk(&parts, &store, &disk);
        check(&disk);
        assert_eq!(debugfs(&disk, "cat /etc/motd"), "hello\n");
        let copy = temp.path().join("copy");
        debugfs(&disk, &format!("dump /usr/bin/big {}", copy.display()));
        assert_eq!(std::fs::read(&copy).unwrap(), large[..200_000]);
    }
}

#[test]
fn privileged_a_small_tree_mounts() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    let text = store.file(b"hello\n");
    let mut odd = attrs(0o2750);
    (odd.uid, odd.gid) = (100_000, 3_000_000_000);
    odd.mtime.seconds = -1;
    odd.xattrs = xattrs(&[(b"user.x", b"1"), (b"security.y", &[7; 100])]);
    layer
        .root(attrs(0o755))
        .add(b"d", Kind::Directory, odd.clone())
        .add(b"d/\xff\x01", text, odd);
    let temp = TempDir::new().unwrap();
    for filesystem in PROFILES {
        let disk = temp.path().join("disk");
        let (tree, parts) = plan(&[layer.build()], filesystem, 0);
        write_disk(&parts, &store, &disk);
        check(&disk);
        for options in ["ro", "rw"] {
            let mount = Mount::new(&disk, options);
            compare(&tree, &store, mount.path());
            mount.close();
        }
        check(&disk);
    }
}

/// The judge of all other tests finds what is wrong.
#[test]
fn the_check_complains_about_a_changed_byte() {
    let temp = TempDir::new().unwrap();
    let disk = temp.path().join("disk");
    let layer = LayerBuilder::default().dir("d").build();
    for filesystem in PROFILES {
        let (_, mut parts) = plan(std::slice::from_ref(&layer), filesystem, 0);
        // The links count of inode 12, the directory, in the first group's table.
        let table = parts.runs.iter().find(|run| run.block == 4).unwrap();
        let RunSource::Synthesised(at) = table.source else {
            unreachable!()
        };
        parts.synthesised[at as usize + 11 * 256 + 0x1A] ^= 1;
        write_disk(&parts, &Store::default(), &disk);
        assert!(std::panic::catch_unwind(|| check(&disk)).is_err());
    }
}
