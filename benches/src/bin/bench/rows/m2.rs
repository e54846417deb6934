//! M2: decoding a layer of a million entries, and opening the plan that it becomes.

use anyhow::Result;
use shale_image::{Layout, lay_out};
use shale_model::{Chunker, Filesystem, LayerDecoder, LayerEncoder, TemplateId, compose};
use shale_view::open_plan;

use crate::Settings;
use crate::measure::{Contender, Sample, in_turns, print_alone, seconds};
use crate::rows::boot::verdict;
use crate::synthetic::application;

const ENTRIES: usize = 1_000_000;
const DECODE_TARGET: f64 = 1.0;
const OPEN_TARGET: f64 = 0.15;

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let tree = application("application", ENTRIES)?;
    let (pages, root) = LayerEncoder::encode(&tree, Chunker::FastCdc)?;
    let directory = tempfile::tempdir()?;
    let bytes: usize = pages.iter().map(|page| page.bytes.len()).sum();

    let composed = compose([&tree])?;
    let options = Layout {
        template: TemplateId::of(b"bench"),
        filesystem: Filesystem::Ext4V1,
        disk_bytes: 0,
        uuid: [1; 16],
    };
    let (id, plan) = lay_out(&composed, &options, &Default::default())?.encode();
    let path = directory.path().join("plan");
    std::fs::write(&path, &plan)?;
    println!(
        "input: {} entries; layer {:.1} MB in {} pages; plan {:.1} MB (in the page cache)",
        root.totals.entries,
        bytes as f64 / 1e6,
        pages.len(),
        plan.len() as f64 / 1e6
    );
    drop(plan);

    let decode = || {
        let value = seconds(|| {
            std::hint::black_box(LayerDecoder::decode(
                &root,
                pages.iter().map(|page| &page.bytes[..]),
            )?);
            Ok(())
        })?;
        Ok(Sample::of(value))
    };
    let open = || {
        let value = seconds(|| {
            std::hint::black_box(open_plan(&path, id)?);
            Ok(())
        })?;
        Ok(Sample::of(value))
    };
    let fold = || {
        let value = seconds(|| {
            std::hint::black_box(compose([&tree])?);
            Ok(())
        })?;
        Ok(Sample::of(value))
    };
    let place = || {
        let value = seconds(|| {
            std::hint::black_box(lay_out(&composed, &options, &Default::default())?.encode());
            Ok(())
        })?;
        Ok(Sample::of(value))
    };
    let mut contenders = [
        Contender::new("decode the layer", decode),
        Contender::new("open the plan", open),
        Contender::new("(fold)", fold),
        Contender::new("(lay out, encode the plan)", place),
    ];
    in_turns(settings.runs, &mut contenders)?;
    print_alone("s", &contenders);
    let (decoded, opened) = (contenders[0].median(), contenders[1].median());
    println!(
        "target: decode in less than {DECODE_TARGET} s: {}",
        verdict(decoded < DECODE_TARGET)
    );
    println!(
        "target: open in at most {OPEN_TARGET} s: {}",
        verdict(opened <= OPEN_TARGET)
    );
    Ok(())
}
