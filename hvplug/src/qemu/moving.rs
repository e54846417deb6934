//! A disk of QEMU that is mirrored into a file (QEMU `docs/interop/live-block-operations.rst`).

use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::account::admit_file;
use super::command::{DISK_NODE, file_below};
use super::qmp::Qmp;
use super::{ANSWER_WITHIN, Qemu, refuses_direct_io};
use crate::driver::Vm;
use crate::error::{DriverError, DriverResult};
use crate::mover::{DiskMover, Moving};

/// The copy, of which a machine has one at a time.
const JOB: &str = "move";

/// Before the name of a file, the name of the node that it is.
const FILE_NODE: &str = "file-";

/// Longest name of a node.
const MAX_NODE_BYTES: usize = 31;

/// How long a complete copy may take to end: what the guest writes at that moment, and a sync of the file.
const END_WITHIN: Duration = Duration::from_secs(60);

/// How often a copy that ends is looked at.
const POLL: Duration = Duration::from_millis(10);

impl DiskMover for Qemu {
    fn begin(&self, vm: &Vm, target: &Path) -> DriverResult<()> {
        let node = node_of(target)?;
        if self.account.is_some() {
            admit_file(target)?;
        }
        let mut qmp = connect(vm)?;
        let buffered = match refuses_direct_io(target) {
            true => &[target][..],
            false => &[],
        };
        qmp.execute("blockdev-add", file_below(&node, target, buffered))?;
        let copy = json!({
            "job-id": JOB, "device": DISK_NODE, "target": node, "sync": "full",
            // A read of what is late is tried again, as the guest's are.
            "on-source-error": "stop", "on-target-error": "report",
            // What the guest writes is in both places before it is answered, from the moment that all is copied.
            "copy-mode": "write-blocking",
            // It stays until somebody has seen how it ended.
            "auto-dismiss": false,
        });
        let begun = qmp.execute("blockdev-mirror", copy);
        if begun.is_err() {
            let _ = qmp.execute("blockdev-del", json!({ "node-name": node }));
        }
        begun.map(drop)
    }

    fn progress(&self, vm: &Vm) -> DriverResult<Moving> {
        let mut qmp = connect(vm)?;
        let Some(job) = job(&mut qmp)? else {
            return Ok(Moving::Not);
        };
        if job["status"] == "concluded" {
            return Ok(Moving::Failed(reason(&job)));
        }
        if job["ready"] == true {
            return Ok(Moving::Complete);
        }
        if job["io-status"]
            .as_str()
            .is_some_and(|status| status != "ok")
        {
            qmp.execute("block-job-resume", json!({ "device": JOB }))?;
            return Ok(Moving::Late);
        }
        let number = |name: &str| job[name].as_u64().unwrap_or(0);
        Ok(Moving::Copying {
            bytes: number("offset"),
            of: number("len"),
        })
    }

    fn finish(&self, vm: &Vm, target: &Path) -> DriverResult<()> {
        let node = node_of(target)?;
        connect(vm)?.execute("stop", json!({}))?;
        connect(vm)?.execute("block-job-complete", json!({ "device": JOB }))?;
        end(vm)?;
        if moved_to(vm)?.is_none_or(|name| node != format!("{FILE_NODE}{name}")) {
            return Err(DriverError::Refused {
                command: "block-job-complete".into(),
                reason: "the copy failed at its end".into(),
            });
        }
        // The server may go now. What cannot be closed is closed when the machine ends.
        let _ = connect(vm)?.execute("blockdev-del", json!({ "node-name": DISK_NODE }));
        Ok(())
    }

    fn give_up(&self, vm: &Vm) -> DriverResult<()> {
        let cancel = json!({ "device": JOB, "force": true });
        // One connection at a time is served: this one ends here.
        let job = job(&mut connect(vm)?)?;
        if let Some(job) = job {
            if job["status"] != "concluded" {
                connect(vm)?.execute("block-job-cancel", cancel)?;
            }
            // That it was given up is no failure.
            let _ = end(vm);
        }
        let mut qmp = connect(vm)?;
        let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true }))?;
        let used = disk_node(&mut qmp)?;
        for node in nodes.as_array().into_iter().flatten() {
            let name = node["node-name"].as_str().unwrap_or_default();
            if name.starts_with(FILE_NODE) && used.as_deref() != Some(name) {
                qmp.execute("blockdev-del", json!({ "node-name": name }))?;
            }
        }
        Ok(())
    }

    fn moved_to(&self, vm: &Vm) -> DriverResult<Option<String>> {
        moved_to(vm)
    }
}

fn connect(vm: &Vm) -> DriverResult<Qmp> {
    match vm.process.runs() {
        true => Qmp::connect(&vm.files.control, ANSWER_WITHIN),
        false => Err(DriverError::Ended),
    }
}

fn moved_to(vm: &Vm) -> DriverResult<Option<String>> {
    let node = disk_node(&mut connect(vm)?)?;
    Ok(node.and_then(|node| Some(node.strip_prefix(FILE_NODE)?.to_owned())))
}

/// The node that the guest's first disk is.
fn disk_node(qmp: &mut Qmp) -> DriverResult<Option<String>> {
    let devices = qmp.execute("query-block", json!({}))?;
    let nodes = devices.as_array().into_iter().flatten();
    let mut nodes = nodes.filter_map(|device| device["inserted"]["node-name"].as_str());
    let first = nodes.find(|name| *name == DISK_NODE || name.starts_with(FILE_NODE));
    Ok(first.map(str::to_owned))
}

/// The copy, if one is under way.
fn job(qmp: &mut Qmp) -> DriverResult<Option<Value>> {
    let jobs = qmp.execute("query-block-jobs", json!({}))?;
    let mut jobs = jobs.as_array().into_iter().flatten();
    Ok(jobs.find(|job| job["device"] == JOB).cloned())
}

/// Waits until the copy has ended, and lets it go.
fn end(vm: &Vm) -> DriverResult<()> {
    let deadline = Instant::now() + END_WITHIN;
    loop {
        let mut qmp = connect(vm)?;
        let Some(job) = job(&mut qmp)? else {
            return Ok(());
        };
        if job["status"] == "concluded" {
            qmp.execute("job-dismiss", json!({ "id": JOB }))?;
            return match job.get("error") {
                None => Ok(()),
                Some(_) => Err(DriverError::Refused {
                    command: "blockdev-mirror".into(),
                    reason: reason(&job),
                }),
            };
        }
        if Instant::now() > deadline {
            return Err(DriverError::NoAnswer {
                command: "query-block-jobs".into(),
                source: io::ErrorKind::TimedOut.into(),
            });
        }
        sleep(POLL);
    }
}

/// Why a copy ended.
fn reason(job: &Value) -> String {
    let error = job["error"].as_str();
    error
        .unwrap_or("the hypervisor does not say why")
        .to_owned()
}

/// The name of the node that a file is.
fn node_of(file: &Path) -> DriverResult<String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let node = format!("{FILE_NODE}{name}");
    match node.len() <= MAX_NODE_BYTES && name.bytes().all(plain) {
        true => Ok(node),
        false => Err(DriverError::LongPath(file.to_owned())),
    }
}
