//! The smallest guest: an initial RAM disk whose only program waits for ever. A kernel without one ends in a panic, which
//! keeps a processor busy for as long as the machine runs.

/// `init`: a static program for Linux on x86-64 that calls `pause` (34) again and again.
const CODE: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];

/// Where it is loaded.
const BASE: u64 = 0x40_0000;

/// Bytes before the code: the headers of an ELF file with one segment.
const HEADERS: u64 = 64 + 56;

/// An archive in the format that the kernel unpacks (`Documentation/driver-api/early-userspace/buffer-format.rst`).
pub(crate) fn idle_initrd() -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, data) in [
        ("init", 0o100_755, program()),
        ("TRAILER!!!", 0, Vec::new()),
    ] {
        let mut fields = [0; 13];
        (fields[1], fields[4]) = (mode, 1);
        (fields[6], fields[11]) = (data.len(), name.len() + 1);
        archive.extend(b"070701");
        archive.extend(
            fields
                .iter()
                .flat_map(|field| format!("{field:08x}").into_bytes()),
        );
        archive.extend(name.bytes());
        archive.push(0);
        pad(&mut archive);
        archive.extend(data);
        pad(&mut archive);
    }
    archive
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// The program as an ELF file (`elf(5)`).
fn program() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let size = HEADERS + CODE.len() as u64;
    let (executable, x86_64, readable_code) = (2_u16, 62_u16, 5_u32);
    file.extend([executable, x86_64].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    // Entry, segments, sections.
    file.extend([BASE + HEADERS, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    file.extend([1, readable_code].map(u32::to_le_bytes).concat());
    // Offset, addresses, sizes, alignment.
    file.extend(
        [0, BASE, BASE, size, size, 4096]
            .map(u64::to_le_bytes)
            .concat(),
    );
    file.extend(CODE);
    file
}
