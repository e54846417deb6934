//! Random operations have the same outcome in memory and in a directory.

use proptest::prelude::*;
use shale_files::{DirFiles, File, FilePath, Files, MemoryFiles, OpenMode};

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    CreateDir(usize),
    Rename(usize, usize),
    Remove(usize),
    List(usize),
    Write(usize, u64, Vec<u8>),
    SetSize(usize, u64),
    Zero(usize, u64, u64),
    Read(usize),
}

const PATHS: [&str; 6] = ["a", "b", "d", "d/a", "d/e", "d/e/a"];

fn step() -> impl Strategy<Value = Step> {
    let path = || 0..PATHS.len();
    let offset = || prop_oneof![0..20u64, 4000..9000u64];
    let data = proptest::collection::vec(any::<u8>(), 0..5000);
    prop_oneof![
        path().prop_map(Step::Create),
        path().prop_map(Step::CreateDir),
        (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        path().prop_map(Step::Remove),
        path().prop_map(Step::List),
        (path(), offset(), data).prop_map(|(p, o, d)| Step::Write(p, o, d)),
        (path(), offset()).prop_map(|(p, o)| Step::SetSize(p, o)),
        (path(), offset(), offset()).prop_map(|(p, o, l)| Step::Zero(p, o, l)),
        path().prop_map(Step::Read),
    ]
}

/// What a step gives, as text that is the same for the same outcome.
fn outcome(files: &dyn Files, step: &Step) -> Option<String> {
    let path = |index: &usize| FilePath::new(PATHS[*index]).expect("a path");
    let open = |index| files.open(&path(index), OpenMode::Write);
    let read = |file: Box<dyn File>| {
        let mut bytes = vec![0; file.size()? as usize];
        file.read_at(0, &mut bytes)?;
        Ok(format!("{bytes:?}"))
    };
    let done = match step {
        Step::Create(p) => files
            .open(&path(p), OpenMode::CreateNew)
            .map(|_| String::new()),
        Step::CreateDir(p) => files.create_dir(&path(p)).map(|()| String::new()),
        Step::Rename(from, to) => {
            // Renaming directories is outside of the contract.
            if files.list(&path(from)).is_ok() || files.list(&path(to)).is_ok() {
                return None;
            }
            files.rename(&path(from), &path(to)).map(|()| String::new())
        }
        Step::Remove(p) => files.remove(&path(p)).map(|()| String::new()),
        Step::List(p) => files.list(&path(p)).map(|list| format!("{list:?}")),
        Step::Write(p, offset, data) => {
            open(p).and_then(|f| f.write_at(*offset, data).map(|()| String::new()))
        }
        Step::SetSize(p, len) => open(p).and_then(|f| f.set_size(*len).map(|()| String::new())),
        Step::Zero(p, o, len) => open(p).and_then(|f| f.zero(*o, *len).map(|()| String::new())),
        Step::Read(p) => open(p).and_then(read),
    };
    Some(match (done, step) {
        (Ok(text), _) => text,
        // Two names can be wrong in two ways; which is told is open.
        (Err(_), Step::Rename(..)) => "an error".into(),
        (Err(error), _) => format!("{:?}", error.kind()),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_and_directory_agree(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let (real, memory) = (DirFiles::open(dir.path()).unwrap(), MemoryFiles::new());
        for step in &steps {
            prop_assert_eq!(outcome(&real, step), outcome(&memory, step), "{:?}", step);
        }
    }
}
