//! One file per row, and what several of them need.

mod b1;
mod b1a;
mod b2;
mod b3;
mod b4;
mod b5;
mod b6;
mod boot;
mod m1;
mod m2;
mod mounted;
mod network;
mod nydus;
mod p1;
mod p4;
mod r3;
mod r4;
mod r5;
mod tunnel;
mod w1;

use anyhow::Result;
use clap::ValueEnum;

use crate::Settings;

/// A row of the table of targets.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Row {
    /// Bytes an entry of an encoded layer
    M1,
    /// Decoding a million entries, opening their plan
    M2,
    /// Pushing the base: time and size
    P1,
    /// Memory of a push
    P4,
    /// Reading all files of a mounted tree
    R1,
    /// Looking at all files of a mounted tree
    R2,
    /// Reads of a disk, by FUSE and NBD
    R3,
    /// From the command to an export or a mount
    R4,
    /// Composing and laying out
    R5,
    /// A boot's reads, from a warm cache
    B5,
    /// A guest's writes
    W1,
    /// The second virtual machine of a template on a host
    B3,
    /// The first one on a host, over a network; another host has booted it before
    B1,
    /// The same, and nobody has
    B1a,
    /// Both, over a slow network
    B2,
    /// Sixteen at once on a host
    B4,
    /// From a warm snapshot, over a network
    B6,
}

impl Row {
    pub(crate) fn run(self, settings: Settings) -> Result<()> {
        match self {
            Row::M1 => m1::measure(),
            Row::M2 => m2::measure(settings),
            Row::P1 => p1::measure(settings),
            Row::P4 => p4::measure(settings),
            Row::R1 => mounted::read(settings),
            Row::R2 => mounted::look(settings),
            Row::R3 => r3::measure(settings),
            Row::R4 => r4::measure(settings),
            Row::R5 => r5::measure(settings),
            Row::B5 => b5::measure(settings),
            Row::W1 => w1::measure(settings),
            Row::B3 => b3::measure(settings),
            Row::B1 => b1::measure(settings),
            Row::B1a => b1a::measure(settings),
            Row::B2 => b2::measure(settings),
            Row::B4 => b4::measure(settings),
            Row::B6 => b6::measure(settings),
        }
    }
}
