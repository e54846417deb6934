//! Layers that are made up, for sizes that no input has.

use anyhow::Result;
use shale_model::{
    Attrs, ChunkId, Content, Entry, Extent, Kind, LayerDir, Mtime, Name, TreeLayer, TreePath,
};

/// Files in one made-up directory.
const FILES_A_DIRECTORY: usize = 100;

/// When made-up files begin to be made: a time of today's length.
const FIRST_SECOND: i64 = 1_700_000_000;

/// `entries` entries below the directory `name`: files of one chunk of its own each, in directories of a hundred.
pub(crate) fn application(name: &str, entries: usize) -> Result<TreeLayer> {
    let mut random = fastrand::Rng::with_seed(entries as u64);
    let top = Name::new(name.as_bytes())?;
    let top_path = TreePath::root().join(&top)?;
    let count = entries.div_ceil(FILES_A_DIRECTORY + 1);
    let names: Vec<Name> = (0..count)
        .map(|number| Name::new(format!("directory-{number:07}").as_bytes()))
        .collect::<Result<_, _>>()?;
    let directory = |name: &Name| entry(name, Kind::Directory, 0);
    let mut dirs = vec![
        LayerDir {
            path: TreePath::root(),
            entries: vec![directory(&top)],
        },
        LayerDir {
            path: top_path.clone(),
            entries: names.iter().map(directory).collect(),
        },
    ];
    let mut left = entries.saturating_sub(count + 1);
    for name in &names {
        let files = left.min(FILES_A_DIRECTORY);
        left -= files;
        let mut entries = Vec::with_capacity(files);
        for number in 0..files {
            let name = Name::new(format!("file-{number:03}.conf").as_bytes())?;
            let mut id = [0; 32];
            random.fill(&mut id);
            let id = ChunkId::from_bytes(id);
            let len = random.u32(1..16_384);
            let content = Content::new(vec![Extent::Chunk { id, len }])?;
            let age = random.i64(0..100_000);
            entries.push(entry(&name, Kind::File(content), age));
        }
        if files > 0 {
            dirs.push(LayerDir {
                path: top_path.join(name)?,
                entries,
            });
        }
    }
    Ok(TreeLayer { root: None, dirs })
}

fn entry(name: &Name, kind: Kind, age: i64) -> Entry {
    let mode = if kind.is_directory() { 0o755 } else { 0o644 };
    let mtime = Mtime {
        seconds: FIRST_SECOND + age,
        nanos: 0,
    };
    Entry {
        name: name.clone(),
        attrs: Attrs {
            mode,
            mtime,
            ..Attrs::default()
        },
        kind,
    }
}

/// `layer`, and all of it again below each of `copies - 1` new directories.
pub(crate) fn repeated(layer: &TreeLayer, copies: usize) -> Result<TreeLayer> {
    let mut dirs = layer.dirs.clone();
    for copy in 1..copies {
        let name = Name::new(format!("copy-{copy}").as_bytes())?;
        let top = TreePath::root().join(&name)?;
        if let Some(root) = dirs.iter_mut().find(|dir| dir.path.is_root()) {
            root.entries.push(entry(&name, Kind::Directory, 0));
            root.entries.sort_by(|a, b| a.name.cmp(&b.name));
        }
        for dir in &layer.dirs {
            let mut entries = dir.entries.clone();
            for entry in &mut entries {
                if let Kind::HardLink(target) = &mut entry.kind {
                    *target = below(&top, target)?;
                }
            }
            dirs.push(LayerDir {
                path: below(&top, &dir.path)?,
                entries,
            });
        }
    }
    dirs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(TreeLayer {
        root: layer.root.clone(),
        dirs,
    })
}

fn below(top: &TreePath, path: &TreePath) -> Result<TreePath> {
    if path.is_root() {
        return Ok(top.clone());
    }
    Ok(TreePath::new(
        &[top.as_bytes(), b"/", path.as_bytes()].concat(),
    )?)
}
