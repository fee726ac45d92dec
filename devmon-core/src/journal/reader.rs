//! Reading records in order from a position, over a fixed view of what was committed when the reader was made.

use std::collections::VecDeque;
use std::path::PathBuf;

use super::segment::{self, HEADER_BYTES, Header};
use super::{JournalError, Position};

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
/// It holds one segment in memory at a time. A segment that was trimmed away meanwhile is skipped: its records were no longer needed.
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
    bytes: Vec<u8>,
    offset: u64,
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
                let at = usize::try_from(current.offset).unwrap_or(usize::MAX);
                if let Some(rest) = current.bytes.get(at..).filter(|rest| !rest.is_empty()) {
                    let offset = current.offset;
                    let entry = segment::decode(rest, current.number, offset).map_err(|what| {
                        JournalError::Damaged {
                            path: segment::path(&self.dir, current.number),
                            offset,
                            what,
                        }
                    })?;
                    current.offset += entry.size();
                    if entry.is_hole {
                        continue;
                    }
                    return Ok(Some(Record {
                        start: Position {
                            segment: current.number,
                            offset,
                        },
                        end: Position {
                            segment: current.number,
                            offset: current.offset,
                        },
                        payload: entry.payload.to_vec(),
                    }));
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
        let path = segment::path(&self.dir, number);
        let mut bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(JournalError::io(&path, "read")(e)),
        };
        let damaged = |offset, what| JournalError::Damaged {
            path: path.clone(),
            offset,
            what,
        };
        if (bytes.len() as u64) < len {
            return Err(damaged(
                bytes.len() as u64,
                "the file is shorter than what was committed",
            ));
        }
        bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        match segment::check_header(&bytes, number) {
            Header::Good => {}
            Header::Bad => return Err(damaged(0, "the segment header is not ours")),
            Header::UnknownVersion(version) => return Err(JournalError::Version { path, version }),
        }
        let offset = if number == self.from.segment {
            self.from.offset.max(HEADER_BYTES)
        } else {
            HEADER_BYTES
        };
        Ok(Some(Current {
            number,
            bytes,
            offset,
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
