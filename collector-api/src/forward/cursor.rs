//! A target's place in the journal, on disk.
//!
//! Two slots of 512 bytes, written in turns, so that a torn write costs one of them. Writing is one `pwrite` into a file that has its size from the start: it survives kill -9 at once, power loss
//! from the next [`sync`](Cursor::sync) on, and a full disk does not hinder it.
//!
//! | offset | size | slot, little-endian |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 8 | sequence number; the higher one counts |
//! | 9 | 8 + 8 | segment and offset in the journal: all before it is dealt with |
//! | 25 | 4 | CRC-32C of all of that |

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use devmon_core::journal::Position;

const VERSION: u8 = 1;
const SLOT_BYTES: usize = 512; // a sector: the least that a disk writes
const USED_BYTES: usize = 29;

/// An open cursor file.
#[derive(Debug)]
pub(super) struct Cursor {
    file: File,
    sequence: u64,
    at: Position,
    synced: Position,
}

/// What the file says; `None`: there is none, or none that was written whole.
///
/// # Errors
/// What the operating system says; a version that is not known.
pub(super) fn read(path: &Path) -> io::Result<Option<Position>> {
    match File::open(path) {
        Ok(file) => Ok(newest(&file)?.map(|(_, at)| at)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn newest(file: &File) -> io::Result<Option<(u64, Position)>> {
    let mut found = None;
    for slot in 0..2 {
        let mut bytes = [0; USED_BYTES];
        match file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64) {
            Ok(()) => found = found.max(decode(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn encode(sequence: u64, at: Position) -> [u8; SLOT_BYTES] {
    let mut out = [0; SLOT_BYTES];
    out[0] = VERSION;
    out[1..9].copy_from_slice(&sequence.to_le_bytes());
    out[9..17].copy_from_slice(&at.segment.to_le_bytes());
    out[17..25].copy_from_slice(&at.offset.to_le_bytes());
    let crc = crc32c::crc32c(&out[..25]);
    out[25..29].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8; USED_BYTES]) -> io::Result<Option<(u64, Position)>> {
    let number = |at: usize| {
        let bytes: [u8; 8] = std::array::from_fn(|i| bytes[at + i]);
        u64::from_le_bytes(bytes)
    };
    let crc = u32::from_le_bytes([bytes[25], bytes[26], bytes[27], bytes[28]]);
    if crc != crc32c::crc32c(&bytes[..25]) {
        return Ok(None);
    }
    if bytes[0] != VERSION {
        let what = format!(
            "version {} is unknown to this release; use the release that wrote it, or remove the file to begin anew",
            bytes[0]
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let at = Position {
        segment: number(9),
        offset: number(17),
    };
    Ok(Some((number(1), at)))
}

impl Cursor {
    /// Opens the file or makes it, and has it say `at`, durably.
    pub(super) fn open(path: &Path, at: Position) -> io::Result<Self> {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let sequence = newest(&file)?.map_or(0, |(sequence, _)| sequence);
        let mut cursor = Self {
            file,
            sequence,
            at,
            synced: at,
        };
        cursor.set(at)?;
        cursor.set(at)?; // both slots, so that the file has its size
        cursor.file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(cursor)
    }

    /// Where it is.
    pub(super) fn at(&self) -> Position {
        self.at
    }

    /// Where it is after a loss of power: what comes behind this is still needed.
    pub(super) fn synced(&self) -> Position {
        self.synced
    }

    /// Moves it.
    pub(super) fn set(&mut self, at: Position) -> io::Result<()> {
        self.at = at;
        self.sequence += 1;
        let slot = (self.sequence % 2) * SLOT_BYTES as u64;
        self.file.write_all_at(&encode(self.sequence, at), slot)
    }

    /// Makes it durable; blocks.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.at != self.synced {
            self.file.sync_data()?;
            self.synced = self.at;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: u64, offset: u64) -> Position {
        Position { segment, offset }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/x.cursor");
        assert_eq!(read(&path).unwrap(), None);
        let mut cursor = Cursor::open(&path, at(1, 2)).unwrap();
        assert_eq!(read(&path).unwrap(), Some(at(1, 2)));
        cursor.set(at(1, 300)).unwrap();
        cursor.set(at(7, 16)).unwrap();
        assert_eq!((cursor.at(), cursor.synced()), (at(7, 16), at(1, 2)));
        cursor.sync().unwrap();
        assert_eq!(cursor.synced(), at(7, 16));
        assert_eq!(read(&path).unwrap(), Some(at(7, 16)));
        // A torn write of the newest slot leaves the one before.
        let mut bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 2 * SLOT_BYTES);
        let newest = (cursor.sequence % 2) as usize * SLOT_BYTES;
        bytes[newest + 12] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path).unwrap(), Some(at(1, 300)));
        let reopened = Cursor::open(&path, at(1, 300)).unwrap();
        assert_eq!(read(&path).unwrap(), Some(reopened.at()));
    }

    #[test]
    fn a_newer_releases_file_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.cursor");
        let mut slot = encode(1, at(1, 2));
        slot[0] = 2;
        let crc = crc32c::crc32c(&slot[..25]).to_le_bytes();
        slot[25..29].copy_from_slice(&crc);
        std::fs::write(&path, slot).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("version 2"), "{error}");
    }
}
