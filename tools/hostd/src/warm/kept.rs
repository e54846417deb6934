//! `machine.json` of a warm snapshot: what another machine must have in common with the one that was kept.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};
use shale_hvplug::{Acceleration, Resources};
use shale_model::{PlanId, TemplateId};

/// `format` of the file.
const FORMAT: &str = "shale.warm.v1";

/// Longest file that is read: a guest that wrote to a million places of its disk while it booted.
pub(crate) const MAX_MACHINE_BYTES: u64 = 32 << 20;

/// Most runs of blocks.
const MAX_RUNS: usize = 1 << 20;

/// A machine that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptMachine {
    format: String,
    pub(crate) machine: Common,
    /// Runs of blocks that the guest wrote, whose bytes are in the file beside this one: the first block, and how many.
    pub(crate) written: Vec<(u64, u64)>,
    /// Runs of blocks that it made zeros.
    pub(crate) zeroed: Vec<(u64, u64)>,
}

/// What both have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Common {
    /// The template.
    pub(crate) template: TemplateId,
    /// The plan of its disk: the memory knows where on the disk files are.
    pub(crate) plan: PlanId,
    /// Bytes of the disk.
    pub(crate) disk_bytes: u64,
    /// Number of disks behind that.
    pub(crate) data_disks: usize,
    /// Memory and processors.
    pub(crate) resources: Resources,
    /// What the processors are, where those of the host are used.
    pub(crate) processor: String,
    /// The hypervisor and its version.
    pub(crate) hypervisor: String,
    /// The kernel's command line.
    pub(crate) command_line: String,
}

/// What a machine has not in common with the one that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Differs {
    what: &'static str,
    kept: String,
    wanted: String,
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, kept, wanted } = self;
        write!(
            f,
            "it was kept with {what} {kept}, this machine has {wanted}"
        )
    }
}

impl KeptMachine {
    pub(crate) fn new(machine: Common, written: Vec<(u64, u64)>, zeroed: Vec<(u64, u64)>) -> Self {
        Self {
            format: FORMAT.into(),
            machine,
            written,
            zeroed,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // Strings, numbers and lists have no way not to become JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the file, checking every rule; the error says which one is broken.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_MACHINE_BYTES {
            return Err(format!("it has more than {MAX_MACHINE_BYTES} bytes"));
        }
        let kept: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if kept.format != FORMAT {
            return Err(format!("its format is `{:.40}`", kept.format));
        }
        let blocks = kept.machine.disk_bytes / shale_view::UNIT_BYTES;
        for runs in [&kept.written, &kept.zeroed] {
            if runs.len() > MAX_RUNS {
                return Err(format!("it has more than {MAX_RUNS} runs of blocks"));
            }
            let mut end = 0;
            for (first, count) in runs {
                let next = first.checked_add(*count).filter(|next| *next <= blocks);
                end = match next {
                    Some(next) if *first >= end && *count > 0 => next,
                    _ => return Err("its runs of blocks are not in order on its disk".into()),
                };
            }
        }
        Ok(kept)
    }
}

impl Common {
    /// What a machine with `wanted` has not in common with this one: the first of these that would make it go wrong.
    pub(crate) fn differs(&self, wanted: &Self) -> Option<Differs> {
        let differs = |what, kept: &dyn fmt::Display, wanted: &dyn fmt::Display| {
            let (kept, wanted) = (kept.to_string(), wanted.to_string());
            (kept != wanted).then_some(Differs { what, kept, wanted })
        };
        let how = |resources: &Resources| match resources.acceleration {
            Acceleration::Tcg => "translated",
            Acceleration::Kvm => "the host's own",
        };
        let (kept, asked) = (&self.resources, &wanted.resources);
        differs("template", &self.template, &wanted.template)
            .or_else(|| differs("plan", &self.plan, &wanted.plan))
            .or_else(|| differs("hypervisor", &self.hypervisor, &wanted.hypervisor))
            .or_else(|| differs("processors that are", &how(kept), &how(asked)))
            .or_else(|| differs("processors of type", &self.processor, &wanted.processor))
            .or_else(|| differs("processors, in number", &kept.cpus, &asked.cpus))
            .or_else(|| differs("memory, in bytes:", &kept.memory_bytes, &asked.memory_bytes))
            .or_else(|| differs("a disk, in bytes:", &self.disk_bytes, &wanted.disk_bytes))
            .or_else(|| {
                differs(
                    "data disks, in number",
                    &self.data_disks,
                    &wanted.data_disks,
                )
            })
            .or_else(|| differs("command line", &self.command_line, &wanted.command_line))
    }
}

/// What the processors of a guest are: those that are translated are the hypervisor's, and part of its version.
pub(crate) fn processor_of(acceleration: Acceleration) -> String {
    match acceleration {
        Acceleration::Tcg => "max".into(),
        Acceleration::Kvm => {
            let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let field = |name: &str| -> String {
                let mut lines = info.lines().filter(|line| line.starts_with(name));
                let value = lines.next().and_then(|line| line.split_once(':'));
                value.map_or("", |(_, value)| value.trim()).to_owned()
            };
            // The flags, because a host may be a guest, with fewer of them than its model has.
            format!("{}, {}", field("model name"), field("flags"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn common() -> Common {
        Common {
            template: TemplateId::of(b"t"),
            plan: PlanId::of(b"p"),
            disk_bytes: 2 << 30,
            data_disks: 0,
            resources: Resources {
                memory_bytes: 512 << 20,
                cpus: 2,
                acceleration: Acceleration::Tcg,
            },
            processor: "max".into(),
            hypervisor: "QEMU emulator version 7.2.22".into(),
            command_line: "quiet".into(),
        }
    }

    fn kept() -> KeptMachine {
        KeptMachine::new(common(), vec![(0, 1), (1, 5), (9, 1)], vec![(7, 2)])
    }

    #[test]
    fn each_thing_that_must_be_the_same_is_told_by_name() {
        assert_eq!(common().differs(&common()), None);
        type Change = fn(&mut Common);
        let changes: [(&str, Change); 9] = [
            ("template", |c| c.template = TemplateId::of(b"x")),
            ("plan", |c| c.plan = PlanId::of(b"x")),
            ("7.2.23", |c| {
                c.hypervisor = "QEMU emulator version 7.2.23".into()
            }),
            ("translated", |c| {
                c.resources.acceleration = Acceleration::Kvm
            }),
            ("type max", |c| c.processor = "other".into()),
            ("number 2", |c| c.resources.cpus = 4),
            ("536870912", |c| c.resources.memory_bytes = 1 << 30),
            ("2147483648", |c| c.disk_bytes = 3 << 30),
            ("quiet", |c| c.command_line.clear()),
        ];
        for (named, change) in changes {
            let mut wanted = common();
            change(&mut wanted);
            let reason = common().differs(&wanted).unwrap().to_string();
            assert!(reason.contains(named), "{named}: {reason}");
        }
        let mut wanted = common();
        wanted.data_disks = 1;
        assert!(common().differs(&wanted).is_some());
    }

    #[test]
    fn what_is_read_is_what_was_written_and_rules_are_held() {
        let kept = kept();
        assert_eq!(KeptMachine::decode(&kept.encode()).as_ref(), Ok(&kept));
        let text = String::from_utf8(kept.encode()).unwrap();
        for (from, to) in [
            (".v1", ".v2"),
            ("[0,1]", "[2,1]"),
            ("[0,1]", "[0,0]"),
            ("[9,1]", "[524287,2]"),
            ("[9,1]", "[18446744073709551615,2]"),
            ("[9,1]", "[9,-1]"),
            ("[7,2]", "[7,2],[8,1]"),
            ("\"zeroed\"", "\"other\""),
            ("{\"format\"", "{\"more\":1,\"format\""),
        ] {
            let wrong = text.replacen(from, to, 1);
            assert_ne!(wrong, text, "{from}");
            assert!(KeptMachine::decode(wrong.as_bytes()).is_err(), "{to}");
        }
        let many = vec![(0, 1); MAX_RUNS + 1];
        let many = KeptMachine::new(common(), many, vec![]);
        assert!(KeptMachine::decode(&many.encode()).is_err());
    }

    proptest! {
        /// Whatever the bytes, there is an answer, and what is taken has its runs on its disk.
        #[test]
        fn any_bytes_are_read_or_refused(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
            let mut bytes = kept().encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len()) + 1);
            if let Ok(read) = KeptMachine::decode(&bytes) {
                let blocks = read.machine.disk_bytes / 4096;
                prop_assert!(read.written.iter().chain(&read.zeroed).all(|(first, count)| first + count <= blocks));
            }
        }
    }
}
