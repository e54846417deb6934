//! The head of an overlay: what it is over.

use shale_model::{FormatError, ID_LEN, PlanId, Problem, Reader};

use super::UNIT_BYTES;

const MAGIC: &[u8; 8] = b"SHALEOVL";
const VERSION: u16 = 1;
const CHECKED_BYTES: usize = 64;

/// What an overlay is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) plan: PlanId,
    pub(super) disk_bytes: u64,
}

impl Head {
    /// Units of the disk; the last may reach over its end.
    pub(super) fn units(&self) -> u64 {
        self.disk_bytes.div_ceil(UNIT_BYTES)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.resize(24, 0);
        out.extend_from_slice(&self.disk_bytes.to_le_bytes());
        out.extend_from_slice(self.plan.as_bytes());
        let checksum = *blake3::hash(&out).as_bytes();
        out.extend_from_slice(&checksum);
        out.resize(UNIT_BYTES as usize, 0);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new("overlay", bytes);
        reader.start(MAGIC, VERSION)?;
        reader.zeros::<6>()?;
        reader.no_features()?;
        let disk_bytes = reader.u64()?;
        let plan = PlanId::from_bytes(reader.array()?);
        let checksum: [u8; ID_LEN] = reader.array()?;
        if blake3::hash(&bytes[..CHECKED_BYTES]).as_bytes() != &checksum {
            return Err(reader.error(Problem::Checksum));
        }
        Ok(Self { plan, disk_bytes })
    }
}
