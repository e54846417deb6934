//! The three-way comparison of one layer with what it was made on and what lies below it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use shale_model::{Attrs, Entry, Kind, LayerDir, LayerId, Name, TreeLayer, TreePath};

use super::file::unite_file;
use super::ids::{Account, IdKind, IdMap, Moved, accounts, moved_ids};
use super::remap::{remap, remap_attrs};
use super::rules::{How, rule_for};
use super::state::{Seen, State, What, dirs_below, find_entry, same, with_time};
use super::{ChunkBytes, Conflict, Findings, MergeError, MergeNote, NamedLayer};

/// The users' database.
pub(super) fn passwd() -> TreePath {
    known_path(b"etc/passwd")
}

/// The groups' database.
pub(super) fn group() -> TreePath {
    known_path(b"etc/group")
}

fn known_path(path: &[u8]) -> TreePath {
    TreePath::new(path).unwrap_or_default()
}

/// Puts `layer`, which was made on `base`, on top of `ours`.
pub(super) fn merge_layer<'a>(
    ours: &mut State<'a>,
    base: &State<'a>,
    layer: NamedLayer<'a>,
    bytes: &ChunkBytes,
    findings: &mut Findings,
) -> Result<(), MergeError> {
    let moved = id_changes(base, ours, layer, bytes)?;
    for moved in &moved {
        findings.note(MergeNote::Remapped {
            layer: layer.id,
            kind: moved.kind,
            name: String::from_utf8_lossy(&moved.name).into_owned(),
            from: moved.from,
            to: moved.to,
        });
    }
    let map = IdMap::new(&moved);
    let tree = if map.is_empty() {
        Cow::Borrowed(layer.tree)
    } else {
        Cow::Owned(remap(layer.tree, &map))
    };
    let mut job = Job {
        id: layer.id,
        theirs: &tree,
        base,
        ours,
        map: &map,
        bytes,
        findings,
        over: State::default(),
        searched: BTreeSet::new(),
    };
    job.root();
    for dir in &tree.dirs {
        job.directory(dir)?;
    }
    let over = job.over;
    ours.put(layer.id, tree);
    ours.over.extend(over.over);
    ours.synthetic.extend(over.synthetic);
    ours.over_root = over.over_root.or(ours.over_root.take());
    Ok(())
}

/// The users and groups of `layer` whose numbers change.
fn id_changes(
    base: &State<'_>,
    ours: &State<'_>,
    layer: NamedLayer<'_>,
    bytes: &ChunkBytes,
) -> Result<Vec<Moved>, MergeError> {
    let mut all = Vec::new();
    for (path, kind) in [(passwd(), IdKind::User), (group(), IdKind::Group)] {
        let (was, now) = (base.find(&path), ours.find(&path));
        let content = |seen: Option<Seen<'_>>| Some(seen?.what?.content()?.clone());
        if content(was) == content(now) {
            continue;
        }
        let read = |state: &State<'_>, seen: Option<Seen<'_>>| -> Result<Vec<Account>, _> {
            let Some(seen) = seen else { return Ok(vec![]) };
            let Some(content) = seen.what.and_then(|what| what.content()) else {
                return Ok(vec![]);
            };
            let file = state.read(content, bytes, (&path, seen.layer))?;
            accounts(&file).map_err(|fault| MergeError::Malformed {
                path: path.clone(),
                layer: seen.layer,
                line: fault.line,
                problem: fault.problem,
            })
        };
        let theirs = match find_entry(layer.tree, &path) {
            Some(entry) => Some(Seen {
                layer: layer.id,
                what: What::of(layer.tree, entry),
            }),
            None => was,
        };
        let moved = moved_ids(
            kind,
            &read(base, was)?,
            &read(ours, now)?,
            &read(base, theirs)?,
        );
        let layer = layer.id;
        all.extend(moved.map_err(|_| MergeError::NoFreeId { layer })?);
    }
    Ok(all)
}

/// One layer on its way onto a stack.
pub(super) struct Job<'j, 'a> {
    pub(super) id: LayerId,
    /// The layer, with its numbers remapped.
    pub(super) theirs: &'j TreeLayer,
    pub(super) base: &'j State<'a>,
    pub(super) ours: &'j State<'a>,
    /// What the numbers in `base` are in `ours`.
    pub(super) map: &'j IdMap,
    pub(super) bytes: &'j ChunkBytes,
    pub(super) findings: &'j mut Findings,
    /// What goes on top of the layer.
    pub(super) over: State<'a>,
    /// Directories of which is known what was lost in them.
    searched: BTreeSet<TreePath>,
}

/// A path with what all sides say about it.
#[derive(Clone, Copy)]
pub(super) struct Compared<'c> {
    pub(super) path: &'c TreePath,
    pub(super) entry: &'c Entry,
    pub(super) base: Option<Seen<'c>>,
    pub(super) ours: Option<Seen<'c>>,
    pub(super) theirs: Option<What<'c>>,
}

impl<'c> Compared<'c> {
    pub(super) fn base_what(&self) -> Option<What<'c>> {
        self.base.and_then(|seen| seen.what)
    }

    pub(super) fn our_what(&self) -> Option<What<'c>> {
        self.ours.and_then(|seen| seen.what)
    }
}

impl Job<'_, '_> {
    fn root(&mut self) {
        let Some(root) = &self.theirs.root else {
            return;
        };
        if root.opaque {
            self.find_lost(&TreePath::root());
        }
        let Some((lower, ours)) = self.ours.root() else {
            return;
        };
        let as_what = |attrs| What {
            attrs,
            kind: &Kind::Directory,
        };
        let base = self.base.root().map(|(_, attrs)| as_what(attrs));
        let none = IdMap::default();
        let (ours, theirs) = (as_what(ours), as_what(&root.attrs));
        if same(Some(ours), base, self.map) || theirs.same(&ours, &none) {
            return;
        }
        if same(Some(theirs), base, self.map) {
            let attrs = with_time(ours.attrs, theirs.attrs.mtime);
            self.over.over_root = Some((self.id, attrs));
        } else {
            self.conflict_at(TreePath::root(), Some(lower), None);
        }
    }

    fn directory(&mut self, dir: &LayerDir) -> Result<(), MergeError> {
        let (ours, base) = (self.ours.dir(&dir.path), self.base.dir(&dir.path));
        if let Some(lower) = ours.replaced_by()
            && base.replaced_by().is_none()
            && !self.makes_directory(&dir.path)
        {
            self.conflict_at(dir.path.clone(), Some(lower), None);
        }
        for entry in &dir.entries {
            let Ok(path) = dir.path.join(&entry.name) else {
                continue;
            };
            let compared = Compared {
                path: &path,
                entry,
                base: base.find(&entry.name),
                ours: ours.find(&entry.name),
                theirs: What::of(self.theirs, entry),
            };
            self.compare(&compared)?;
        }
        Ok(())
    }

    /// Whether the layer says that `path`, or what holds it, is a directory where the stack has none.
    fn makes_directory(&self, path: &TreePath) -> bool {
        let mut at = path.clone();
        while let Some((parent, _)) = at.split() {
            let described = find_entry(self.theirs, &at);
            if described.is_some_and(|entry| entry.kind.is_directory()) {
                let below = self.ours.find(&at).and_then(|seen| seen.what);
                if below.is_some_and(|what| !what.is_directory()) {
                    return true;
                }
            }
            at = parent;
        }
        false
    }

    fn compare(&mut self, compared: &Compared<'_>) -> Result<(), MergeError> {
        match rule_for(compared.path) {
            Some(How::LastWins(reason)) => {
                let (base, ours) = (compared.base_what(), compared.our_what());
                let changed = !same(ours, base, self.map);
                if changed && !same(compared.theirs, ours, &IdMap::default()) {
                    let (layer, path) = (self.id, compared.path.clone());
                    self.findings.note(MergeNote::LastWon {
                        layer,
                        path,
                        record: None,
                        reason,
                    });
                }
                Ok(())
            }
            Some(how) => {
                if !unite_file(self, compared, how)? {
                    self.whole(compared);
                }
                Ok(())
            }
            None => {
                self.whole(compared);
                Ok(())
            }
        }
    }

    /// Compares something that is not merged by record.
    fn whole(&mut self, compared: &Compared<'_>) {
        let (base, ours, theirs) = (compared.base_what(), compared.our_what(), compared.theirs);
        let merges = compared.entry.kind == Kind::Directory;
        if !merges
            && [base, ours]
                .into_iter()
                .flatten()
                .any(|what| what.is_directory())
        {
            self.find_lost(compared.path);
        }
        if same(ours, base, self.map) || same(theirs, ours, &IdMap::default()) {
            return;
        }
        if same(theirs, base, self.map) && self.keep(compared) {
            return;
        }
        self.conflict(compared, None);
    }

    /// Keeps what lies below in place of the layer's unchanged version, if that can be said by one entry.
    fn keep(&mut self, compared: &Compared<'_>) -> bool {
        let (ours, theirs) = (compared.our_what(), compared.theirs);
        let is_directory = |what: Option<What<'_>>| what.is_some_and(|what| what.is_directory());
        let (attrs, kind) = match (ours, theirs) {
            // Somebody removed a directory in which the layer has something: it must be there.
            (None, Some(theirs)) if theirs.is_directory() => return true,
            (None, _) => (Attrs::default(), Kind::Whiteout),
            (Some(_), _) if is_directory(ours) != is_directory(theirs) => return false,
            (Some(ours), Some(theirs)) if theirs.is_directory() => {
                (with_time(ours.attrs, theirs.attrs.mtime), Kind::Directory)
            }
            (Some(ours), _) => (ours.attrs.clone(), ours.kind.clone()),
        };
        let (layer, path) = (self.id, compared.path.clone());
        self.findings.note(MergeNote::Kept { layer, path });
        self.put_over(compared, attrs, kind);
        true
    }

    /// Puts something at a path in place of what the layer brings.
    pub(super) fn put_over(&mut self, compared: &Compared<'_>, attrs: Attrs, kind: Kind) {
        let name: Name = compared.entry.name.clone();
        let entry = Entry { name, attrs, kind };
        let said = (self.id, entry);
        self.over.over.insert(compared.path.clone(), said);
    }

    /// The layer removes or replaces the directory `path`: what others changed in it is a conflict.
    fn find_lost(&mut self, path: &TreePath) {
        // One inside another was searched with it: a layer of nested ones costs no more than one of them.
        let mut above = Some(path.clone());
        while let Some(at) = above {
            if self.searched.contains(&at) {
                return;
            }
            above = at.split().map(|(parent, _)| parent);
        }
        self.searched.insert(path.clone());
        let mut lost = Vec::new();
        for (id, tree) in &self.ours.layers {
            if self.base.ids().any(|made_on| made_on == *id) {
                continue;
            }
            for dir in dirs_below(tree, path) {
                let (ours, base) = (self.ours.dir(&dir.path), self.base.dir(&dir.path));
                for entry in &dir.entries {
                    let seen = ours.find(&entry.name);
                    let what = seen.and_then(|seen| seen.what);
                    let was = base.find(&entry.name).and_then(|seen| seen.what);
                    let counts = what.is_some_and(|what| !what.is_directory());
                    let Ok(at) = dir.path.join(&entry.name) else {
                        continue;
                    };
                    let last_wins = matches!(rule_for(&at), Some(How::LastWins(_)));
                    let named = find_entry(self.theirs, &at).is_some();
                    if counts && !last_wins && !named && !same(what, was, self.map) {
                        lost.push((at, seen.map(|seen| seen.layer)));
                    }
                }
            }
        }
        for (path, lower) in lost {
            self.conflict_at(path, lower, None);
        }
    }

    pub(super) fn conflict(&mut self, compared: &Compared<'_>, record: Option<String>) {
        let lower = compared.ours.map(|seen| seen.layer);
        self.conflict_at(compared.path.clone(), lower, record);
    }

    fn conflict_at(&mut self, path: TreePath, lower: Option<LayerId>, record: Option<String>) {
        // Where no layer below says anything, the stack as a whole lacks what the layer was made on.
        let lower = lower.or_else(|| self.ours.ids().next());
        let layers = [lower.unwrap_or(self.id), self.id];
        self.findings.conflict(Conflict {
            path,
            layers,
            record,
        });
    }

    /// The attributes of a merged file: those of the layer, or those below where the layer left them.
    pub(super) fn merged_attrs(&self, compared: &Compared<'_>) -> Attrs {
        let theirs = compared.entry_attrs();
        let kept = compared.base_what().zip(compared.our_what());
        match kept {
            Some((base, ours)) => {
                let mapped = remap_attrs(base.attrs, self.map);
                if with_time(&mapped, theirs.mtime) == *theirs {
                    with_time(ours.attrs, theirs.mtime)
                } else {
                    theirs.clone()
                }
            }
            None => theirs.clone(),
        }
    }
}

impl<'c> Compared<'c> {
    fn entry_attrs(&self) -> &'c Attrs {
        self.theirs.map_or(&self.entry.attrs, |what| what.attrs)
    }
}
