//! What is counted on a host, as Prometheus reads it. `docs/seen.md` lists it with units.
//!
//! Sums and states are values that are taken when somebody asks ([`Counted`]); only what a sum cannot tell, how times
//! are spread, is noted while it happens ([`Noted`]).

mod counted;
mod timed_disk;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use shale_view::FirstReads;

pub(crate) use counted::{Counted, CountedMachine, MachineState, SourceSums, render};
pub(crate) use timed_disk::TimedDisk;

/// Upper bounds of the times of reads, in seconds: from memory, over a disk and a link, to the patience of a guest.
const READ_SECONDS: [f64; 12] = [
    0.000_05, 0.000_2, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0,
];

/// Upper bounds of the times to a login prompt, in seconds: from a warm start to an emulated boot over a slow link.
const READY_SECONDS: [f64; 11] = [
    0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0,
];

/// What is noted while it happens.
pub(crate) struct Noted {
    reads: Family<FaceLabels, Histogram>,
    ready: Histogram,
    boots: Mutex<FirstReads>,
}

/// Through what a disk is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Face {
    /// The socket of a machine.
    Nbd,
    /// Files of a mounted tree.
    FuseTree,
    /// A mounted disk as a file.
    FuseDisk,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaceLabels {
    face: &'static str,
}

impl Noted {
    pub(crate) fn new() -> Arc<Self> {
        let reads: fn() -> Histogram = || Histogram::new(READ_SECONDS);
        Arc::new(Self {
            reads: Family::new_with_constructor(reads),
            ready: Histogram::new(READY_SECONDS),
            boots: Mutex::default(),
        })
    }

    /// A start was ready.
    pub(crate) fn ready(&self, seconds: f64) {
        self.ready.observe(seconds);
    }

    /// A first boot was ready, which had read this.
    pub(crate) fn booted(&self, firsts: FirstReads) {
        let mut boots = self.boots();
        boots.here += firsts.here;
        boots.waited += firsts.waited;
    }

    /// Where reads through a face are noted.
    pub(crate) fn reads(&self, face: Face) -> Histogram {
        let face = match face {
            Face::Nbd => "nbd",
            Face::FuseTree => "fuse_tree",
            Face::FuseDisk => "fuse_disk",
        };
        self.reads.get_or_create_owned(&FaceLabels { face })
    }

    fn boots(&self) -> MutexGuard<'_, FirstReads> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
