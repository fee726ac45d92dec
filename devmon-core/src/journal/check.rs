//! Looking at every byte of a journal without changing it; and, when somebody asks for it, putting what can be read in the place of what can not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::repair::{self, Found};
use super::segment::{self, HEADER_BYTES};
use super::{JournalError, Position, disk, writer};

/// Bytes that are given up together where the disk does not give them back.
const UNREADABLE_BYTES: usize = 4096;
/// The same number in every Linux.
const EIO: i32 = 5;

/// A stretch of a segment that can not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    pub offset: u64,
    pub bytes: u64,
}

/// What stands in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub number: u64,
    pub path: PathBuf,
    /// Of the file.
    pub bytes: u64,
    /// That can be read.
    pub records: u64,
    /// What can not be read and was written; none of them: the segment is whole.
    pub damaged: Vec<Stretch>,
    /// Bytes in holes that an earlier repair left.
    pub given_up_bytes: u64,
    /// Bytes of an append that was never committed, at the end of the newest segment: the next open cuts them off. No damage.
    pub torn_bytes: u64,
}

/// A journal that nobody writes to while this exists.
#[derive(Debug)]
pub struct Checker {
    dir: PathBuf,
    numbers: Vec<u64>,
    _lock: File,
}

impl Checker {
    /// Takes the journal in `dir`, which has to be there, and changes nothing in it.
    ///
    /// # Errors
    /// [`JournalError::Locked`] while another process has it; [`JournalError::Io`].
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let lock = writer::lock(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            numbers: segment::list(dir)?,
            _lock: lock,
        })
    }

    /// Numbers of the segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> &[u64] {
        &self.numbers
    }

    /// Bytes of all segments.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn size_bytes(&self) -> Result<u64, JournalError> {
        self.numbers.iter().try_fold(0, |sum, &number| {
            let path = segment::path(&self.dir, number);
            let meta = std::fs::metadata(&path).map_err(JournalError::io(&path, "stat"))?;
            Ok(sum + meta.len())
        })
    }

    /// Reads a segment whole and hands over each good record with its place.
    ///
    /// # Errors
    /// [`JournalError::Version`]; [`JournalError::Io`] when the file can not be read at all.
    pub fn check(
        &self,
        number: u64,
        each: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<Report, JournalError> {
        self.examine(number, each).map(|(report, ..)| report)
    }

    /// Puts the good records of a damaged segment in its place, at their old positions, and keeps the segment as it was found beside it; returns where. `None`:
    /// it was not damaged, and nothing was done.
    ///
    /// # Errors
    /// As [`check`](Self::check); or the repaired segment could not be written: then the damaged one is in its place still.
    pub fn salvage(&self, number: u64) -> Result<Option<PathBuf>, JournalError> {
        let (report, found, bytes) = self.examine(number, &mut |_, _| {})?;
        if report.damaged.is_empty() {
            return Ok(None);
        }
        let aside = repair::set_aside(&report.path)?;
        repair::mend(&report.path, number, bytes, &found)?;
        disk::sync_dir(&self.dir).map_err(JournalError::io(&self.dir, "fsync directory"))?;
        Ok(Some(aside))
    }

    fn examine(
        &self,
        number: u64,
        each: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<(Report, Found, Vec<u8>), JournalError> {
        let path = segment::path(&self.dir, number);
        let bytes = read_what_is_there(&path).map_err(JournalError::io(&path, "read"))?;
        let length = bytes.len() as u64;
        let found = repair::examine(&bytes, &path, number, length, each)?;
        let is_newest = self.numbers.last() == Some(&number);
        let mut damaged = Vec::new();
        let mut torn_bytes = 0;
        let stretch = |from: u64, to: u64| Stretch {
            offset: from,
            bytes: to - from,
        };
        if is_newest && !found.header && length <= HEADER_BYTES {
            torn_bytes = length;
        } else {
            if !found.header {
                damaged.push(stretch(0, HEADER_BYTES.min(length)));
            }
            damaged.extend(found.holes.iter().map(|&(from, to)| stretch(from, to)));
            if is_newest {
                torn_bytes = length.saturating_sub(found.intact);
            } else if length > found.intact {
                damaged.push(stretch(found.intact, length));
            }
        }
        let report = Report {
            number,
            path,
            bytes: length,
            records: found.records,
            damaged,
            given_up_bytes: found.given_up,
            torn_bytes,
        };
        Ok((report, found, bytes))
    }
}

/// The file; zeros where the disk has bad places.
fn read_what_is_there(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.raw_os_error() == Some(EIO) => {
            let file = File::open(path)?;
            let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
            let mut bytes = vec![0; length];
            for (i, piece) in bytes.chunks_mut(UNREADABLE_BYTES).enumerate() {
                if file
                    .read_exact_at(piece, (i * UNREADABLE_BYTES) as u64)
                    .is_err()
                {
                    piece.fill(0);
                }
            }
            Ok(bytes)
        }
        read => read,
    }
}
