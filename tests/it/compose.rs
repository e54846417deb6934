//! The fold against those who define it: a mounted overlayfs, and an unpacked stack of OCI layers.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::{LoopMount, Random, Shale, need_root, run, tool, tree_differences};
use shale_ingest::{Difference, DirSource, TarSource};
use shale_model::{ComposeError, TreeLayer, compose};

use crate::export::check_file_system;
use crate::oracle::{
    Form, Generator, Seen, Unpacked, archive, collect, compare, composed, members, mounted, unpack,
    write_layer,
};

/// Stacks that each of the two oracles judges.
const CASES: usize = 256;

/// A file system that overlayfs takes layers from: that of the machine may be an overlay itself.
struct Workplace {
    mount: LoopMount,
    _image: tempfile::TempDir,
}

impl Workplace {
    fn new() -> Result<Self> {
        need_root()?;
        let directory = tempfile::tempdir()?;
        let image = directory.path().join("image");
        File::create(&image)?.set_len(256 << 20)?;
        run(tool("mke2fs")?
            .args(["-q", "-t", "ext4", "-O", "^has_journal", "-i", "4096"])
            .arg(&image))?;
        Ok(Self {
            mount: LoopMount::new(&image, "rw,nobarrier")?,
            _image: directory,
        })
    }

    /// Runs one case in an empty directory, and says which it was when it fails.
    fn case(&self, number: usize, case: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let directory = self.mount.path().join(number.to_string());
        fs::create_dir(&directory)?;
        case(&directory).with_context(|| format!("case {number}"))?;
        Ok(fs::remove_dir_all(directory)?)
    }
}

/// An overlayfs that nothing can be written to; unmounted when dropped.
struct Overlay(PathBuf);

impl Overlay {
    /// Mounts `layers`, bottom first, at `at`.
    fn new(layers: &[PathBuf], at: PathBuf) -> Result<Self> {
        let top_first: Vec<&[u8]> = layers
            .iter()
            .rev()
            .map(|l| l.as_os_str().as_bytes())
            .collect();
        let options = [b"ro,lowerdir=", &top_first.join(&b':')[..]].concat();
        fs::create_dir(&at)?;
        run(tool("mount")?
            .args(["-t", "overlay", "overlay", "-o"])
            .arg(OsString::from_vec(options))
            .arg(&at))?;
        Ok(Self(at))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = tool("umount").and_then(|mut umount| run(umount.arg("-l").arg(&self.0)));
    }
}

#[test]
fn privileged_compose_equals_overlayfs() -> Result<()> {
    let work = Workplace::new()?;
    let mut random = Random::printed("stacks of overlayfs");
    let mut generator = Generator {
        random: &mut random,
        form: Form::Overlay,
        chunks: Default::default(),
        seen: Seen::default(),
    };
    for number in 0..CASES {
        let stack = generator.stack()?;
        work.case(number, |directory| {
            let layers: Vec<_> = (0..stack.len())
                .map(|n| directory.join(format!("{n}")))
                .collect();
            for (layer, path) in stack.iter().zip(&layers) {
                fs::create_dir(path)?;
                write_layer(layer, &generator.chunks, path, Form::Overlay)?;
            }
            let overlay = Overlay::new(&layers, directory.join("merged"))?;
            let ours = composed(&compose(&stack)?, &generator.chunks)?;
            compare(&mounted(&overlay.0)?, &ours)
        })?;
    }
    generator.seen.assert_complete()
}

/// The layers of an OCI image, written by tar and read again.
struct Archived {
    layers: Vec<TreeLayer>,
    members: Vec<Vec<Vec<u8>>>,
}

/// Writes `stack` below `directory`, layer 0 in `0` and `0.tar`, and reads the archives.
fn write_archives(
    stack: &[TreeLayer],
    generator: &mut Generator<'_>,
    directory: &Path,
) -> Result<Archived> {
    let (mut layers, mut all) = (Vec::new(), Vec::new());
    for (number, layer) in stack.iter().enumerate() {
        let path = directory.join(number.to_string());
        fs::create_dir(&path)?;
        write_layer(layer, &generator.chunks, &path, Form::Oci)?;
        let (members, tar) = (members(layer)?, path.with_extension("tar"));
        archive(&path, &members, &tar)?;
        layers.push(collect(
            &mut TarSource::new(File::open(&tar)?),
            &mut generator.chunks,
        )?);
        all.push(members);
    }
    Ok(Archived {
        layers,
        members: all,
    })
}

/// An empty tree as the fold sees one that no layer describes.
fn empty_tree(path: &Path) -> Result<()> {
    fs::create_dir(path)?;
    Ok(File::open(path)?.set_modified(std::time::UNIX_EPOCH)?)
}

#[test]
fn privileged_compose_equals_an_oci_unpack() -> Result<()> {
    let work = Workplace::new()?;
    let mut random = Random::printed("stacks of OCI layers");
    let mut generator = Generator {
        random: &mut random,
        form: Form::Oci,
        chunks: Default::default(),
        seen: Seen::default(),
    };
    let mut whole = 0;
    for number in 0.. {
        if whole == CASES {
            break;
        }
        let stack = generator.stack()?;
        work.case(number, |directory| {
            let archived = write_archives(&stack, &mut generator, directory)?;
            let tree = directory.join("tree");
            empty_tree(&tree)?;
            for (number, members) in archived.members.iter().enumerate() {
                let layers = &archived.layers[..=number];
                let unpacked = unpack(members, &directory.join(number.to_string()), &tree)?;
                if unpacked == Unpacked::NotDirectory {
                    let error = compose(layers).err();
                    ensure!(
                        matches!(error, Some(ComposeError::NotDirectory { .. })),
                        "compose says {error:?}"
                    );
                    return Ok(());
                }
                let real = mounted(&tree)?;
                let below = compose(&layers[..number])?;
                let above = compose(layers)?;
                compare(&real, &composed(&above, &generator.chunks)?)?;
                // And back again: the difference of the tree to the one below it, put on that.
                let mut source = DirSource::open(&tree)?;
                let mut difference = Difference::new(&mut source, &below);
                let difference = collect(&mut difference, &mut generator.chunks)?;
                let again = layers[..number].iter().chain([&difference]);
                compare(&real, &composed(&compose(again)?, &generator.chunks)?)
                    .context("the difference")?;
            }
            whole += 1;
            Ok(())
        })?;
    }
    generator.seen.assert_complete()
}

/// Stacks that go through the program and a kernel.
const MOUNTED_CASES: usize = 4;

/// How a layer above the first is pushed.
#[derive(Clone, Copy)]
enum PushedAs {
    /// As the whole tree, which the program compares with the base.
    Tree,
    /// As the archive that the layer is, with its whiteouts.
    Difference,
}

#[test]
fn privileged_a_pushed_stack_mounts_as_an_oci_unpack_left_it() -> Result<()> {
    a_pushed_stack_is_an_oci_unpack(PushedAs::Tree)
}

#[test]
fn privileged_layers_of_an_oci_image_mount_as_an_oci_unpack_left_them() -> Result<()> {
    a_pushed_stack_is_an_oci_unpack(PushedAs::Difference)
}

fn a_pushed_stack_is_an_oci_unpack(pushed_as: PushedAs) -> Result<()> {
    let work = Workplace::new()?;
    let shale = Shale::new()?;
    let mut random = Random::printed("stacks that are mounted");
    let mut generator = Generator {
        random: &mut random,
        form: Form::Oci,
        chunks: Default::default(),
        seen: Seen::default(),
    };
    let mut whole = 0;
    for number in 0.. {
        if whole == MOUNTED_CASES {
            break;
        }
        let stack = generator.stack()?;
        work.case(number, |directory| {
            let archived = write_archives(&stack, &mut generator, directory)?;
            let tree = directory.join("tree");
            empty_tree(&tree)?;
            let name = |layer: usize| format!("test/stack-{number}:{layer}");
            for (layer, members) in archived.members.iter().enumerate() {
                let from = directory.join(layer.to_string());
                if unpack(members, &from, &tree)? == Unpacked::NotDirectory {
                    return Ok(());
                }
                let mut push = shale.command();
                push.arg("push");
                let below = layer.checked_sub(1).map(name);
                push.args(below.iter().flat_map(|below| ["--base", below]));
                let source = match pushed_as {
                    PushedAs::Difference if below.is_some() => {
                        push.arg("--difference");
                        from.with_extension("tar")
                    }
                    _ => tree.clone(),
                };
                run(push.arg(source).arg(name(layer)))?;
            }
            let disk = directory.join("disk.raw");
            let top = name(archived.members.len() - 1);
            run(shale.command().args(["export", &top]).arg(&disk))?;
            check_file_system(&disk)?;
            let mount = LoopMount::new(&disk, "ro")?;
            let mut differences = tree_differences(&tree, &mount.path())?;
            differences.retain(|difference| !difference.contains("lost+found"));
            ensure!(differences.is_empty(), "{differences:#?}");
            whole += 1;
            mount.unmount()
        })?;
    }
    Ok(())
}
