//! Layers made apart from each other become one stack that works.
//!
//! Each application layer is the difference to the stack that it was made on. Folding two of them would
//! keep only one `/etc/passwd`, so a layer that was not made on exactly what lies below it is compared in
//! three ways, path by path: with what it was made on and with what lies below. Databases merge by record
//! (`rules.rs` is the one table), users and groups that took one number get two, and what two layers
//! changed differently otherwise is a [`Conflict`].
//!
//! Everything is a function of the layers: [`need`] names the chunks whose bytes a merge reads, [`merge`]
//! gives the layers to compose. The result for the lower layers does not depend on those above, so that
//! templates on one base share its layout.
//!
//! What a layer was made on is looked up in the template: a layer of the stack was made on what the
//! template says; one that is no longer in the stack is taken as made on all below it in its list.

mod columns;
mod file;
mod glob;
mod ids;
mod layer;
mod loader_cache;
mod records;
mod remap;
mod rules;
mod stanza;
mod state;
mod string_table;
mod sub_ids;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::rc::Rc;

use shale_model::{ChunkId, Extent, Kind, LayerId, TreeLayer, TreePath};

pub use ids::IdKind;
pub use rules::rule_patterns;

pub(crate) use file::synthesise;
pub(crate) use glob::path_matches;

use layer::merge_layer;
use state::{State, What, find_entry};

/// Largest file that is merged by record, in bytes. The database of a machine with every package of
/// Debian installed is about as large.
pub const MAX_MERGED_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Most conflicts and notes of one merge; further ones are left out. A person reads the first ten.
pub const MAX_FINDINGS: usize = 1000;

/// Bytes of chunks.
pub type ChunkBytes = BTreeMap<ChunkId, Vec<u8>>;

/// A layer with its id.
#[derive(Debug, Clone, Copy)]
pub struct NamedLayer<'a> {
    /// The id; equal ids are taken to be equal trees.
    pub id: LayerId,
    /// The tree.
    pub tree: &'a TreeLayer,
}

/// A layer of a stack, and what it was made on.
#[derive(Debug, Clone)]
pub struct StackLayer<'a> {
    /// The layer.
    pub layer: NamedLayer<'a>,
    /// The stack that it is the difference to, bottom first; empty for a base.
    pub made_on: Vec<NamedLayer<'a>>,
}

/// A merged stack. Composing [`Merged::layers`] and then [`Merged::top`] gives the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged<'a> {
    /// The layers of the stack, bottom first; owned where numbers of users or groups changed.
    pub layers: Vec<Cow<'a, TreeLayer>>,
    /// One more layer with the merged files, if there are any.
    pub top: Option<TreeLayer>,
    /// The bytes of the merged files: chunks that no repository has.
    pub synthetic: ChunkBytes,
    /// What was decided, in order of layer.
    pub notes: Vec<MergeNote>,
    /// What could not be decided. The last layer's version is in the result, which need not even compose
    /// then: a layer may have files in what another made a link.
    pub conflicts: Vec<Conflict>,
}

impl Merged<'_> {
    /// The layers to compose, bottom first.
    pub fn trees(&self) -> impl Iterator<Item = &TreeLayer> {
        self.layers.iter().map(Cow::as_ref).chain(&self.top)
    }
}

/// A decision that a merge made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeNote {
    /// A file was merged by record.
    United {
        /// The last layer whose changes went in.
        layer: LayerId,
        /// The file.
        path: TreePath,
    },
    /// A user or group of a layer has another number now, in databases, owners and access control lists.
    Remapped {
        /// The layer.
        layer: LayerId,
        /// Whether it is a user or a group.
        kind: IdKind,
        /// Its name.
        name: String,
        /// The number in the layer.
        from: u32,
        /// The number in the merged tree.
        to: u32,
    },
    /// A range of subordinate ids overlapped another and begins elsewhere now.
    MovedRange {
        /// The layer.
        layer: LayerId,
        /// `/etc/subuid` or `/etc/subgid`.
        path: TreePath,
        /// The user.
        name: String,
        /// First id in the layer.
        from: u32,
        /// First id in the merged tree.
        to: u32,
    },
    /// A layer brings an unchanged version of something that a layer below it changed: the change stays.
    Kept {
        /// The layer that brings it unchanged.
        layer: LayerId,
        /// What it brings.
        path: TreePath,
    },
    /// Two layers changed something that the last one may decide.
    LastWon {
        /// The last layer.
        layer: LayerId,
        /// The file.
        path: TreePath,
        /// The record of the file, if it merges by record.
        record: Option<String>,
        /// Why nothing is lost by it.
        reason: &'static str,
    },
}

/// Something that two layers changed differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// What they changed.
    pub path: TreePath,
    /// The layer below, and the one whose version is in the result.
    pub layers: [LayerId; 2],
    /// The record of the file, if only one clashes.
    pub record: Option<String>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [lower, upper] = &self.layers;
        write!(f, "{}", self.path)?;
        if let Some(record) = &self.record {
            write!(f, " ({record})")?;
        }
        write!(f, " is changed by {lower} and differently by {upper}")
    }
}

/// Why layers do not merge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A file that merges by record is not in its format.
    #[error("{path} of layer {layer}, line {line}: {problem}")]
    Malformed {
        /// The file.
        path: TreePath,
        /// The layer that holds it.
        layer: LayerId,
        /// The line, counted from 1; 0 in a file that has none.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// A file that merges by record has more than [`MAX_MERGED_FILE_BYTES`].
    #[error(
        "{path} of layer {layer} has more than {MAX_MERGED_FILE_BYTES} bytes and must be merged"
    )]
    TooLarge {
        /// The file.
        path: TreePath,
        /// The layer that holds it.
        layer: LayerId,
    },
    /// The caller gave no bytes, or too few, of a chunk that [`need`] named.
    #[error("the bytes of {chunk} are missing, which {path} consists of")]
    Missing {
        /// The chunk.
        chunk: ChunkId,
        /// The file.
        path: TreePath,
    },
    /// No number is left for a user, a group or a range of them.
    #[error("no number is left for a user or group of layer {layer}")]
    NoFreeId {
        /// The layer that needs one.
        layer: LayerId,
    },
    /// A layer was made on itself, says the template.
    #[error("layer {layer} was made on a stack that holds it")]
    Cycle {
        /// The layer.
        layer: LayerId,
    },
}

/// The chunks whose bytes [`merge`] reads, each once. None, if every layer was made on those below it.
pub fn need(stack: &[StackLayer<'_>]) -> Vec<ChunkId> {
    let mut lists = vec![stack.to_vec()];
    let mut seen: BTreeSet<Vec<LayerId>> = BTreeSet::new();
    for layer in stack {
        if seen.insert(ids(&layer.made_on)) {
            lists.push(resolve(stack, &layer.made_on));
        }
    }
    let mut wanted = BTreeSet::new();
    for list in &lists {
        for (at, layer) in list.iter().enumerate() {
            if !made_on_all_below(list, at) {
                need_of_layer(&list[..at], layer, &mut wanted);
            }
        }
    }
    wanted.into_iter().collect()
}

/// Adds what the merge of `layer` above `below` reads.
fn need_of_layer(below: &[StackLayer<'_>], layer: &StackLayer<'_>, wanted: &mut BTreeSet<ChunkId>) {
    let below: Vec<_> = below.iter().map(|layer| layer.layer).collect();
    let pairs = below.iter().zip(&layer.made_on);
    let common = pairs.take_while(|(a, b)| a.id == b.id).count();
    // Layers that lie on one side only, or in another order.
    let apart: Vec<_> = below[common..]
        .iter()
        .chain(&layer.made_on[common..])
        .collect();
    let brings = |tree, path: &TreePath| -> Vec<ChunkId> {
        let what = find_entry(tree, path).and_then(|entry| What::of(tree, entry));
        match what.and_then(|what| what.content()) {
            Some(content) if content.size() <= MAX_MERGED_FILE_BYTES => {
                let chunk = |extent: &Extent| match extent {
                    Extent::Chunk { id, .. } => Some(*id),
                    Extent::Hole { .. } => None,
                };
                content.extents().iter().filter_map(chunk).collect()
            }
            _ => vec![],
        }
    };
    let accounts = [layer::passwd(), layer::group()];
    let touched = |path: &TreePath| {
        apart
            .iter()
            .any(|other| find_entry(other.tree, path).is_some())
    };
    let mut paths: Vec<TreePath> = layer
        .layer
        .tree
        .entries()
        .filter(|(_, entry)| matches!(entry.kind, Kind::File(_) | Kind::HardLink(_)))
        .filter_map(|(dir, entry)| dir.join(&entry.name).ok())
        .filter(|path| rules::reads_bytes(path) && touched(path))
        .collect();
    if accounts.iter().any(touched) {
        paths.extend(accounts);
    }
    let versions = below.iter().chain(&layer.made_on).chain([&layer.layer]);
    for version in versions {
        wanted.extend(paths.iter().flat_map(|path| brings(version.tree, path)));
    }
}

/// Merges `stack`, bottom first. `bytes` holds the chunks that [`need`] named, as verified by the caller.
pub fn merge<'a>(stack: &[StackLayer<'a>], bytes: &ChunkBytes) -> Result<Merged<'a>, MergeError> {
    let mut merger = Merger {
        stack,
        bytes,
        bases: HashMap::new(),
    };
    let mut findings = Findings::default();
    let mut state = merger.state(stack, &mut findings)?;
    let top = state.top();
    let used: BTreeSet<_> = top.iter().flat_map(TreeLayer::chunks).collect();
    let used: BTreeSet<_> = used.into_iter().map(|(id, _)| id).collect();
    state.synthetic.retain(|id, _| used.contains(id));
    Ok(Merged {
        layers: state.layers.into_iter().map(|(_, tree)| tree).collect(),
        top,
        synthetic: state.synthetic,
        notes: findings.notes,
        conflicts: findings.conflicts,
    })
}

/// What a merge says besides its result.
#[derive(Debug, Default)]
struct Findings {
    notes: Vec<MergeNote>,
    conflicts: Vec<Conflict>,
}

impl Findings {
    fn note(&mut self, note: MergeNote) {
        if self.notes.len() < MAX_FINDINGS {
            self.notes.push(note);
        }
    }

    fn conflict(&mut self, conflict: Conflict) {
        if self.conflicts.len() < MAX_FINDINGS && !self.conflicts.contains(&conflict) {
            self.conflicts.push(conflict);
        }
    }
}

struct Merger<'a, 's> {
    stack: &'s [StackLayer<'a>],
    bytes: &'s ChunkBytes,
    /// The stacks that layers were made on; `None` while one is being made.
    bases: HashMap<Vec<LayerId>, Option<Rc<State<'a>>>>,
}

impl<'a> Merger<'a, '_> {
    fn state(
        &mut self,
        list: &[StackLayer<'a>],
        findings: &mut Findings,
    ) -> Result<State<'a>, MergeError> {
        let mut state = State::default();
        for (at, layer) in list.iter().enumerate() {
            let NamedLayer { id, tree } = layer.layer;
            if made_on_all_below(list, at) {
                state.put(id, Cow::Borrowed(tree));
            } else {
                let base = self.base(layer)?;
                merge_layer(&mut state, &base, layer.layer, self.bytes, findings)?;
            }
        }
        Ok(state)
    }

    /// The stack that `layer` was made on, merged.
    fn base(&mut self, layer: &StackLayer<'a>) -> Result<Rc<State<'a>>, MergeError> {
        let key = ids(&layer.made_on);
        match self.bases.get(&key) {
            Some(Some(base)) => return Ok(Rc::clone(base)),
            Some(None) => {
                let layer = layer.layer.id;
                return Err(MergeError::Cycle { layer });
            }
            None => (),
        }
        self.bases.insert(key.clone(), None);
        let list = resolve(self.stack, &layer.made_on);
        // What was decided there concerns its own template.
        let base = Rc::new(self.state(&list, &mut Findings::default())?);
        self.bases.insert(key, Some(Rc::clone(&base)));
        Ok(base)
    }
}

fn ids(layers: &[NamedLayer<'_>]) -> Vec<LayerId> {
    layers.iter().map(|layer| layer.id).collect()
}

/// Whether the layer at `at` was made on exactly those below it.
fn made_on_all_below(list: &[StackLayer<'_>], at: usize) -> bool {
    let below = list[..at].iter().map(|layer| layer.layer.id);
    below.eq(list[at].made_on.iter().map(|layer| layer.id))
}

/// A stack that a layer was made on, with what `stack` knows about its layers.
fn resolve<'a>(stack: &[StackLayer<'a>], made_on: &[NamedLayer<'a>]) -> Vec<StackLayer<'a>> {
    let with_base = |(at, layer): (usize, &NamedLayer<'a>)| {
        let known = stack.iter().find(|other| other.layer.id == layer.id);
        let made_on = match known {
            Some(known) => known.made_on.clone(),
            None => made_on[..at].to_vec(),
        };
        let layer = *layer;
        StackLayer { layer, made_on }
    };
    made_on.iter().enumerate().map(with_base).collect()
}
