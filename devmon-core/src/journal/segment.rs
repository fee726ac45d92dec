//! One segment file: its name, header and records as bytes. No policy.

use std::path::{Path, PathBuf};

use super::{JournalError, MAX_RECORD_BYTES};

pub(super) const HEADER_BYTES: u64 = 16;
pub(super) const RECORD_HEADER_BYTES: usize = 8;
const MAGIC: &[u8; 7] = b"devmonJ";
const VERSION: u8 = 1;

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.dmj"))
}

/// The segments of a directory in order. Files of other names are not ours and are left alone.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, JournalError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(JournalError::io(dir, "list"))? {
        let entry = entry.map_err(JournalError::io(dir, "list"))?;
        let name = entry.file_name();
        let number: Option<u64> = name
            .to_str()
            .and_then(|n| n.strip_suffix(".dmj"))
            .filter(|n| n.len() == 20)
            .and_then(|n| n.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn header(number: u64) -> [u8; HEADER_BYTES as usize] {
    let mut bytes = [0; HEADER_BYTES as usize];
    bytes[..7].copy_from_slice(MAGIC);
    bytes[7] = VERSION;
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// What a header says.
pub(super) enum Header {
    Good,
    /// Shorter than a header or not ours: torn if it is the last segment, damaged otherwise.
    Bad,
    UnknownVersion(u8),
}

pub(super) fn check_header(bytes: &[u8], number: u64) -> Header {
    if bytes.len() < HEADER_BYTES as usize || &bytes[..7] != MAGIC {
        Header::Bad
    } else if bytes[7] != VERSION {
        Header::UnknownVersion(bytes[7])
    } else if bytes[8..16] != number.to_le_bytes() {
        Header::Bad
    } else {
        Header::Good
    }
}

fn checksum(number: u64, offset: u64, length: u32, payload: &[u8]) -> u32 {
    let mut place = [0; 20];
    place[..8].copy_from_slice(&number.to_le_bytes());
    place[8..16].copy_from_slice(&offset.to_le_bytes());
    place[16..].copy_from_slice(&length.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), payload)
}

fn length(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).unwrap_or(u32::MAX) // MAX_RECORD_BYTES fits; checked on the way in
}

/// Appends the record for `payload` at `offset` of segment `number`.
pub(super) fn encode(out: &mut Vec<u8>, number: u64, offset: u64, payload: &[u8]) {
    out.extend_from_slice(&length(payload).to_le_bytes());
    out.extend_from_slice(&checksum(number, offset, length(payload), payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Set in the length of a hole: bytes that could not be read when the journal was opened. Skipped; it keeps the positions behind it where they were.
const HOLE: u32 = 1 << 31;

/// What stands at an offset.
pub(super) struct Entry<'a> {
    pub(super) payload: &'a [u8],
    pub(super) is_hole: bool,
}

impl Entry<'_> {
    /// Bytes in the file, header included.
    pub(super) fn size(&self) -> u64 {
        (RECORD_HEADER_BYTES + self.payload.len()) as u64
    }
}

/// Turns all of `bytes`, at `offset` of segment `number`, into a hole. At least [`RECORD_HEADER_BYTES`] long: no record is shorter.
pub(super) fn make_hole(bytes: &mut [u8], number: u64, offset: u64) {
    if let Some((head, payload)) = bytes.split_first_chunk_mut::<RECORD_HEADER_BYTES>() {
        let len = length(payload) | HOLE;
        head[..4].copy_from_slice(&len.to_le_bytes());
        head[4..].copy_from_slice(&checksum(number, offset, len, payload).to_le_bytes());
    }
}

/// How long the payload behind this header says it is: that of no record if it is damaged.
pub(super) fn stated_length(head: &[u8; RECORD_HEADER_BYTES]) -> u64 {
    let [l0, l1, l2, l3, ..] = *head;
    u64::from(u32::from_le_bytes([l0, l1, l2, l3]) & !HOLE)
}

/// What stands at `offset`, where `bytes` is the segment from there on; or what is wrong.
pub(super) fn decode(bytes: &[u8], number: u64, offset: u64) -> Result<Entry<'_>, &'static str> {
    let Some((head, rest)) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>() else {
        return Err("a record header is cut short");
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    let stated = u32::from_le_bytes([l0, l1, l2, l3]);
    let is_hole = stated & HOLE != 0;
    let len = (stated & !HOLE) as usize;
    if !is_hole && (len == 0 || len > MAX_RECORD_BYTES) {
        return Err("a record has an impossible length");
    }
    let payload = rest.get(..len).ok_or("a record is cut short")?;
    if checksum(number, offset, stated, payload) == u32::from_le_bytes([c0, c1, c2, c3]) {
        Ok(Entry { payload, is_hole })
    } else {
        Err("a record's checksum does not hold")
    }
}
