//! R5: a base with four applications, composed and laid out, with nothing cached.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use anyhow::{Context, Result};
use harness::{App, Input, run};
use shale_image::merge::{ChunkBytes, NamedLayer, StackLayer, merge, need};
use shale_image::{Layout, lay_out};
use shale_model::{
    Chunker, EncodedPage, Filesystem, LayerDecoder, LayerEncoder, LayerRoot, TemplateId, TreeLayer,
    compose,
};

use crate::Settings;
use crate::host::Host;
use crate::measure::{Contender, Sample, in_turns, median, own_cpu, print_alone, seconds};
use crate::programs::Shale;
use crate::rows::boot::verdict;
use crate::synthetic::repeated;
use crate::table::Table;

const TARGET: f64 = 0.060;
const TARGET_ENTRIES: f64 = 15_000.0;
/// How much more an entry may cost in a larger stack than in the smallest, for the whole to count as linear. The largest
/// has seven times the entries. Plans of 32 MB and more get fresh pages from the kernel in every run, where smaller
/// ones find those of the run before, and that alone is a third.
const LINEAR_WITHIN: f64 = 2.0;

/// The applications, each made on the base alone. OpenJDK brings the package openssl, and PostgreSQL changes the mode of
/// one of its directories, so the last of the two decides, and that is PostgreSQL.
const APPS: [(App, &str); 4] = [
    (App::Nginx, "bench/nginx"),
    (App::OpenJdk, "bench/openjdk"),
    (App::Python, "bench/python"),
    (App::Postgresql, "bench/postgresql"),
];

/// What is composed: how many of the applications, and how often the base's entries.
const SERIES: [(usize, usize); 5] = [(2, 1), (4, 1), (4, 2), (4, 4), (4, 8)];
/// The stack of the target among them.
const ALL: usize = 1;

/// A layer as a registry sends it.
struct Encoded {
    pages: Vec<EncodedPage>,
    root: LayerRoot,
}

/// A stack: the first layer is what the others were made on.
struct Stack {
    layers: Vec<Encoded>,
    bytes: ChunkBytes,
    entries: u64,
}

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let shale = Shale::new(directory.path())?;
    let base = Input::base()?;
    shale.json(&[
        "push".as_ref(),
        base.tree().as_os_str(),
        "bench/base".as_ref(),
    ])?;
    let mut stack = "bench/base".to_owned();
    for (app, name) in APPS {
        let tree = Input::with_app(app)?.tree();
        let arguments = ["push", "--base", "bench/base"].map(AsRef::as_ref);
        shale.json(&[&arguments[..], &[tree.as_os_str(), name.as_ref()]].concat())?;
        stack = format!("{stack}+{name}");
    }
    let mut create = shale.command();
    create.args(["template", "create", "--conflicts", "take-later"]);
    let created = run(create.args(["bench/web", &stack]))?;
    let host = Host::open(&shale, &directory.path().join("chunks"))?;
    let composer = host.composer(&directory.path().join("plans"))?;
    let template = composer.template(created.trim().parse()?)?;
    let mut trees: Vec<TreeLayer> = Vec::new();
    for layer in &template.layers {
        trees.push(composer.layer(layer.id)?);
    }

    let mut table = Table::new(&[
        "applications",
        "base",
        "entries",
        "decode ms",
        "merge ms",
        "fold ms",
        "lay out ms",
        "together ms",
        "CPU ms",
        "us an entry",
    ]);
    let mut measured = Vec::new();
    for (applications, copies) in SERIES {
        let stack = Stack::new(&host, &trees[..=applications], copies)?;
        let mut runs: [Vec<f64>; 5] = Default::default();
        let worked = own_cpu()?;
        for _ in 0..settings.runs {
            let steps = stack.run()?;
            for (all, step) in runs
                .iter_mut()
                .zip(steps.iter().copied().chain([steps.iter().sum()]))
            {
                all.push(step);
            }
        }
        let cpu = (own_cpu()? - worked) / f64::from(settings.runs);
        let medians = runs.map(|values| median(&values));
        let together = medians[4];
        let mut cells = vec![
            applications.to_string(),
            format!("{copies} x"),
            stack.entries.to_string(),
        ];
        cells.extend(medians.iter().map(|value| format!("{:.1}", value * 1e3)));
        cells.push(format!("{:.0}", cpu * 1e3));
        cells.push(format!("{:.2}", together * 1e6 / stack.entries as f64));
        table.row(&cells);
        measured.push((stack.entries as f64, together));
    }
    println!("input: base, and on it nginx, OpenJDK, Python with numpy, PostgreSQL, in this order");
    table.print();
    print_verdicts(&measured);

    // The same with all around it: chunks from a local repository, the plan written and synced.
    let mut run = 0;
    let mut contenders = [Contender::new("template to plan file", || {
        run += 1;
        let place = directory.path().join(format!("run-{run}"));
        let composer = host.composer(&place)?;
        let value = seconds(|| {
            std::hint::black_box(composer.image(template.id())?);
            Ok(())
        })?;
        Ok(Sample::of(value))
    })];
    in_turns(settings.runs, &mut contenders)?;
    println!("base + 4 applications, from a local repository to a plan on disk:");
    print_alone("s", &contenders);
    Ok(())
}

/// What the entries and the seconds of the series say about the targets.
fn print_verdicts(measured: &[(f64, f64)]) {
    let (entries, seconds) = measured[ALL];
    println!(
        "base + 4 applications: {:.1} ms at {entries} entries; at most {:.0} ms: {}",
        seconds * 1e3,
        TARGET * 1e3,
        verdict(seconds <= TARGET)
    );
    let target = seconds * TARGET_ENTRIES / entries;
    println!(
        "target: at most {TARGET} s for {TARGET_ENTRIES} entries (their part of it: {target:.3} s): {}",
        verdict(target <= TARGET)
    );
    let each = |(entries, seconds): &(f64, f64)| seconds / entries;
    let first = measured.first().map_or(f64::NAN, each);
    let most = measured.iter().map(each).fold(f64::NAN, f64::max);
    println!(
        "target: linear, an entry nowhere costs more than {LINEAR_WITHIN} x what it costs in the smallest stack ({:.2} x): {}",
        most / first,
        verdict(most / first <= LINEAR_WITHIN)
    );
}

impl Stack {
    /// Encodes `trees`, with `scale` copies of what is in the first.
    fn new(host: &Host, trees: &[TreeLayer], scale: usize) -> Result<Self> {
        let (base, applications) = trees.split_first().context("a stack has a base")?;
        let base = repeated(base, scale)?;
        let mut layers = Vec::new();
        for tree in [&base].into_iter().chain(applications) {
            let (pages, root) = LayerEncoder::encode(tree, Chunker::FastCdc)?;
            layers.push(Encoded { pages, root });
        }
        let mut stack = Self {
            entries: layers.iter().map(|layer| layer.root.totals.entries).sum(),
            layers,
            bytes: ChunkBytes::new(),
        };
        let trees = stack.decode()?;
        let mut missing: HashSet<_> = need(&stack.named(&trees)).into_iter().collect();
        let lengths: HashMap<_, _> = trees.iter().flat_map(TreeLayer::chunks).collect();
        missing.retain(|id| lengths.contains_key(id));
        let wanted: Vec<_> = missing.iter().map(|id| (*id, lengths[id])).collect();
        stack.bytes = missing.iter().copied().zip(host.chunks(&wanted)?).collect();
        Ok(stack)
    }

    fn decode(&self) -> Result<Vec<TreeLayer>> {
        let mut trees = Vec::new();
        for layer in &self.layers {
            let pages = layer.pages.iter().map(|page| &page.bytes[..]);
            trees.push(LayerDecoder::decode(&layer.root, pages)?);
        }
        Ok(trees)
    }

    fn named<'a>(&self, trees: &'a [TreeLayer]) -> Vec<StackLayer<'a>> {
        let named = |number: usize| NamedLayer {
            id: self.layers[number].root.id(),
            tree: &trees[number],
        };
        let layer = |number: usize| StackLayer {
            layer: named(number),
            made_on: (0..number.min(1)).map(named).collect(),
        };
        (0..trees.len()).map(layer).collect()
    }

    /// Seconds of each step.
    fn run(&self) -> Result<[f64; 4]> {
        let mut times = [0.0; 4];
        let begun = Instant::now();
        let trees = self.decode()?;
        times[0] = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let stack = self.named(&trees);
        std::hint::black_box(need(&stack));
        let merged = merge(&stack, &self.bytes)?;
        times[1] = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let tree = compose(merged.trees())?;
        times[2] = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let options = Layout {
            template: TemplateId::of(b"bench"),
            filesystem: Filesystem::Ext4V1,
            disk_bytes: 0,
            uuid: [1; 16],
        };
        let parts = lay_out(&tree, &options, &merged.synthetic)?;
        // As a host has it: it writes the synthesised bytes from where they are.
        std::hint::black_box((parts.head(), parts));
        times[3] = begun.elapsed().as_secs_f64();
        Ok(times)
    }
}
