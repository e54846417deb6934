//! The loader's cache against the real ldconfig.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::helper::{World, file};

/// Real libraries to fill roots with: each with a name of its own.
fn libraries(count: usize) -> Vec<String> {
    let listing = run(Command::new("ldconfig").arg("-p"));
    let mut paths: Vec<_> = listing
        .lines()
        .filter_map(|line| line.split_once(" => "))
        .filter(|(name, _)| !name.contains("ld-linux") && !name.contains(".so ("))
        .map(|(_, path)| path.to_string())
        .collect();
    paths.sort();
    paths.dedup_by_key(|path| Path::new(path).file_name().unwrap().to_owned());
    assert!(paths.len() >= count, "this machine has too few libraries");
    paths.truncate(count);
    paths
}

fn run(command: &mut Command) -> String {
    let output = command
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .output()
        .expect("ldconfig is missing (Debian: libc-bin)");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The cache that ldconfig makes of a root with these libraries.
fn cache_of(libraries: &[&str], in_hwcaps: &[&str], format: &str) -> Vec<u8> {
    let root = TempDir::new().unwrap();
    let lib = root.path().join("usr/lib");
    let fast = lib.join("glibc-hwcaps/x86-64-v3");
    for dir in ["etc", "var/cache/ldconfig", "usr/lib"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    // ldconfig writes the name of this directory into the cache even if it is empty.
    if !in_hwcaps.is_empty() {
        fs::create_dir_all(&fast).unwrap();
    }
    for (list, dir) in [(libraries, &lib), (in_hwcaps, &fast)] {
        for path in list {
            fs::copy(path, dir.join(Path::new(path).file_name().unwrap())).unwrap();
        }
    }
    run(Command::new("ldconfig")
        .args(["-X", "-c", format, "-r"])
        .arg(root.path()));
    fs::read(root.path().join("etc/ld.so.cache")).unwrap()
}

fn listing(cache: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), cache).unwrap();
    let text = run(Command::new("ldconfig").args(["-p", "-C"]).arg(file.path()));
    text.split_once('\n').unwrap().1.to_string()
}

fn check(format: &str, with_hwcaps: bool) {
    let all = libraries(12);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let hwcaps = |list: &'static [usize]| -> Vec<&str> {
        let list = if with_hwcaps { list } else { &[] };
        list.iter().map(|at| all[*at]).collect()
    };
    let part = |list: &[usize]| -> Vec<&str> { list.iter().map(|at| all[*at]).collect() };
    let base = cache_of(&part(&[0, 1, 2, 3]), &hwcaps(&[]), format);
    let one = cache_of(&part(&[0, 1, 2, 3, 4, 6, 8]), &hwcaps(&[4]), format);
    let two = cache_of(&part(&[0, 1, 2, 5, 7, 9, 10, 11]), &hwcaps(&[1, 5]), format);
    let whole = cache_of(
        &part(&[0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]),
        &hwcaps(&[1, 4, 5]),
        format,
    );

    let mut world = World::default();
    let [base, one, two] = [("base", &base), ("one", &one), ("two", &two)]
        .map(|(id, cache)| world.layer(id, [("etc/ld.so.cache", file(cache))]));
    let merged = world.merge(&[base.on(&[]), one.on(&[&base]), two.on(&[&base])]);
    assert_eq!(merged.conflicts, []);
    let cache: Vec<u8> = merged.synthetic.values().flatten().copied().collect();
    assert_eq!(listing(&cache), listing(&whole));
    assert!(
        cache == whole,
        "ldconfig reads the same, but writes other bytes"
    );
}

#[test]
fn united_caches_are_what_ldconfig_makes_of_the_united_tree() {
    check("new", false);
}

#[test]
fn united_caches_with_hwcaps_are_what_ldconfig_makes_of_the_united_tree() {
    check("new", true);
}

#[test]
fn united_caches_with_the_old_table_are_what_ldconfig_makes_of_the_united_tree() {
    check("compat", false);
}
