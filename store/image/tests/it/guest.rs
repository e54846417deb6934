//! What a guest does to a disk: its kernel goes on with what the layout made.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use shale_model::{Content, Kind};
use tempfile::TempDir;

use crate::mount::Mount;
use crate::support::{
    LayerBuilder, PROFILES, Store, attrs, check, debugfs, plan, tool, write_disk, xattrs,
};

/// A tree with directories of one block, of a hash tree of one level and of two.
fn layer(store: &mut Store) -> LayerBuilder {
    let mut layer = LayerBuilder::default();
    let mut noted = attrs(0o644);
    noted.xattrs = xattrs(&[(b"trusted.note", b"x"), (b"trusted.large", &[3; 300])]);
    for (dir, count) in [("one", 20), ("some", 3000), ("many", 60_000)] {
        layer.dir(dir);
        for at in 0..count {
            let kind = match at % 50 {
                0 => store.file(&[at as u8; 5000]),
                _ => Kind::Fifo,
            };
            let name = format!("{dir}/a-name-of-some-length-{at}");
            layer.add(name.as_bytes(), kind, noted.clone());
        }
    }
    layer
}

#[test]
fn privileged_a_guest_creates_renames_and_removes_everywhere() {
    let mut store = Store::default();
    let layer = layer(&mut store);
    let temp = TempDir::new().unwrap();
    let disk = temp.path().join("disk");
    for filesystem in PROFILES {
        let (_, parts) = plan(&[layer.build()], filesystem, 0);
        write_disk(&parts, &store, &disk);
        let mount = Mount::new(&disk, "rw");
        for (dir, count) in [
            ("one", 20),
            ("some", 3000),
            ("many", 60_000),
            ("lost+found", 0),
        ] {
            work_in(&mount.path().join(dir), count);
        }
        mount.close();
        check(&disk);
    }
}

fn work_in(dir: &Path, count: usize) {
    let old = |at| dir.join(format!("a-name-of-some-length-{at}"));
    for at in (0..count).step_by(2) {
        fs::rename(old(at), dir.join(format!("renamed-{at:0100}"))).unwrap();
    }
    for at in 0..5000 {
        fs::write(dir.join(format!("new-{at}")), at.to_string()).unwrap();
    }
    for at in (1..count).step_by(4) {
        fs::remove_file(old(at)).unwrap();
    }
    for at in (3..count).step_by(4).take(500) {
        xattr::set(old(at), "trusted.note", &[9; 200]).unwrap();
        xattr::remove(old(at), "trusted.large").unwrap();
    }
    for at in 0..200 {
        fs::create_dir_all(dir.join(format!("sub-{at}/below"))).unwrap();
    }
    for at in (0..5000).step_by(3) {
        let text = fs::read_to_string(dir.join(format!("new-{at}"))).unwrap();
        assert_eq!(text, at.to_string());
    }
}

#[test]
fn privileged_a_guest_fills_the_disk() {
    let mut store = Store::default();
    let layer = layer(&mut store);
    let temp = TempDir::new().unwrap();
    let disk = temp.path().join("disk");
    for filesystem in PROFILES {
        // The last group is not whole, and others were never initialised.
        let (_, parts) = plan(&[layer.build()], filesystem, (1300 << 20) + 4096);
        write_disk(&parts, &store, &disk);
        let mount = Mount::new(&disk, "rw");
        // More inodes than the groups in use have.
        let touch = |at| fs::write(mount.path().join(format!("inode-{at}")), b"");
        (0..20_000).for_each(|at| touch(at).unwrap());
        let mut file = fs::File::create(mount.path().join("filler")).unwrap();
        let bytes = vec![0xA5; 1 << 20];
        let full = loop {
            if let Err(error) = file.write_all(&bytes) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        drop(file);
        let refused = (20_000..100_000).find_map(|at| touch(at).err());
        assert_eq!(refused.unwrap().kind(), ErrorKind::StorageFull);
        mount.close();
        check(&disk);
    }
}

/// A file that a layer brought is cut, written and lengthened in place.
#[test]
fn privileged_a_guest_changes_files_of_the_template() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    let extents = (0..600u32).map(|at| store.chunk(vec![at as u8 | 1; 40_000]));
    let extents = extents.collect::<Vec<_>>();
    let file = Kind::File(Content::new(extents).unwrap());
    layer
        .add(b"cut", file.clone(), attrs(0o644))
        .add(b"gone", file.clone(), attrs(0o644))
        .add(b"longer", file, attrs(0o644));
    let temp = TempDir::new().unwrap();
    let disk = temp.path().join("disk");
    for filesystem in PROFILES {
        let (_, parts) = plan(&[layer.build()], filesystem, 0);
        write_disk(&parts, &store, &disk);
        let mount = Mount::new(&disk, "rw");
        let open = |name| {
            let path = mount.path().join(name);
            fs::OpenOptions::new().append(true).open(path).unwrap()
        };
        open("cut").set_len(12_345_678).unwrap();
        open("longer").write_all(&vec![0x77; 50_000_000]).unwrap();
        fs::remove_file(mount.path().join("gone")).unwrap();
        mount.close();
        check(&disk);
        let mount = Mount::new(&disk, "ro");
        let longer = fs::read(mount.path().join("longer")).unwrap();
        assert!(longer[24_000_000..].iter().all(|b| *b == 0x77));
        assert_eq!(longer.len(), 74_000_000);
        mount.close();
    }
}

/// 131,072 groups of which one holds anything. `e2fsck` takes 25 s for it, and finds nothing: too long
/// to run each time.
#[test]
fn privileged_the_largest_disk_mounts() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    layer.add(b"file", store.file(b"content"), attrs(0o644));
    // A file of this size is more than ext4 holds, so that memory has to.
    let temp = TempDir::new_in("/dev/shm").unwrap();
    let disk = temp.path().join("disk");
    let bytes = 16 << 40;
    // Without 64-bit counts the last block has to stay unused.
    for (filesystem, blocks) in PROFILES.into_iter().zip([1u64 << 32, (1 << 32) - 1]) {
        let (_, parts) = plan(&[layer.build()], filesystem, bytes);
        // Three copies of 131,072 descriptors of at most 64 bytes, and little else.
        assert!(parts.synthesised.len() < 26 << 20);
        write_disk(&parts, &store, &disk);
        let output = tool("e2fsprogs", "dumpe2fs", &["-h", disk.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = format!("Block count:              {blocks}");
        assert!(text.contains(&line), "{text}");
        let mount = Mount::new(&disk, "rw");
        assert_eq!(fs::read(mount.path().join("file")).unwrap(), b"content");
        fs::write(mount.path().join("new"), b"new").unwrap();
        mount.close();
    }
}

/// A guest that dies leaves its last writes in the journal; the next mount brings them back.
#[test]
fn privileged_the_journal_of_a_killed_guest_replays() {
    let mut store = Store::default();
    let layer = layer(&mut store);
    let temp = TempDir::new().unwrap();
    let (disk, copy) = (temp.path().join("disk"), temp.path().join("copy"));
    for filesystem in PROFILES {
        let (_, parts) = plan(&[layer.build()], filesystem, 0);
        write_disk(&parts, &store, &disk);
        let mount = Mount::new(&disk, "rw");
        for at in 0..500 {
            let name = format!("a-name-of-some-length-{at}");
            let from = mount.path().join("some").join(&name);
            let to = mount.path().join("one").join(format!("moved-{at}"));
            fs::rename(&from, &to).unwrap();
        }
        let last = fs::File::create(mount.path().join("last")).unwrap();
        last.sync_all().unwrap();
        drop(last);
        // What the disk holds now is what a machine without power finds.
        let output = tool(
            "coreutils",
            "cp",
            &[
                "--sparse=always",
                disk.to_str().unwrap(),
                copy.to_str().unwrap(),
            ],
        );
        assert!(output.status.success(), "{output:?}");
        mount.close();
        let dirty = debugfs(&copy, "stats");
        assert!(dirty.contains("needs_recovery"), "{dirty}");
        let mount = Mount::new(&copy, "rw");
        assert!(mount.path().join("last").exists());
        assert!(mount.path().join("one/moved-499").exists());
        mount.close();
        check(&copy);
    }
}
