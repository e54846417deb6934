//! What waits in a guest for its identity: a shell that does what it is told through a serial port, so that it is the host's
//! version that counts when the guest goes on, not that of the snapshot. A guest needs systemd, a POSIX shell and coreutils
//! for it.

use shale_image::identity::ExtraFile;

/// Runs [`WAIT`] when all else of the boot is begun. Without the usual
/// dependencies, because whoever wants it is waited for.
const UNIT: &str = "[Unit]
Description=Wait for the identity of this machine
DefaultDependencies=no
After=multi-user.target getty.target

[Service]
ExecStart=/bin/sh /usr/lib/shale/wait
";

const WAIT: &str = include_str!("wait.sh");

/// Instructions of a program for x86-64: see `reseed.s`.
const RESEED: &[u8] = include_bytes!("reseed.bin");

/// Bytes of the headers of [`reseed`].
const HEADERS: usize = 64 + 56;

/// Where it is loaded: where the linker would load it.
const BASE: u64 = 0x40_0000;

/// The files of a machine that waits for its identity. It removes them itself, when it has one.
pub(crate) fn waiting_files() -> Vec<ExtraFile> {
    vec![
        ExtraFile::new("etc/systemd/system/shale-wait.service", 0o644, UNIT),
        ExtraFile::link(
            "etc/systemd/system/multi-user.target.wants/shale-wait.service",
            "../shale-wait.service",
        ),
        ExtraFile::new("usr/lib/shale/wait", 0o644, WAIT),
        ExtraFile::new("usr/lib/shale/reseed", 0o755, reseed()),
    ]
}

/// The program that sets the clock and adds randomness, as an ELF file with one segment (elf(5)).
fn reseed() -> Vec<u8> {
    let size = (HEADERS + RESEED.len()) as u64;
    let mut file = Vec::with_capacity(size as usize);
    let half = |file: &mut Vec<u8>, values: &[u16]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let word = |file: &mut Vec<u8>, values: &[u32]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let long = |file: &mut Vec<u8>, values: &[u64]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    // 64 bits, little-endian, version 1; an executable for x86-64, version 1.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    half(&mut file, &[2, 62]);
    word(&mut file, &[1]);
    // Entry, program headers, no section headers, no flags; sizes and numbers of headers.
    long(&mut file, &[BASE + HEADERS as u64, 64, 0]);
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 0, 0, 0]);
    // All of it is loaded, to be read and run.
    word(&mut file, &[1, 4 | 1]);
    long(&mut file, &[0, BASE, BASE, size, size, 4096]);
    file.extend(RESEED);
    file
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_program_is_what_its_source_says() {
        let dir = tempfile::tempdir().unwrap();
        let (object, code) = (dir.path().join("o"), dir.path().join("bin"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/warm/reseed.s");
        let run = |command: &mut Command| assert!(command.status().unwrap().success());
        run(Command::new("as").arg("-o").arg(&object).arg(source));
        run(Command::new("objcopy")
            .args(["-O", "binary", "-j", ".text"])
            .args([&object, &code]));
        assert_eq!(fs::read(code).unwrap(), RESEED);
    }

    #[test]
    fn the_program_runs_and_fails_without_input() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("reseed");
        fs::write(&program, reseed()).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let status = Command::new(&program).stdin(Stdio::null()).status();
        assert_eq!(status.unwrap().code(), Some(1), "it ran, and said so");
    }

    #[test]
    fn what_waits_is_a_script_of_a_shell() {
        let status = Command::new("sh").args(["-n", "-c", WAIT]).status();
        assert!(status.unwrap().success());
    }
}
