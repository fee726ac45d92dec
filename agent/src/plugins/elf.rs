//! Is this file a whole shared library for this machine? Asked before the loader may touch it.
//!
//! The dynamic loader trusts the headers: it maps what they promise, and a page that lies beyond the end of a truncated file kills the process with SIGBUS when
//! relocation touches it. So the headers are read here, in safe code, and compared with the file's size. What is not checked: anything inside the segments.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Bytes of an ELF64 file header; program headers follow.
const HEADER_BYTES: usize = 64;
/// Program headers of a real library: some ten. A file that claims more than this is not read.
const MAX_PROGRAM_HEADERS: usize = 256;
const PROGRAM_HEADER_BYTES: usize = 56;
const TYPE_SHARED: u16 = 3;

/// `e_machine` of the architectures that devmon names (ELF gABI, processor supplements).
const MACHINES: [(u16, &str); 5] = [
    (3, "x86"),
    (40, "arm"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv64"),
];

/// Checks the headers of an open file.
///
/// # Errors
/// What is wrong, for an operator.
pub(crate) fn check(file: &mut File) -> Result<(), String> {
    let io = |e: std::io::Error| format!("cannot be read: {e}");
    let size = file.metadata().map_err(io)?.len();
    let mut header = Vec::with_capacity(HEADER_BYTES);
    file.take(HEADER_BYTES as u64)
        .read_to_end(&mut header)
        .map_err(io)?;
    if size == 0 {
        return Err("the file is empty".into());
    }
    if !header.starts_with(b"\x7fELF") {
        return Err("not a shared library (no ELF header)".into());
    }
    if header.len() < HEADER_BYTES {
        return Err(format!("truncated: {size} bytes are not even a header"));
    }
    // Byte 4: 2 = 64 bit; byte 5: 1 = little endian. Other machines are left to the dynamic loader's own checks.
    if cfg!(not(all(
        target_endian = "little",
        target_pointer_width = "64"
    ))) {
        return Ok(());
    }
    if header[4] != 2 || header[5] != 1 {
        return Err("built for a 32-bit or big-endian machine".into());
    }
    let machine = u16_at(&header, 18);
    let name = MACHINES
        .iter()
        .find(|(m, _)| *m == machine)
        .map_or("another machine", |(_, name)| name);
    if name != std::env::consts::ARCH {
        return Err(format!(
            "built for {name}, this machine is {}",
            std::env::consts::ARCH
        ));
    }
    if u16_at(&header, 16) != TYPE_SHARED {
        return Err("not a shared library (an object file or a program)".into());
    }

    let (headers_at, count) = (u64_at(&header, 32), usize::from(u16_at(&header, 56)));
    if usize::from(u16_at(&header, 54)) != PROGRAM_HEADER_BYTES || count > MAX_PROGRAM_HEADERS {
        return Err("not a shared library (odd program headers)".into());
    }
    let truncated = |needed: u64| format!("truncated: {size} bytes of {needed} are there");
    let headers_end = headers_at.saturating_add((count * PROGRAM_HEADER_BYTES) as u64);
    if headers_end > size {
        return Err(truncated(headers_end));
    }
    file.seek(SeekFrom::Start(headers_at)).map_err(io)?;
    let mut headers = vec![0; count * PROGRAM_HEADER_BYTES];
    file.read_exact(&mut headers).map_err(io)?;
    let needed = headers
        .chunks_exact(PROGRAM_HEADER_BYTES)
        .map(|h| u64_at(h, 8).saturating_add(u64_at(h, 32))) // offset + size in the file
        .max()
        .unwrap_or(0);
    if needed > size {
        return Err(truncated(needed));
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (0..8).fold(0, |x, i| x | u64::from(bytes[at + i]) << (8 * i))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn verdict(bytes: &[u8]) -> Result<(), String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        check(&mut file)
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_refused() {
        // libc is a shared library on every machine that runs this test.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps
            .lines()
            .find_map(|l| l.split_whitespace().nth(5).filter(|p| p.contains("libc")))
            .unwrap();
        let whole = std::fs::read(libc).unwrap();
        assert_eq!(verdict(&whole), Ok(()));
        for part in [1, 16, 63, 64, 65, 300, whole.len() / 4, whole.len() / 2] {
            assert!(verdict(&whole[..part]).is_err(), "{part}");
        }
        assert!(
            verdict(&whole[..whole.len() / 2])
                .unwrap_err()
                .contains("truncated")
        );
    }

    #[test]
    fn what_is_no_library_is_said_so() {
        assert!(verdict(b"").unwrap_err().contains("empty"));
        assert!(verdict(b"#!/bin/sh\n").unwrap_err().contains("no ELF"));
        let mut foreign = vec![0; 64];
        foreign[..6].copy_from_slice(b"\x7fELF\x02\x01");
        foreign[18] = 183;
        if std::env::consts::ARCH == "x86_64" {
            assert!(verdict(&foreign).unwrap_err().contains("aarch64"));
        }
    }
}
