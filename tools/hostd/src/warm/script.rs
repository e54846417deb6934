//! An identity as a script: what makes the files of a guest those that a cold start would find on its disk. It starts
//! hardly any program, because each takes a guest that is translated some hundredths of a second.

use std::collections::HashMap;

use shale_image::identity::Identity;
use shale_image::merge::ChunkBytes;
use shale_model::{
    Attrs, ChunkId, Content, Entry, Extent, Kind, Mtime, Template, Tree, TreeLayer, TreePath,
};

use crate::compose::{ComposeError, Composer};
use crate::error::{HostError, HostResult};
use crate::identity::no_identity;

/// The databases of accounts. A guest may have added to its own when it booted, so they are merged there.
const ACCOUNTS: [&str; 4] = ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"];

/// What a script begins with, and what it ends with.
const BEGIN: &str = include_str!("begin.sh");
const FINISH: &str = include_str!("finish.sh");

/// What an identity changes on a template.
#[derive(Default)]
pub(crate) struct IdentityFiles {
    layer: TreeLayer,
    bytes: ChunkBytes,
    /// What the machine had that was kept.
    before: TreeLayer,
}

impl Composer {
    /// What an identity changes on a template, with the bytes of all of it. Blocks.
    pub(crate) fn identity_files(
        &self,
        template: &Template,
        identity: &Identity,
    ) -> Result<IdentityFiles, ComposeError> {
        let nobody = no_identity(&template.machine.login_user, 0);
        let nobody = nobody.map_err(ComposeError::Memory)?;
        let mut files = IdentityFiles::default();
        self.compose_with(template, |tree: &Tree, synthetic: &ChunkBytes| {
            let (before, _) = self.apply(tree, synthetic, &nobody, &[])?;
            let (layer, mut bytes) = self.apply(tree, synthetic, identity, &[])?;
            // Files that are the template's own, as those of a new home directory are.
            let mut stored: HashMap<ChunkId, u32> = layer.chunks().collect();
            for id in bytes.keys() {
                stored.remove(id);
            }
            let made = synthetic.iter().filter(|(id, _)| stored.contains_key(id));
            let made: Vec<_> = made.map(|(id, bytes)| (*id, bytes.clone())).collect();
            for (id, made) in made {
                stored.remove(&id);
                bytes.insert(id, made);
            }
            let stored: Vec<_> = stored.into_iter().collect();
            bytes.extend(self.read_chunks(&stored)?);
            files = IdentityFiles {
                layer,
                bytes,
                before,
            };
            // Nobody wants the tree with it.
            Ok((TreeLayer::default(), ChunkBytes::new()))
        })?;
        Ok(files)
    }
}

/// The script that gives a guest an identity. What an identity removes is not in it: the machine was made without that.
pub(crate) fn identity_script(files: &IdentityFiles, hostname: &str) -> HostResult<Vec<u8>> {
    let before: HashMap<(&TreePath, &[u8]), &Entry> = files
        .before
        .entries()
        .map(|(parent, entry)| ((parent, entry.name.as_bytes()), entry))
        .collect();
    let mut script = Script(BEGIN.into());
    for (parent, entry) in files.layer.entries() {
        let path = parent.join(&entry.name);
        let path = path.map_err(|error| cannot(&error.to_string()))?;
        let before = before.get(&(parent, entry.name.as_bytes())).copied();
        script.entry(&path, entry, before, &files.bytes)?;
    }
    script.line(&[b"hostname=", &quoted(hostname.as_bytes())?]);
    script.0.extend(FINISH.as_bytes());
    Ok(script.0)
}

/// A script in the making.
struct Script(Vec<u8>);

impl Script {
    fn line(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.0.extend_from_slice(part);
        }
        self.0.push(b'\n');
    }

    fn entry(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        before: Option<&Entry>,
        bytes: &ChunkBytes,
    ) -> HostResult<()> {
        let name = quoted(&[b"/", path.as_bytes()].concat())?;
        let had = before.map(|before| (timeless(&before.attrs), &before.kind));
        let same_attrs = had
            .as_ref()
            .is_some_and(|(attrs, _)| *attrs == timeless(&entry.attrs));
        match &entry.kind {
            _ if same_attrs && before.is_some_and(|before| before.kind == entry.kind) => {}
            Kind::File(content) => {
                let content = quoted(&content_of(content, bytes)?)?;
                if ACCOUNTS
                    .iter()
                    .any(|file| path.as_bytes() == file.as_bytes())
                {
                    self.line(&[b"merge ", &content, b" ", &name]);
                    return Ok(());
                }
                let mask = format!("umask {:04o}; ", !entry.attrs.mode & 0o777);
                self.line(&[mask.as_bytes(), b"printf %s ", &content, b" >", &name]);
                // One that it had is what it was; one that is new is as the mask says.
                let is_new = before.is_none() && (entry.attrs.uid, entry.attrs.gid) == (0, 0);
                if !same_attrs && !is_new {
                    self.attrs(&entry.attrs, &name);
                }
            }
            Kind::Directory => {
                self.line(&[b"[ -d ", &name, b" ] || mkdir -p ", &name]);
                self.attrs(&entry.attrs, &name);
            }
            Kind::Symlink(target) => {
                self.line(&[b"ln -sfn ", &quoted(target)?, b" ", &name]);
            }
            // Nothing else is part of an identity, but for what it removes.
            _ => {}
        }
        Ok(())
    }

    fn attrs(&mut self, attrs: &Attrs, name: &[u8]) {
        let owner = format!("chown {}:{} ", attrs.uid, attrs.gid);
        let mode = format!("chmod {:04o} ", attrs.mode);
        self.line(&[owner.as_bytes(), name, b" && ", mode.as_bytes(), name]);
    }
}

/// Attributes but for the time, which is another in each identity.
fn timeless(attrs: &Attrs) -> Attrs {
    Attrs {
        mtime: Mtime::default(),
        ..attrs.clone()
    }
}

/// A text as one word of a shell.
fn quoted(text: &[u8]) -> HostResult<Vec<u8>> {
    if text.contains(&0) {
        return Err(cannot("a file of it holds a zero byte"));
    }
    let mut word = vec![b'\''];
    for byte in text {
        match byte {
            b'\'' => word.extend(b"'\\''"),
            _ => word.push(*byte),
        }
    }
    word.push(b'\'');
    Ok(word)
}

fn content_of(content: &Content, bytes: &ChunkBytes) -> HostResult<Vec<u8>> {
    let mut all = Vec::new();
    for extent in content.extents() {
        match extent {
            Extent::Hole { .. } => return Err(cannot("a file of it has a hole")),
            Extent::Chunk { id, .. } => {
                let missing = || cannot(&format!("chunk {id} of it is missing"));
                all.extend_from_slice(bytes.get(id).ok_or_else(missing)?);
            }
        }
    }
    Ok(all)
}

fn cannot(reason: &str) -> HostError {
    HostError::IdentityScript(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Accounts that the guest made when it booted stay, and those that come are as they come.
    #[test]
    fn accounts_are_merged_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        for (coming, present, merged) in [
            (
                "root:*:1\nada:x:2\n",
                "root:!:0\ndaemon:x:3\n",
                "root:*:1\nada:x:2\ndaemon:x:3\n",
            ),
            ("root:x\n", "", "root:x\n"),
            ("a*:x\n", "ab:$(id):`id`\\n", "a*:x\nab:$(id):`id`\\n\n"),
            ("roo:x\n", "root:y\noo:z\n", "roo:x\nroot:y\noo:z\n"),
        ] {
            fs::write(&own, present).unwrap();
            let word = String::from_utf8(quoted(coming.as_bytes()).unwrap()).unwrap();
            let script = format!("{BEGIN}\nmerge {word} '{}'", own.display());
            let status = Command::new("sh").arg("-c").arg(script).status();
            assert!(status.unwrap().success());
            assert_eq!(fs::read_to_string(&own).unwrap(), merged);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever a file holds, a shell writes it.
        #[test]
        fn a_word_is_what_was_quoted(text in vec(1u8.., 0..300)) {
            let mut script = b"printf %s ".to_vec();
            script.extend(quoted(&text).unwrap());
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("script");
            fs::write(&path, script).unwrap();
            let output = Command::new("sh").arg(path).output().unwrap();
            prop_assert_eq!(output.stdout, text);
        }
    }

    #[test]
    fn a_zero_byte_is_refused() {
        assert!(quoted(b"a\0b").is_err());
    }

    #[test]
    fn what_is_the_same_is_not_written_and_what_is_new_has_its_mode() {
        let mut bytes = ChunkBytes::new();
        let mut file = |path: &str, text: &str, mode, uid| {
            let (dir, name) = path.rsplit_once('/').unwrap();
            let id = ChunkId::of(text.as_bytes());
            bytes.insert(id, text.as_bytes().to_vec());
            let extents = vec![Extent::Chunk {
                id,
                len: text.len() as u32,
            }];
            let entry = Entry {
                name: shale_model::Name::new(name.as_bytes()).unwrap(),
                attrs: Attrs {
                    mode,
                    uid,
                    gid: uid,
                    ..Attrs::default()
                },
                kind: Kind::File(Content::new(extents).unwrap()),
            };
            (TreePath::new(dir.as_bytes()).unwrap(), entry)
        };
        let layer = |entries: Vec<(TreePath, Entry)>| {
            let dirs = entries
                .into_iter()
                .map(|(path, entry)| shale_model::LayerDir {
                    path,
                    entries: vec![entry],
                });
            TreeLayer {
                root: None,
                dirs: dirs.collect(),
            }
        };
        let before = layer(vec![
            file("etc/hosts", "same", 0o644, 0),
            file("etc/hostname", "old", 0o644, 0),
        ]);
        let after = layer(vec![
            file("etc/hosts", "same", 0o644, 0),
            file("etc/hostname", "it's", 0o644, 0),
            file("etc/ssh/key", "secret", 0o600, 0),
            file("home/ada/key", "hers", 0o600, 1000),
            file("etc/passwd", "ada:x\n", 0o644, 0),
        ]);
        let files = IdentityFiles {
            layer: after,
            bytes,
            before,
        };
        let script = identity_script(&files, "web").unwrap();
        let script = String::from_utf8(script).unwrap();
        let lines = script
            .strip_prefix(BEGIN)
            .unwrap()
            .strip_suffix(FINISH)
            .unwrap();
        assert_eq!(
            lines,
            "umask 0133; printf %s 'it'\\''s' >'/etc/hostname'\n\
             umask 0177; printf %s 'secret' >'/etc/ssh/key'\n\
             umask 0177; printf %s 'hers' >'/home/ada/key'\n\
             chown 1000:1000 '/home/ada/key' && chmod 0600 '/home/ada/key'\n\
             merge 'ada:x\n' '/etc/passwd'\n\
             hostname='web'\n"
        );
        let checked = Command::new("sh").args(["-n", "-c", &script]).status();
        assert!(checked.unwrap().success());
    }
}
