//! W1: what a guest writes, through the overlay.

use std::path::Path;

use anyhow::{Context, Result};
use harness::{Input, run};
use serde_json::Value;

use crate::Settings;
use crate::measure::{Contender, Sample, in_turns, print};
use crate::programs::{Shale, clear, peer};
use crate::rows::boot::{export_base, push_base, serve_base, serve_file, verdict};

const RANDOM: [&str; 5] = [
    "--rw=randwrite",
    "--bs=4k",
    "--fsync=1",
    "--size=1g",
    "--runtime=5",
];
const SEQUENTIAL: [&str; 5] = [
    "--rw=write",
    "--bs=1m",
    "--iodepth=4",
    "--size=1g",
    "--end_fsync=1",
];

pub(crate) fn measure(settings: Settings) -> Result<()> {
    let base = Input::base()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let shale = Shale::new(directory.path())?;
    push_base(&shale, &base)?;
    export_base(&shale, &path("disk.raw"))?;
    let (overlay, qcow2, socket) = (path("overlay"), path("disk.qcow2"), path("nbd.sock"));

    println!("input: 1 GiB of the base's disk of 2 GiB; each run on a new overlay");
    for (what, unit, job, field) in [
        ("4 KiB random, each with fsync", "IOPS", RANDOM, "iops"),
        (
            "1 MiB sequential, fsync at the end",
            "MiB/s",
            SEQUENTIAL,
            "bw",
        ),
    ] {
        let ours = || {
            clear(&overlay)?;
            let _server = serve_base(&shale, &socket, Some(&overlay))?;
            fio(&socket, &job, field)
        };
        let theirs = || {
            clear(&qcow2)?;
            clear(&socket)?;
            let mut create = peer("qemu-img")?;
            create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
            run(create.arg(path("disk.raw")).arg(&qcow2))?;
            let _server = serve_file(&qcow2, "qcow2", &socket)?;
            let sample = fio(&socket, &job, field)?;
            Ok(sample)
        };
        let mut contenders = [
            Contender::new("shale nbd --overlay", || {
                clear(&socket)?;
                ours()
            }),
            Contender::new("qemu-nbd, qcow2 over raw", theirs),
        ];
        in_turns(settings.runs, &mut contenders)?;
        println!("{what}:");
        print(unit, &contenders);
        println!(
            "target: at least qcow2's: {}",
            verdict(contenders[0].ratio_to(&contenders[1]) >= 1.0)
        );
    }
    Ok(())
}

/// Runs a job of fio against the default export; its writes' `field`, bandwidth in MiB/s.
fn fio(socket: &Path, job: &[&str], field: &str) -> Result<Sample> {
    let mut fio = peer("fio")?;
    // Where fio leaves its files.
    fio.current_dir(socket.parent().unwrap_or(Path::new("/")));
    fio.args([
        "--name=writes",
        "--ioengine=nbd",
        "--output-format=json",
        "--randseed=1",
    ]);
    fio.arg(format!("--uri=nbd+unix:///?socket={}", socket.display()));
    let text = run_fio(fio.args(job))?;
    let answer: Value = serde_json::from_str(&text).context("read fio's answer")?;
    let value = answer["jobs"][0]["write"][field]
        .as_f64()
        .context("fio tells what it measured")?;
    Ok(Sample::of(if field == "bw" {
        value / 1024.0
    } else {
        value
    }))
}

/// fio prints notes before its JSON.
fn run_fio(fio: &mut std::process::Command) -> Result<String> {
    let text = run(fio)?;
    let start = text.find('{').unwrap_or(0);
    Ok(text[start..].to_owned())
}
