//! An append-only, checksummed, segmented log on disk: the collector's intake and, later, the agent's spool.
//!
//! # Promises
//! - What [`Journal::commit`] has returned `Ok` for survives kill -9 and power loss, and is read back in order, whole, or reported as damaged; never silently changed.
//! - A record is read back if and only if its checksum holds. The tail that a crash tore is cut off at open. Where good records stand behind bad bytes in the
//!   newest segment, they are saved and the segment is kept for whoever wants to look; in an older one that is an error with file and offset.
//! - After a failed commit nothing of that commit is kept, and the next append starts on a fresh segment: a page cache that failed an fsync
//!   is not trusted again. So a full disk needs no restart: once there is space, commits succeed.
//! - Bounded if asked, by bytes and age: whole segments are dropped, oldest first and never the newest, and what was dropped is counted ([`Dropped`]).
//! - Damage costs what is damaged: [`Checker`] finds it without changing anything, and salvages what stands around it when somebody asks for that.
//!
//! It leaves to others: threads (it is used by one at a time), what records mean, when to commit.
//!
//! # Bytes
//! A segment file is named `{number:020}.dmj`. All numbers are little-endian.
//!
//! | offset | size | segment header |
//! |---|---|---|
//! | 0 | 7 | magic `devmonJ` |
//! | 7 | 1 | version, 1 |
//! | 8 | 8 | segment number, as in the name |
//!
//! | offset | size | record |
//! |---|---|---|
//! | 0 | 4 | length n of the payload, 1 to [`MAX_RECORD_BYTES`]; the highest bit set: a hole of n bytes, to be skipped |
//! | 4 | 4 | CRC-32C of segment number, offset in the segment, length and payload |
//! | 8 | n | payload |
//!
//! The checksum covers the position, so that a record of an earlier life of the disk block can not pass for one of this place.
//!
//! A segment's time, by which it ages, is its file's modification time: that of its last record, kept by the kernel at no cost. A copy that does not keep it
//! (`cp` without `-p`) makes the segment look younger, and it is kept for longer.
//!
//! | name | other files in the directory |
//! |---|---|
//! | `lock` | empty; whoever has the journal open holds a lock on it |
//! | `*.dmj.damaged`, `*.dmj.damaged-2` … | a damaged segment as it was found; never read again, for whoever wants to look |
//! | `*.dmj.new` | a repaired segment being written; a crash leaves it, the next repair writes over it |

mod check;
mod disk;
#[cfg(test)]
mod fault_tests;
mod reader;
mod repair;
mod segment;
mod writer;

use std::path::PathBuf;
use std::time::SystemTime;

pub use check::{Checker, Report, Stretch};
pub use reader::{Reader, Record};
pub use writer::{Journal, Options, Recovery};

/// Largest payload of a record: a decompressed message with room. Bounds what a reader allocates on the word of a length field.
pub const MAX_RECORD_BYTES: usize = 8 * 1024 * 1024;

/// A place between records. Positions order as the records do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Bytes from the start of its file.
    pub offset: u64,
}

impl Position {
    /// Before every record.
    pub const START: Self = Self {
        segment: 0,
        offset: 0,
    };
}

/// What was given up to keep a journal within its bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    pub segments: u64,
    /// Of damaged segments, those that could be read.
    pub records: u64,
    pub bytes: u64,
    /// When the oldest of it began to be written, where the file system knows.
    pub oldest: Option<SystemTime>,
    /// When the newest of it was written.
    pub newest: Option<SystemTime>,
}

impl std::ops::AddAssign for Dropped {
    fn add_assign(&mut self, more: Self) {
        self.segments += more.segments;
        self.records += more.records;
        self.bytes += more.bytes;
        self.oldest = self.oldest.into_iter().chain(more.oldest).min();
        self.newest = self.newest.max(more.newest);
    }
}

/// What went wrong with the journal, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The operating system refused. Out of space: free some; the next commit tries again.
    #[error("journal {path}: {action}: {source}")]
    Io {
        path: PathBuf,
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// A segment that is not the last has a bad record: the disk, or somebody, changed bytes that were written. The records before it are intact.
    #[error(
        "journal {path}: damaged at byte {offset}: {what}; restore the file, or salvage what can be read of it"
    )]
    Damaged {
        path: PathBuf,
        offset: u64,
        what: &'static str,
    },
    /// Written by a newer release.
    #[error(
        "journal {path}: version {version} is unknown to this release, which reads version 1; use the release that wrote it"
    )]
    Version { path: PathBuf, version: u8 },
    /// The record is empty or over [`MAX_RECORD_BYTES`].
    #[error("journal: a record of {0} bytes; 1 to {MAX_RECORD_BYTES} are possible")]
    RecordSize(usize),
    /// Another process has the directory.
    #[error("journal {0}: in use by another process")]
    Locked(PathBuf),
}

impl JournalError {
    fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }

    /// True if the disk is full: the state that ends by itself when space returns.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
    }
}
