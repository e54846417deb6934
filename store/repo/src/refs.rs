//! References: the only mutable things of a repository. Not in the chunk index, which can be lost (I9).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use shale_files::{EntryKind, FilePath, IfHeld, LockFiles, LockKind, put_durably, read_file};
use shale_model::limits::MAX_TEMPLATE_BYTES;
use shale_model::{Platform, RefName, SeamError, SeamResult, TemplateId, TemplateIndex, Trouble};

use crate::paths;
use crate::session::Session;
use crate::trouble::{failed, not_locked, not_read};

/// Names and what they point at. Calls block; safe to share between threads.
pub trait Refs: Send + Sync {
    /// What `name` points at; `None` if it does not exist.
    fn get(&self, name: &RefName) -> SeamResult<Option<TemplateIndex>>;

    /// Points `name` at `new`, durably, if it now points at `expected` (`None`: does not exist) or at `new` already:
    /// whoever else set exactly that did this call's work. [`Trouble::Conflict`] otherwise.
    fn compare_and_set(
        &self,
        name: &RefName,
        expected: Option<&TemplateIndex>,
        new: &TemplateIndex,
    ) -> SeamResult<()>;

    /// Every reference of `project`, of all projects for an empty one, in order of name.
    fn list(&self, project: &str) -> SeamResult<Vec<(RefName, TemplateIndex)>>;
}

/// References as one file each below `refs`, shared with other processes.
pub struct FileRefs {
    files: Arc<dyn LockFiles>,
    session: Arc<Session>,
}

impl FileRefs {
    pub(crate) fn new(files: Arc<dyn LockFiles>, session: Arc<Session>) -> Self {
        Self { files, session }
    }

    fn read(&self, name: &RefName, path: &FilePath) -> SeamResult<Option<TemplateIndex>> {
        let action = || format!("read reference {name}");
        let json = match read_file(&*self.files, path, MAX_TEMPLATE_BYTES) {
            // A name of which another is a prefix is a directory above it; itself it does not exist.
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(not_read(action(), error)),
            Ok(json) => json,
        };
        let index = TemplateIndex::decode(&json);
        let index = index.map_err(|e| SeamError::caused(Trouble::Integrity, action(), e))?;
        Ok(Some(index))
    }

    /// The names in a directory below `refs`; none if there is no such directory.
    fn names(&self, dir: &FilePath, kind: EntryKind) -> SeamResult<Vec<String>> {
        let entries = match self.files.list(dir) {
            Err(error) if error.is_missing() => return Ok(Vec::new()),
            entries => entries.map_err(|error| failed("list references", error))?,
        };
        let of_kind = entries.into_iter().filter(|entry| entry.kind == kind);
        Ok(of_kind.map(|entry| entry.name).collect())
    }
}

impl Refs for FileRefs {
    fn get(&self, name: &RefName) -> SeamResult<Option<TemplateIndex>> {
        self.read(name, &paths::reference(name))
    }

    fn compare_and_set(
        &self,
        name: &RefName,
        expected: Option<&TemplateIndex>,
        new: &TemplateIndex,
    ) -> SeamResult<()> {
        let action = || format!("set reference {name}");
        let _lock = self
            .files
            .lock(&paths::refs_lock(), LockKind::Exclusive, IfHeld::Wait)
            .map_err(|error| not_locked(action(), error))?;
        check_expected(name, expected, new, self.get(name)?.as_ref())?;
        let json = new.encode();
        let (temp, path) = (self.session.temp(), paths::reference(name));
        put_durably(&*self.files, &temp, &path, |file| file.write_at(0, &json))
            .map_err(|error| failed(action(), error))
    }

    fn list(&self, project: &str) -> SeamResult<Vec<(RefName, TemplateIndex)>> {
        let all = paths::dir("refs");
        let projects = match project {
            "" => self.names(&all, EntryKind::Dir)?,
            one => vec![checked_project(one)?],
        };
        let mut found = Vec::new();
        for project in projects {
            let dir = below(&all, &project)?;
            for name in self.names(&dir, EntryKind::Dir)? {
                let dir = below(&dir, &name)?;
                for tag in self.names(&dir, EntryKind::File)? {
                    // What is not spelled like a reference is none.
                    let Ok(name) = RefName::new(&project, &name, &tag) else {
                        continue;
                    };
                    let index = self.get(&name)?;
                    found.extend(index.map(|index| (name, index)));
                }
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }
}

/// References in memory: the twin of [`FileRefs`].
#[derive(Debug, Default)]
pub struct MemoryRefs(Mutex<BTreeMap<RefName, TemplateIndex>>);

impl Refs for MemoryRefs {
    fn get(&self, name: &RefName) -> SeamResult<Option<TemplateIndex>> {
        let refs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(refs.get(name).cloned())
    }

    fn compare_and_set(
        &self,
        name: &RefName,
        expected: Option<&TemplateIndex>,
        new: &TemplateIndex,
    ) -> SeamResult<()> {
        let mut refs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        check_expected(name, expected, new, refs.get(name))?;
        refs.insert(name.clone(), new.clone());
        Ok(())
    }

    fn list(&self, project: &str) -> SeamResult<Vec<(RefName, TemplateIndex)>> {
        if !project.is_empty() {
            checked_project(project)?;
        }
        let refs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |name: &RefName| project.is_empty() || name.project() == project;
        let found = refs.iter().filter(|(name, _)| wanted(name));
        Ok(found
            .map(|(name, index)| (name.clone(), index.clone()))
            .collect())
    }
}

fn check_expected(
    name: &RefName,
    expected: Option<&TemplateIndex>,
    new: &TemplateIndex,
    found: Option<&TemplateIndex>,
) -> SeamResult<()> {
    let what = match (expected, found) {
        (expected, found) if expected == found => return Ok(()),
        // Who set it may have died before it was durable, so it is set again.
        (_, Some(found)) if found == new => return Ok(()),
        (None, _) => "it exists already",
        (_, None) => "it does not exist",
        (Some(_), Some(_)) => "it points elsewhere meanwhile",
    };
    let action = format!("set reference {name}: {what}");
    Err(SeamError::new(Trouble::Conflict, action))
}

fn checked_project(project: &str) -> SeamResult<String> {
    match RefName::new(project, "x", "x") {
        Ok(_) => Ok(project.to_owned()),
        Err(error) => Err(SeamError::caused(
            Trouble::Invalid,
            "list references",
            error,
        )),
    }
}

fn below(dir: &FilePath, name: &str) -> SeamResult<FilePath> {
    dir.join(name)
        .map_err(|error| SeamError::caused(Trouble::Failed, "list references", error))
}

/// Checks that empty `refs` do what [`Refs`] says; panics with what it saw.
pub fn check_refs(refs: &dyn Refs) {
    let index = |text: &[u8]| TemplateIndex::one(Platform::default(), TemplateId::of(text));
    let name = |text: &str| text.parse::<RefName>().expect("a name");
    let (one, two, three) = (index(b"1"), index(b"2"), index(b"3"));
    let base = name("demo/base:1");
    let conflicts = |expected, new| {
        let trouble = refs
            .compare_and_set(&base, expected, new)
            .map_err(|e| e.trouble);
        assert_eq!(trouble, Err(Trouble::Conflict));
    };

    assert_eq!(refs.get(&base).expect("an answer"), None);
    assert_eq!(refs.list("").expect("a list"), []);
    conflicts(Some(&one), &two);
    refs.compare_and_set(&base, None, &one).expect("a new name");
    assert_eq!(refs.get(&base).expect("an answer"), Some(one.clone()));
    conflicts(None, &two);
    conflicts(Some(&two), &three);
    let done =
        [None, Some(&two), Some(&one)].map(|expected| refs.compare_and_set(&base, expected, &one));
    assert!(
        done.iter().all(Result::is_ok),
        "it points there already: {done:?}"
    );
    assert_eq!(refs.get(&base).expect("an answer"), Some(one.clone()));
    refs.compare_and_set(&base, Some(&one), &two)
        .expect("a change");
    assert_eq!(refs.get(&base).expect("an answer"), Some(two.clone()));

    for text in ["demo/base:2", "demo/app", "demo-2/app", "a/lock:tmp"] {
        refs.compare_and_set(&name(text), None, &one)
            .expect("a new name");
    }
    let listed = |project: &str| -> Vec<String> {
        let list = refs.list(project).expect("a list");
        list.iter().map(|(name, _)| name.to_string()).collect()
    };
    let demo = ["demo/app:latest", "demo/base:1", "demo/base:2"];
    assert_eq!(listed("demo"), demo);
    assert_eq!(listed("none"), [""; 0]);
    assert_eq!(listed("")[..4], [&["a/lock:tmp"], &demo[..]].concat());
    for hostile in ["..", "demo/..", "/etc", "a b"] {
        let trouble = refs.list(hostile).map_err(|e| e.trouble);
        assert_eq!(trouble, Err(Trouble::Invalid), "{hostile}");
    }
    check_races(refs, &index);
}

/// Of many who change one name at once from the same value, one succeeds.
fn check_races(refs: &dyn Refs, index: &(impl Fn(&[u8]) -> TemplateIndex + Sync)) {
    const THREADS: u8 = 4;
    const ROUNDS: u8 = 5;
    let name: RefName = "demo/raced".parse().expect("a name");
    let mut now = None;
    for round in 0..ROUNDS {
        let expected = now.as_ref();
        let try_one = |thread: u8| {
            let set = refs.compare_and_set(&name, expected, &index(&[round, thread]));
            set.is_ok()
        };
        let winners = std::thread::scope(|scope| {
            let running: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || try_one(thread)))
                .collect();
            let done = running.into_iter().map(|t| t.join().expect("no panic"));
            done.filter(|won| *won).count()
        });
        assert_eq!(winners, 1, "round {round}");
        now = refs.get(&name).expect("an answer");
    }
}

#[cfg(test)]
mod tests {
    use shale_files::{DirFiles, Files, MemoryFiles, OpenMode};

    use super::*;

    fn file_refs(files: Arc<dyn LockFiles>) -> FileRefs {
        crate::format::init(&*files).unwrap();
        let session = Arc::new(Session::begin(Arc::clone(&files)).unwrap());
        FileRefs::new(files, session)
    }

    #[test]
    fn memory_files_and_a_directory_keep_references_alike() {
        check_refs(&MemoryRefs::default());
        check_refs(&file_refs(Arc::new(MemoryFiles::new())));
        let dir = tempfile::tempdir().unwrap();
        check_refs(&file_refs(Arc::new(DirFiles::open(dir.path()).unwrap())));
    }

    #[test]
    fn a_damaged_reference_is_told_and_a_stray_file_is_none() {
        let files = MemoryFiles::new();
        let refs = file_refs(Arc::new(files.clone()));
        let index = TemplateIndex::one(Platform::default(), TemplateId::of(b"1"));
        let name: RefName = "demo/base".parse().unwrap();
        refs.compare_and_set(&name, None, &index).unwrap();
        let stray = FilePath::new("refs/demo/base/.swp").unwrap();
        files.open(&stray, OpenMode::CreateNew).unwrap();
        assert_eq!(refs.list("").unwrap().len(), 1);

        let file = files
            .open(&paths::reference(&name), OpenMode::Write)
            .unwrap();
        file.set_size(20).unwrap();
        for error in [refs.get(&name).err(), refs.list("").err()] {
            let error = error.unwrap();
            assert_eq!(error.trouble, Trouble::Integrity);
            assert!(
                error.action.contains("demo/base:latest"),
                "{}",
                error.action
            );
        }
    }
}
