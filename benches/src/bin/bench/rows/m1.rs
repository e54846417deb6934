//! M1: bytes that an entry of the base's encoded layer takes after zstd, chunk ids apart.

use std::process::Command;

use anyhow::{Context, Result};
use harness::{Input, run};
use shale_model::{Chunker, ID_LEN, LayerEncoder};

use crate::host::{Host, template_in};
use crate::programs::Shale;
use crate::table::Table;

const TARGET: f64 = 12.0;
const LEVEL: i32 = 3;

/// One line for each entry, with what a layer page holds of it, except the chunks.
const LISTING: &str = "%p %y %m %U %G %T@ %s %l\\n";

pub(crate) fn measure() -> Result<()> {
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let shale = Shale::new(directory.path())?;
    let pushed = shale.json(&[
        "push".as_ref(),
        base.tree().as_os_str(),
        "bench/base".as_ref(),
    ])?;
    let host = Host::open(&shale, &directory.path().join("chunks"))?;
    let composer = host.composer(&directory.path().join("plans"))?;
    let template = composer.template(template_in(&pushed)?)?;
    let layer = template.layers.first().context("a template has a layer")?;
    let tree = composer.layer(layer.id)?;

    let (pages, root) = LayerEncoder::encode(&tree, Chunker::FastCdc)?;
    let (mut apart, mut together, mut ids) = (0, Vec::new(), 0);
    for (page, entry) in pages.iter().zip(&root.pages) {
        // The last column holds the ids.
        let of_ids = entry.chunks as usize * ID_LEN;
        let columns = &page.bytes[..page.bytes.len() - of_ids];
        apart += zstd::bulk::compress(columns, LEVEL)?.len();
        together.extend_from_slice(columns);
        ids += of_ids;
    }
    let together_stored = zstd::bulk::compress(&together, LEVEL)?.len();
    let listing = run(Command::new("find")
        .arg(base.tree())
        .args(["-printf", LISTING]))?;
    let listing_stored = zstd::bulk::compress(listing.as_bytes(), LEVEL)?.len();

    let entries = root.totals.entries as f64;
    let mut table = Table::new(&["", "plain bytes", "after zstd -3", "bytes an entry"]);
    let mut row = |name: &str, plain: usize, stored: usize| {
        let each = format!("{:.2}", stored as f64 / entries);
        table.row(&[name.to_owned(), plain.to_string(), stored.to_string(), each]);
    };
    row(
        "layer pages without ids, each page alone",
        together.len(),
        apart,
    );
    row(
        "layer pages without ids, in one frame",
        together.len(),
        together_stored,
    );
    row("chunk ids", ids, ids);
    row("find -printf of the same", listing.len(), listing_stored);
    println!(
        "input: base, {entries} entries, {} chunks, {} pages",
        root.totals.chunks,
        pages.len()
    );
    table.print();
    println!(
        "target: at most {TARGET} bytes an entry: {}",
        crate::rows::boot::verdict(apart as f64 / entries <= TARGET)
    );
    Ok(())
}
