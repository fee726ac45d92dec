//! Reading records in order from a position, over a fixed view of what was committed when the reader was made.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::segment::{self, HEADER_BYTES, Header, RECORD_HEADER_BYTES};
use super::{JournalError, Position};

/// Read at once: most records are far shorter, and a reader that asks for the last few does not read the whole segment.
const WINDOW_BYTES: u64 = 1 << 20;

/// A record and the positions around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub start: Position,
    /// Where the next record begins: what to read from, or trim to, once this one is dealt with.
    pub end: Position,
    pub payload: Vec<u8>,
}

/// Iterates over records. After an error it ends: what lies behind damage is not guessed at.
///
/// It holds 1 MiB of a segment in memory at a time, or one record if that is longer. A segment that was trimmed away meanwhile is skipped: its records were no
/// longer needed.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    /// Number and committed length of the segments still to be read.
    segments: VecDeque<(u64, u64)>,
    from: Position,
    current: Option<Current>,
    failed: bool,
}

#[derive(Debug)]
struct Current {
    number: u64,
    file: File,
    /// Committed bytes of the segment.
    len: u64,
    /// Where the next record begins.
    offset: u64,
    /// A part of the file, and where it begins.
    window: Vec<u8>,
    window_at: u64,
}

impl Current {
    /// The file from `offset` on, as far as it is in memory.
    fn rest(&self) -> &[u8] {
        let at = self.offset.saturating_sub(self.window_at);
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        self.window.get(at..).unwrap_or_default()
    }

    /// Puts the record at `offset` into memory as a whole, as far as there is one.
    fn fill(&mut self, dir: &std::path::Path) -> Result<(), JournalError> {
        let wanted = |rest: &[u8]| match rest.first_chunk::<RECORD_HEADER_BYTES>() {
            None => RECORD_HEADER_BYTES as u64,
            Some(head) => RECORD_HEADER_BYTES as u64 + segment::stated_length(head),
        };
        let left = self.len.saturating_sub(self.offset);
        // A second time if the first brought no more than the record's length.
        for _ in 0..2 {
            let wanted = wanted(self.rest()).min(left);
            if self.rest().len() as u64 >= wanted {
                return Ok(());
            }
            let size = wanted.max(WINDOW_BYTES).min(left);
            self.window
                .resize(usize::try_from(size).unwrap_or(usize::MAX), 0);
            self.window_at = self.offset;
            let read = self.file.read_exact_at(&mut self.window, self.offset);
            let path = || segment::path(dir, self.number);
            read.map_err(JournalError::io(path(), "read"))?;
        }
        Ok(())
    }
}

impl Reader {
    pub(super) fn new(dir: PathBuf, segments: VecDeque<(u64, u64)>, from: Position) -> Self {
        Self {
            dir,
            segments,
            from,
            current: None,
            failed: false,
        }
    }

    fn next_record(&mut self) -> Result<Option<Record>, JournalError> {
        loop {
            if let Some(current) = &mut self.current {
                if current.offset < current.len {
                    current.fill(&self.dir)?;
                    let offset = current.offset;
                    let entry = segment::decode(current.rest(), current.number, offset).map_err(
                        |what| JournalError::Damaged {
                            path: segment::path(&self.dir, current.number),
                            offset,
                            what,
                        },
                    )?;
                    let end = offset + entry.size();
                    if entry.is_hole {
                        current.offset = end;
                        continue;
                    }
                    let at = |offset| Position {
                        segment: current.number,
                        offset,
                    };
                    let record = Record {
                        start: at(offset),
                        end: at(end),
                        payload: entry.payload.to_vec(),
                    };
                    current.offset = end;
                    return Ok(Some(record));
                }
                self.current = None;
            }
            let Some((number, len)) = self.segments.pop_front() else {
                return Ok(None);
            };
            self.current = self.open_segment(number, len)?;
        }
    }

    fn open_segment(&self, number: u64, len: u64) -> Result<Option<Current>, JournalError> {
        if number < self.from.segment {
            return Ok(None);
        }
        let offset = if number == self.from.segment {
            self.from.offset.max(HEADER_BYTES)
        } else {
            HEADER_BYTES
        };
        if number == self.from.segment && offset >= len {
            return Ok(None); // read to its end before
        }
        let path = segment::path(&self.dir, number);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(JournalError::io(&path, "open")(e)),
        };
        let damaged = |offset, what| JournalError::Damaged {
            path: path.clone(),
            offset,
            what,
        };
        let bytes = file.metadata().map_err(JournalError::io(&path, "stat"))?;
        if bytes.len() < len {
            return Err(damaged(
                bytes.len(),
                "the file is shorter than what was committed",
            ));
        }
        let mut header = [0; HEADER_BYTES as usize];
        let header = match file.read_exact_at(&mut header, 0) {
            Ok(()) => segment::check_header(&header, number),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Header::Bad,
            Err(e) => return Err(JournalError::io(&path, "read")(e)),
        };
        match header {
            Header::Good => {}
            Header::Bad => return Err(damaged(0, "the segment header is not ours")),
            Header::UnknownVersion(version) => return Err(JournalError::Version { path, version }),
        }
        Ok(Some(Current {
            number,
            file,
            len,
            offset,
            window: Vec::new(),
            window_at: offset,
        }))
    }
}

impl Iterator for Reader {
    type Item = Result<Record, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.next_record().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}
