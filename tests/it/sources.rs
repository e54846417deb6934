//! Rules about the sources that no lint knows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use harness::repository;

/// A test that does not run says nothing: what it needs is installed (`dev/packages`), or it fails.
#[test]
fn no_test_is_skipped() -> Result<()> {
    // Put together so that this file does not hold it.
    let attribute = ["#[", "ignore"].concat();
    let mut found = Vec::new();
    for file in rust_files(&repository())? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {file:?}"))?;
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.contains(&attribute));
        found.extend(lines.map(|(number, _)| format!("{}:{}", file.display(), number + 1)));
    }
    assert!(found.is_empty(), "ignored tests:\n{}", found.join("\n"));
    Ok(())
}

/// Every Rust source below `directory`, hidden directories and build output left out.
pub(crate) fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| format!("list {directory:?}"))? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let skipped = name == "target" || name.as_encoded_bytes().starts_with(b".");
            if entry.file_type()?.is_dir() && !skipped {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}
