//! Content of files: sparse, in many extents, made by merging; and disks of every size.

use std::collections::BTreeMap;

use shale_image::{LayoutError, NodeProblem, default_bytes, lay_out, minimum_bytes};
use shale_model::{ChunkId, Content, Extent, Filesystem, Kind, RunSource, Tree, compose};
use tempfile::TempDir;

use crate::mount::{Mount, compare};
use crate::support::{
    LayerBuilder, PROFILES, Store, attrs, check, debugfs, options, plan, tool, write_disk,
};

fn file(extents: Vec<Extent>) -> Kind {
    Kind::File(Content::new(extents).unwrap())
}

/// Pieces of data between holes, `count` of them.
fn striped(store: &mut Store, count: usize) -> Kind {
    let extents = (0..count).flat_map(|at| {
        let bytes = format!("{at}").into_bytes().repeat(1 + at % 900);
        let rest = bytes.len().next_multiple_of(4096) - bytes.len();
        let hole = Extent::Hole {
            len: rest as u64 + 4096 * (1 + at as u64 % 3),
        };
        [store.chunk(bytes), hole]
    });
    file(extents.collect())
}

#[test]
fn privileged_sparse_files_and_deep_extent_trees() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    for count in [1, 4, 5, 340, 341, 1360, 1361, 3000] {
        let striped = striped(&mut store, count);
        layer.add(format!("striped-{count}").as_bytes(), striped, attrs(0o644));
    }
    let gib = 1u64 << 30;
    let hole = |len| Extent::Hole { len };
    let (start, middle, end) = (
        store.chunk(vec![1; 4096]),
        store.chunk(vec![2; 70_000]),
        store.chunk(vec![3; 1]),
    );
    let sparse = file(vec![
        start,
        hole(4 * gib),
        middle,
        hole(5 * gib + 4096 - 70_000 % 4096),
        end,
        hole(777),
    ]);
    let most = file(vec![hole((16 << 40) - 4096 - 4096), end]);
    layer
        .add(b"sparse", sparse, attrs(0o644))
        .add(b"most", most, attrs(0o644))
        .add(b"hole", file(vec![hole(10)]), attrs(0o644));
    let temp = TempDir::new().unwrap();
    for filesystem in PROFILES {
        let disk = temp.path().join("disk");
        let (tree, parts) = plan(&[layer.build()], filesystem, 0);
        write_disk(&parts, &store, &disk);
        check(&disk);
        let mount = Mount::new(&disk, "rw");
        compare(&tree, &store, mount.path());
        mount.close();
        check(&disk);
    }
}

/// Files over the ends of groups, and more than one group of inodes.
#[test]
fn privileged_files_cross_groups() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    let chunk = |store: &mut Store, at: usize| store.chunk(vec![at as u8 | 1; 200_000 + at]);
    let large: Vec<Extent> = (0..1000).map(|at| chunk(&mut store, at)).collect();
    layer.add(b"large", file(large.clone()), attrs(0o644));
    layer.add(b"zz", file(large[..900].to_vec()), attrs(0o644));
    layer.dir("d");
    for at in 0..20_000 {
        let name = format!("d/{at}");
        layer.add(name.as_bytes(), Kind::Fifo, attrs(0o600));
    }
    let temp = TempDir::new().unwrap();
    for filesystem in PROFILES {
        let disk = temp.path().join("disk");
        let (tree, parts) = plan(&[layer.build()], filesystem, 0);
        write_disk(&parts, &store, &disk);
        check(&disk);
        let mount = Mount::new(&disk, "rw");
        compare(&tree, &store, mount.path());
        mount.close();
        check(&disk);
    }
}

#[test]
fn merged_bytes_become_part_of_the_plan() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    let merged = store.chunk(b"root:x:0:0\n".repeat(2000));
    let (whole, head) = (store.chunk(vec![9; 8192]), store.chunk(vec![8; 100]));
    let other = store.chunk(vec![7; 5000]);
    layer
        .add(b"passwd", file(vec![merged]), attrs(0o644))
        .add(b"mixed", file(vec![whole, merged]), attrs(0o644))
        .add(b"other", file(vec![other]), attrs(0o644));
    let Extent::Chunk { id, .. } = merged else {
        unreachable!()
    };
    let mut synthetic = BTreeMap::from([(id, store.0[&id].clone())]);
    let options = options(Filesystem::Ext4V1, 0);
    let tree = compose(&[layer.build()]).unwrap();
    let parts = lay_out(&tree, &options, &synthetic).unwrap();
    assert!(parts.chunks.iter().all(|(chunk, _)| *chunk != id));
    assert_eq!(parts.chunks.len(), 2);
    let temp = TempDir::new().unwrap();
    let disk = temp.path().join("disk");
    store.0.remove(&id);
    write_disk(&parts, &store, &disk);
    check(&disk);
    let passwd = debugfs(&disk, "cat /passwd");
    assert_eq!(passwd, "root:x:0:0\n".repeat(2000));
    let mixed = debugfs(&disk, "cat /mixed");
    assert_eq!(mixed, "\t".repeat(8192) + &passwd);

    layer.add(b"mixed", file(vec![head, merged]), attrs(0o644));
    let tree = compose(&[layer.build()]).unwrap();
    let problem =
        |tree: &Tree, merged: &BTreeMap<ChunkId, Vec<u8>>| match lay_out(tree, &options, merged) {
            Err(LayoutError::Node { path, problem }) => (path.to_string(), problem),
            other => panic!("{other:?}"),
        };
    assert_eq!(
        problem(&tree, &synthetic),
        ("/mixed".to_owned(), NodeProblem::MixedBlock)
    );
    layer.add(b"mixed", Kind::Fifo, attrs(0));
    let tree = compose(&[layer.build()]).unwrap();
    synthetic.insert(id, vec![0; 3]);
    let (expected, found) = (22_000, 3);
    assert_eq!(
        problem(&tree, &synthetic).1,
        NodeProblem::MergedLength { expected, found }
    );
}

#[test]
fn disks_of_every_size_are_clean() {
    let mut store = Store::default();
    let mut layer = LayerBuilder::default();
    let chunk = store.chunk(vec![5; 250_000]);
    layer.add(b"file", file(vec![chunk; 300]), attrs(0o644));
    let tree = compose(&[layer.build()]).unwrap();
    let temp = TempDir::new().unwrap();
    let disk = temp.path().join("disk");
    for filesystem in PROFILES {
        let minimum = minimum_bytes(&tree, filesystem).unwrap();
        assert_eq!(default_bytes(&tree, filesystem).unwrap(), 2 << 30);
        let group = 128 << 20;
        let end = minimum.next_multiple_of(group);
        let sizes = [
            minimum,
            minimum + 4096,
            end - 4096,
            end,
            end + 4096,
            end + 566 * 4096,
            end + 567 * 4096,
            end + 568 * 4096,
            20 * group,
            100 * group + (50 << 20),
            128 * group,
            129 * group,
            64 * group + (3 << 20),
            1 << 40,
        ];
        for bytes in sizes {
            let parts = lay_out(&tree, &options(filesystem, bytes), &BTreeMap::new()).unwrap();
            write_disk(&parts, &store, &disk);
            check(&disk);
        }
        let refused = |bytes| lay_out(&tree, &options(filesystem, bytes), &BTreeMap::new());
        let asked = minimum - 4096;
        assert_eq!(
            refused(asked),
            Err(LayoutError::TooSmall { asked, minimum })
        );
        assert_eq!(
            refused(minimum + 1),
            Err(LayoutError::DiskSize(minimum + 1))
        );
        let large = (16 << 40) + 4096;
        assert_eq!(refused(large), Err(LayoutError::DiskSize(large)));
    }
}

#[test]
fn features_are_those_of_the_profile() {
    let temp = TempDir::new().unwrap();
    let disk = temp.path().join("disk");
    let new = "has_journal ext_attr dir_index filetype meta_bg extent 64bit metadata_csum_seed \
               sparse_super large_file huge_file dir_nlink extra_isize metadata_csum";
    let old = "has_journal ext_attr dir_index filetype meta_bg extent sparse_super large_file \
               huge_file uninit_bg dir_nlink extra_isize";
    for (filesystem, features) in PROFILES.into_iter().zip([new, old]) {
        let (_, parts) = plan(&[LayerBuilder::default().build()], filesystem, 0);
        assert!(
            parts
                .runs
                .iter()
                .all(|run| matches!(run.source, RunSource::Synthesised(_)))
        );
        write_disk(&parts, &Store::default(), &disk);
        let output = tool("e2fsprogs", "dumpe2fs", &["-h", disk.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_once(':').unwrap().1.trim().to_owned()
        };
        assert_eq!(field("Filesystem features"), features);
        assert_eq!(
            field("Filesystem UUID"),
            "30313233-3435-3637-3839-616263646566"
        );
        assert_eq!(field("Filesystem flags"), "unsigned_directory_hash");
        assert_eq!(field("Total journal size"), "64M");
        assert_eq!(field("Filesystem state"), "clean");
    }
}
