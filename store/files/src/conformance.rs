//! What every implementation of the storage seam must do. Each check panics with what it saw.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::durable::{create_dirs, put_durably, read_file, remove_durably};
use crate::error::FileResult;
use crate::lock::{IfHeld, LockError, LockKind};
use crate::path::FilePath;
use crate::seam::{EntryKind, File, Files, LockFiles, OpenMode};

/// Runs every check on storage that `make` makes, each on a fresh, empty one.
pub fn check_files<F: LockFiles>(make: impl Fn() -> F) {
    check_bytes(&make());
    check_zeroing(&make());
    check_names(&make());
    check_errors(&make());
    check_open_files_outlive_their_names(&make());
    check_durable_puts(&make());
    check_locks(&make());
    check_waiting_for_a_lock(&make());
}

fn path(text: &str) -> FilePath {
    FilePath::new(text).expect("a path")
}

fn create(files: &dyn Files, name: &str) -> Box<dyn File> {
    files
        .open(&path(name), OpenMode::CreateNew)
        .expect("a new file")
}

fn content(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0xee; file.size().expect("a size") as usize];
    file.read_at(0, &mut bytes).expect("its bytes");
    bytes
}

#[track_caller]
fn fails<T>(result: FileResult<T>, kind: ErrorKind) {
    assert_eq!(result.err().map(|error| error.kind()), Some(kind));
}

fn check_bytes(files: &dyn Files) {
    let file = create(files, "file");
    assert_eq!(content(&*file), b"");
    file.write_at(5000, b"abc").expect("a write behind the end");
    file.write_at(4999, b"x").expect("a write inside");
    let mut expected = [vec![0; 4999], b"xabc".to_vec()].concat();
    assert_eq!(content(&*file), expected);
    file.write_at(9999, b"").expect("an empty write");
    assert_eq!(
        file.size().expect("a size"),
        5003,
        "an empty write lengthens nothing"
    );

    let mut buffer = [0; 4];
    fails(file.read_at(5000, &mut buffer), ErrorKind::UnexpectedEof);
    file.read_at(4999, &mut buffer).expect("the last bytes");
    assert_eq!(&buffer, b"xabc");

    file.set_size(4096).expect("a cut");
    file.set_size(6000).expect("a longer file");
    expected = vec![0; 6000];
    assert_eq!(content(&*file), expected, "cut bytes come back as zeros");
    file.sync().expect("a sync");

    let again = files
        .open(&path("file"), OpenMode::Write)
        .expect("the file");
    again.write_at(10, b"seen").expect("a write");
    expected[10..14].copy_from_slice(b"seen");
    assert_eq!(content(&*file), expected, "handles share the file");
    let reader = files.open(&path("file"), OpenMode::Read).expect("the file");
    assert_eq!(content(&*reader), expected);
    assert!(
        reader.write_at(0, b"no").is_err(),
        "a reader does not write"
    );
    assert!(
        file.write_at(u64::MAX - 1, b"far").is_err(),
        "no such offset"
    );
}

fn check_zeroing(files: &dyn Files) {
    let file = create(files, "file");
    let mut expected = vec![7; 20_000];
    file.write_at(0, &expected).expect("a write");
    for (offset, len) in [(0, 1), (100, 0), (4096, 4096), (5000, 9000), (19_999, 1)] {
        file.zero(offset as u64, len as u64).expect("zeros");
        expected[offset..offset + len].fill(0);
        assert_eq!(content(&*file), expected, "{offset}+{len}");
    }
    file.zero(19_000, 5_000).expect("zeros over the end");
    expected[19_000..].fill(0);
    assert_eq!(content(&*file), expected, "zeroing does not lengthen");
    file.zero(30_000, 10).expect("zeros behind the end");
    assert_eq!(content(&*file), expected);
}

fn check_names(files: &dyn Files) {
    files.create_dir(&path("dir")).expect("a directory");
    create(files, "dir/b").write_at(0, b"b").expect("a write");
    create(files, "dir/a").write_at(0, b"a").expect("a write");
    files.create_dir(&path("dir/c")).expect("a directory");
    let listed: Vec<_> = files
        .list(&path("dir"))
        .expect("a list")
        .into_iter()
        .map(|entry| (entry.name, entry.kind))
        .collect();
    let file = |name: &str| (name.to_owned(), EntryKind::File);
    assert_eq!(listed, [file("a"), file("b"), ("c".into(), EntryKind::Dir)]);

    files
        .rename(&path("dir/a"), &path("dir/b"))
        .expect("a rename over b");
    assert_eq!(read_file(files, &path("dir/b"), 1).expect("b"), b"a");
    fails(
        files.open(&path("dir/a"), OpenMode::Read),
        ErrorKind::NotFound,
    );
    files
        .rename(&path("dir/b"), &path("top"))
        .expect("a rename to another directory");
    files
        .rename(&path("top"), &path("top"))
        .expect("a rename to itself");
    assert_eq!(read_file(files, &path("top"), 1).expect("top"), b"a");
    files
        .remove(&path("dir/c"))
        .expect("an empty directory is removed");
    files
        .remove(&path("dir"))
        .expect("an empty directory is removed");
    files.remove(&path("top")).expect("a file is removed");
    assert!(files.list(&FilePath::root()).expect("a list").is_empty());
}

fn check_errors(files: &dyn Files) {
    files.create_dir(&path("dir")).expect("a directory");
    create(files, "file");
    create(files, "dir/file");
    for mode in [OpenMode::Read, OpenMode::Write] {
        fails(files.open(&path("none"), mode), ErrorKind::NotFound);
        fails(files.open(&path("dir"), mode), ErrorKind::IsADirectory);
        fails(files.open(&path("file/x"), mode), ErrorKind::NotADirectory);
    }
    let new = OpenMode::CreateNew;
    fails(files.open(&path("file"), new), ErrorKind::AlreadyExists);
    fails(files.open(&path("none/x"), new), ErrorKind::NotFound);
    fails(files.create_dir(&path("dir")), ErrorKind::AlreadyExists);
    fails(files.create_dir(&path("file")), ErrorKind::AlreadyExists);
    fails(
        files.create_dir(&FilePath::root()),
        ErrorKind::AlreadyExists,
    );
    fails(files.create_dir(&path("none/x")), ErrorKind::NotFound);
    fails(files.remove(&path("none")), ErrorKind::NotFound);
    fails(files.remove(&path("dir")), ErrorKind::DirectoryNotEmpty);
    fails(files.rename(&path("none"), &path("x")), ErrorKind::NotFound);
    fails(
        files.rename(&path("file"), &path("none/x")),
        ErrorKind::NotFound,
    );
    fails(files.list(&path("none")), ErrorKind::NotFound);
    fails(files.list(&path("file")), ErrorKind::NotADirectory);
    fails(files.sync_dir(&path("none")), ErrorKind::NotFound);
    let error = files.remove(&path("none")).expect_err("it is missing");
    assert!(error.to_string().contains("none"), "errors name the file");
    fails(read_file(files, &path("none"), 1), ErrorKind::NotFound);
}

fn check_open_files_outlive_their_names(files: &dyn Files) {
    let file = create(files, "file");
    files.remove(&path("file")).expect("a removal");
    file.write_at(0, b"still").expect("a write");
    assert_eq!(content(&*file), b"still");
    let other = create(files, "file");
    assert_eq!(content(&*other), b"", "a new file is another file");
}

fn check_durable_puts(files: &dyn Files) {
    let (temp, name) = (path("temp"), path("a/b/file"));
    for bytes in [&b"one"[..], b"two!"] {
        put_durably(files, &temp, &name, |file| file.write_at(0, bytes)).expect("a put");
        assert_eq!(read_file(files, &name, 4).expect("the file"), bytes);
        fails(files.open(&temp, OpenMode::Read), ErrorKind::NotFound);
    }
    fails(read_file(files, &name, 3), ErrorKind::FileTooLarge);
    let failed = put_durably(files, &temp, &name, |file| file.read_at(0, &mut [0]));
    fails(failed, ErrorKind::UnexpectedEof);
    assert_eq!(read_file(files, &name, 4).expect("the file"), b"two!");
    fails(files.open(&temp, OpenMode::Read), ErrorKind::NotFound);
    create_dirs(files, &path("a/b")).expect("they exist");
    for _ in 0..2 {
        remove_durably(files, &name).expect("a removal");
        fails(files.open(&name, OpenMode::Read), ErrorKind::NotFound);
    }
}

fn check_locks(files: &dyn LockFiles) {
    use LockKind::{Exclusive, Shared};
    let lock = |kind| files.lock(&path("lock"), kind, IfHeld::Fail);
    let held = |kind| matches!(lock(kind), Err(LockError::Held { .. }));
    let first = lock(Shared).expect("a first reader");
    let second = lock(Shared).expect("a second reader");
    assert!(held(Exclusive));
    drop(first);
    assert!(held(Exclusive));
    drop(second);
    let writer = lock(Exclusive).expect("a writer");
    assert!(held(Shared) && held(Exclusive));
    let other = files.lock(&path("other"), Exclusive, IfHeld::Fail);
    assert!(other.is_ok(), "locks of two files are two locks");
    drop(writer);
    assert!(!held(Shared));
    let missing = files.lock(&path("none/lock"), Shared, IfHeld::Fail);
    assert!(matches!(missing, Err(LockError::File(e)) if e.is_missing()));
}

fn check_waiting_for_a_lock(files: &dyn LockFiles) {
    let name = path("lock");
    let first = files
        .lock(&name, LockKind::Exclusive, IfHeld::Wait)
        .expect("the lock");
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _second = files
                .lock(&name, LockKind::Exclusive, IfHeld::Wait)
                .expect("the lock");
            assert!(released.load(Ordering::SeqCst), "it did not wait");
        });
        std::thread::sleep(Duration::from_millis(20));
        released.store(true, Ordering::SeqCst);
        drop(first);
    });
}
