//! What is done to the cache.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use harness::{Random, run};
use serde_json::Value;

use crate::commands::may_fail;
use crate::scene::Scene;

use super::kills::kill;
use super::look;

pub(super) fn flip(scene: &mut Scene, random: &mut Random) -> Result<()> {
    let count = with_the_service_dead(scene, random, |file, random| {
        let len = file.metadata()?.len().max(1);
        let at = random.below(len);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ (1 << random.below(8))], at)
    })?;
    scene.account.flips += count;
    Ok(())
}

pub(super) fn cut(scene: &mut Scene, random: &mut Random) -> Result<()> {
    let count = with_the_service_dead(scene, random, |file, random| {
        let len = file.metadata()?.len();
        file.set_len(random.below(len.max(1)))
    })?;
    scene.account.cuts += count;
    Ok(())
}

/// Does something to a few files of the cache which no service has open; to how many.
///
/// Logins may start a service meanwhile. What is damaged then is what a disk that fails gives: bytes that were not
/// verified yet are found, others the service has in memory.
fn with_the_service_dead(
    scene: &mut Scene,
    random: &mut Random,
    damage: impl Fn(&File, &mut Random) -> std::io::Result<()>,
) -> Result<u32> {
    let files = scene.cached()?;
    kill(scene);
    let mut count = 0;
    for _ in 0..=random.below(4) {
        let Some(path) = files.get(random.below(files.len().max(1) as u64) as usize) else {
            break;
        };
        // The cache may have made room, and an empty file has nothing to change.
        let file = OpenOptions::new().read(true).write(true).open(path);
        if file.and_then(|file| damage(&file, random)).is_ok() {
            count += 1;
        }
    }
    look(scene)?;
    Ok(count)
}

/// Pins a template, which stays pinned whatever becomes of the service, and unpins it.
pub(super) fn pin(scene: &mut Scene) -> Result<()> {
    let kernel = scene.kernel.clone();
    let mut pin = scene.shale();
    if !may_fail(pin.args(["cache", "pin", &kernel]), &mut scene.account)? {
        return Ok(());
    }
    kill(scene);
    let listed = run(scene.shale().args(["cache", "ls", "--format", "json"]))?;
    let listed: Vec<Value> = serde_json::from_str(&listed)?;
    let is_it = |template: &&Value| {
        let names = template["references"].as_array().into_iter().flatten();
        // With its tag.
        let mut names = names.filter_map(Value::as_str);
        names.any(|name| name.starts_with(&kernel))
    };
    let found = listed.iter().find(is_it);
    let found = found.with_context(|| format!("{kernel} in {listed:?}"))?;
    ensure!(found["pinned"] == true, "{found}");
    let mut unpin = scene.shale();
    unpin.args(["cache", "unpin", &kernel]);
    may_fail(&mut unpin, &mut scene.account).map(drop)
}
