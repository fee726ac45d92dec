//! Refused messages, kept whole: a small journal of their own, bounded in bytes, the oldest segments first to go.
//!
//! Ids grow with each letter, also over a restart, so that a reader can page and come back. An index of ids and positions is in memory; letters are read from disk.
//!
//! They are a convenience, so damage to them stops nothing: what can not be read is skipped up to the next segment and warned of when it is found at the
//! start. Ids that may have been in it are not given again.
//!
//! | size | record, version 1 |
//! |---|---|
//! | 1 | version, 1 |
//! | varint, zigzag varint | id, time in unix ms |
//! | texts | reason, topic, detail: each varint length and UTF-8 |
//! | rest | payload as it came |

use std::cell::Cell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use devmon_core::journal::{Journal, JournalError, Options, Position, Reader, Record};
use devmon_core::wire::{Reason, TimestampMs};

use super::engine::DeadLetter;
use super::varint::{Cursor, Malformed, put_bytes, put_i64, put_u64};

const VERSION: u8 = 1;
/// Letters are given up by whole segments: a sixteenth of the default bound at a time.
const SEGMENT_BYTES: u64 = 1 << 20;
/// No letter takes less in a segment: the journal's record header, version, id, time, three lengths. Bounds how many ids damaged bytes held.
const MIN_LETTER_BYTES: u64 = 8 + 6;

/// The dead letters on disk.
#[derive(Debug)]
pub(super) struct DeadLetters {
    journal: Journal,
    /// Id and start of each letter that is kept, oldest first.
    index: VecDeque<(u64, Position)>,
    next_id: u64,
}

impl DeadLetters {
    /// Opens or makes them in `dir`. Damaged ones are skipped.
    ///
    /// # Errors
    /// [`JournalError`]: the directory can not be used.
    pub(super) fn open(dir: &Path, max_bytes: u64) -> Result<Self, JournalError> {
        let options = Options {
            segment_bytes: SEGMENT_BYTES.min(max_bytes / 2),
            max_bytes: Some(max_bytes),
            max_age: None,
        };
        let (journal, lost_newest) = open_journal(dir, &options)?;
        let mut index = VecDeque::new();
        let mut next_id = 1;
        // Lost behind the last id that was read: how many ids went with it is not known, only how many at most.
        let lost_bytes = Cell::new(0);
        let records = Readable::new(&journal, Position::START, |damage| {
            lost_bytes.set(lost_bytes.get() + damage.lost_bytes);
            tracing::warn!(
                path = %damage.path.display(),
                offset = damage.offset,
                error = %damage.error,
                "dead letters are damaged; the rest of this segment is skipped"
            );
        });
        for record in records {
            let Ok((id, letter)) = decode(&record.payload) else {
                continue;
            };
            // A reason of a newer release: the letter stays on disk, and its id is taken.
            if letter.is_some() {
                index.push_back((id, record.start));
            }
            next_id = next_id.max(id.saturating_add(1));
            lost_bytes.set(0);
        }
        let lost_ids = (lost_bytes.get() + lost_newest) / MIN_LETTER_BYTES;
        Ok(Self {
            journal,
            index,
            next_id: next_id.saturating_add(lost_ids),
        })
    }

    /// Makes letters durable, numbers them, and gives up the oldest over the bound.
    pub(super) fn bury(&mut self, letters: &[DeadLetter]) -> Result<(), JournalError> {
        let mut buried = Vec::with_capacity(letters.len());
        let mut id = self.next_id;
        let mut record = Vec::new();
        let mut before = self.journal.committed();
        for letter in letters {
            record.clear();
            encode(letter, id, &mut record);
            let end = self.journal.append(&record)?;
            // It begins where the one before ended, or at the start of its segment.
            let start = if before.segment == end.segment {
                before
            } else {
                Position {
                    segment: end.segment,
                    offset: 0,
                }
            };
            buried.push((id, start));
            before = end;
            id += 1;
        }
        self.journal.commit()?;
        self.next_id = id;
        self.index.extend(buried);
        match self.journal.enforce_limits(SystemTime::now()) {
            Ok(dropped) if dropped.segments == 0 => {}
            Ok(dropped) => {
                tracing::info!(
                    dropped.records,
                    dropped.bytes,
                    "the oldest dead letters were given up"
                );
                self.forget_dropped();
            }
            Err(error) => tracing::warn!(%error, "old dead letters can not be removed"),
        }
        Ok(())
    }

    fn forget_dropped(&mut self) {
        let Some(first) = Readable::new(&self.journal, Position::START, |_| {}).next() else {
            return;
        };
        while self
            .index
            .front()
            .is_some_and(|(_, at)| at.segment < first.start.segment)
        {
            self.index.pop_front();
        }
    }

    /// Letters with an id below `before`, newest first. Fewer than `limit` while there are more only if some have become damaged since the start.
    pub(super) fn list(&self, before: Option<u64>, limit: usize) -> Vec<DeadLetter> {
        let end = before.map_or(self.index.len(), |id| {
            self.index.partition_point(|&(i, _)| i < id)
        });
        let begin = end.saturating_sub(limit);
        let mut asked = self.index.range(begin..end);
        let Some(&(first, from)) = asked.next() else {
            return Vec::new();
        };
        let last = asked.next_back().map_or(first, |&(id, _)| id);
        let mut letters = Vec::new();
        let records = Readable::new(&self.journal, from, |damage| {
            // Not a warning each time that somebody looks.
            tracing::debug!(path = %damage.path.display(), offset = damage.offset, "damaged dead letters");
        });
        for record in records {
            match decode(&record.payload) {
                Ok((id, _)) if id > last => break,
                Ok((_, Some(letter))) => letters.push(letter),
                _ => {}
            }
        }
        letters.reverse();
        letters
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.journal.size_bytes()
    }
}

/// Opens the journal; returns it and how many bytes its newest segment lost.
fn open_journal(dir: &Path, options: &Options) -> Result<(Journal, u64), JournalError> {
    let mut lost_bytes = 0;
    loop {
        match Journal::open(dir, options.clone()) {
            Ok((journal, recovery)) => {
                if let Some(path) = &recovery.damaged {
                    tracing::warn!(
                        path = %path.display(),
                        "the newest dead letters were damaged; what is readable was kept, and the segment as it was found lies here"
                    );
                }
                return Ok((journal, lost_bytes + recovery.torn_bytes));
            }
            // One byte of its header, or a newer release. Each round takes a file away, so this ends.
            Err(JournalError::Version { path, version }) => {
                let aside = path.with_extension(format!("dmj.aside-{}", TimestampMs::now().0));
                lost_bytes += std::fs::metadata(&path).map_or(0, |meta| meta.len());
                tracing::warn!(
                    path = %path.display(),
                    offset = 0,
                    version,
                    aside = %aside.display(),
                    "the newest dead letters are of a version that this release does not know; they are moved aside"
                );
                std::fs::rename(&path, &aside).map_err(|source| JournalError::Io {
                    path,
                    action: "move aside",
                    source,
                })?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Something that can not be read.
struct Damage {
    path: PathBuf,
    offset: u64,
    /// From there to the end of the segment.
    lost_bytes: u64,
    error: JournalError,
}

/// The records that can be read: after damage it goes on with the next segment, and says so to `tell`.
struct Readable<'a, F> {
    journal: &'a Journal,
    reader: Reader,
    tell: F,
}

impl<'a, F: FnMut(Damage)> Readable<'a, F> {
    fn new(journal: &'a Journal, from: Position, tell: F) -> Self {
        Self {
            journal,
            reader: journal.read_from(from),
            tell,
        }
    }
}

impl<F: FnMut(Damage)> Iterator for Readable<'_, F> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            let error = match self.reader.next()? {
                Ok(record) => return Some(record),
                Err(error) => error,
            };
            let (path, offset) = match &error {
                JournalError::Damaged { path, offset, .. } => (path.clone(), *offset),
                JournalError::Version { path, .. } | JournalError::Io { path, .. } => {
                    (path.clone(), 0)
                }
                _ => return None, // reading gives no other
            };
            let name = path.file_stem().and_then(|name| name.to_str());
            let segment: Option<u64> = name.and_then(|name| name.parse().ok());
            let length = std::fs::metadata(&path).map_or(0, |meta| meta.len());
            (self.tell)(Damage {
                path,
                offset,
                lost_bytes: length.saturating_sub(offset),
                error,
            });
            self.reader = self.journal.read_from(Position {
                segment: segment?.checked_add(1)?,
                offset: 0,
            });
        }
    }
}

fn encode(letter: &DeadLetter, id: u64, out: &mut Vec<u8>) {
    out.push(VERSION);
    put_u64(out, id);
    put_i64(out, letter.ts.0);
    put_bytes(out, letter.reason.as_str().as_bytes());
    put_bytes(out, letter.topic.as_bytes());
    put_bytes(out, letter.detail.as_bytes());
    out.extend_from_slice(&letter.payload);
}

/// The id, and the letter if this release knows its reason.
pub(super) fn decode(record: &[u8]) -> Result<(u64, Option<DeadLetter>), Malformed> {
    let mut from = Cursor(record);
    if from.u8()? != VERSION {
        return Err(Malformed("a version that this release does not know"));
    }
    let id = from.u64()?;
    let ts = TimestampMs(from.i64()?);
    let reason = from.text()?;
    let reason = Reason::ALL.iter().find(|known| known.as_str() == reason);
    let (topic, detail) = (from.text()?.to_owned(), from.text()?.to_owned());
    let payload = Bytes::copy_from_slice(from.0);
    let letter = |&reason: &Reason| DeadLetter {
        id,
        ts,
        topic,
        reason,
        detail,
        payload,
    };
    Ok((id, reason.map(letter)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(n: usize, bytes: usize) -> DeadLetter {
        DeadLetter {
            id: 0,
            ts: TimestampMs(n as i64),
            topic: format!("topic/{n}"),
            reason: Reason::ALL[n % Reason::ALL.len()],
            detail: "because".into(),
            payload: vec![n as u8; bytes].into(),
        }
    }

    fn ids(letters: &DeadLetters, before: Option<u64>, limit: usize) -> Vec<u64> {
        letters.list(before, limit).iter().map(|l| l.id).collect()
    }

    #[test]
    fn letters_come_newest_first_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        for start in [0, 3, 6] {
            let mut letters = DeadLetters::open(dir.path(), 1 << 20).unwrap();
            letters
                .bury(&[letter(start, 10), letter(start + 1, 0)])
                .unwrap();
            letters.bury(&[letter(start + 2, 3)]).unwrap();
        }
        let letters = DeadLetters::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(ids(&letters, None, 100), [9, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(ids(&letters, Some(7), 2), [6, 5]);
        assert_eq!(ids(&letters, Some(1), 2), [0u64; 0]);
        for (found, n) in letters.list(None, 100).iter().zip((0..9).rev()) {
            let sent = letter(n, [10, 0, 3][n % 3]);
            assert_eq!(
                found,
                &DeadLetter {
                    id: n as u64 + 1,
                    ..sent
                }
            );
        }
    }

    #[test]
    fn the_bound_holds_and_the_newest_stay_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut letters = DeadLetters::open(dir.path(), 100_000).unwrap();
        for n in 0..200 {
            letters.bury(&[letter(n, 2000)]).unwrap();
            assert!(letters.size_bytes() <= 100_000 + 3000);
        }
        let kept = ids(&letters, None, 1000);
        assert_eq!(kept[0], 200);
        assert!(kept.len() > 20 && kept.len() < 50, "{}", kept.len());
        drop(letters);
        let letters = DeadLetters::open(dir.path(), 100_000).unwrap();
        assert_eq!(ids(&letters, None, 1000), kept);
    }

    /// Segments in order, by name.
    fn segments(dir: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut segments: Vec<_> = paths
            .filter(|path| path.extension().is_some_and(|e| e == "dmj"))
            .collect();
        segments.sort();
        segments
    }

    fn flip(path: &Path, at: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }

    /// Four segments: three letters each, ids 1 to 12.
    fn four_segments(dir: &Path) {
        for start in [0, 3, 6, 9] {
            let mut letters = DeadLetters::open(dir, 1 << 20).unwrap();
            let three: Vec<_> = (start..start + 3).map(|n| letter(n, 100)).collect();
            letters.bury(&three).unwrap();
        }
    }

    #[test]
    fn a_flipped_byte_costs_the_rest_of_its_segment_and_no_start() {
        let dir = tempfile::tempdir().unwrap();
        four_segments(dir.path());
        let segments = segments(dir.path());
        assert_eq!(segments.len(), 4);
        // In the second of three letters of the second segment.
        let length = std::fs::metadata(&segments[1]).unwrap().len() as usize;
        flip(&segments[1], length / 2);

        for next in [13, 14] {
            let mut letters = DeadLetters::open(dir.path(), 1 << 20).unwrap();
            assert_eq!(
                ids(&letters, Some(13), 100),
                [12, 11, 10, 9, 8, 7, 4, 3, 2, 1]
            );
            assert_eq!(ids(&letters, Some(9), 3), [8, 7, 4]);
            assert_eq!(ids(&letters, Some(4), 3), [3, 2, 1]);
            letters.bury(&[letter(0, 1)]).unwrap();
            assert_eq!(ids(&letters, None, 1), [next]);
        }
    }

    #[test]
    fn whatever_byte_flips_it_opens_and_ids_grow() {
        let dir = tempfile::tempdir().unwrap();
        four_segments(dir.path());
        let segments = segments(dir.path());
        for number in [0, 3] {
            let whole = std::fs::read(&segments[number]).unwrap();
            for at in 0..whole.len() {
                let copy = tempfile::tempdir().unwrap();
                for from in &segments {
                    std::fs::copy(from, copy.path().join(from.file_name().unwrap())).unwrap();
                }
                flip(&copy.path().join(segments[number].file_name().unwrap()), at);
                let mut letters = DeadLetters::open(copy.path(), 1 << 20).unwrap();
                let readable = ids(&letters, None, 100);
                assert!(readable.len() >= 9, "byte {at}: {readable:?}");
                letters.bury(&[letter(0, 1)]).unwrap();
                let newest = ids(&letters, None, 1)[0];
                assert!(newest > 12, "byte {at}: id {newest} again");
                drop(letters);
                let letters = DeadLetters::open(copy.path(), 1 << 20).unwrap();
                assert_eq!(ids(&letters, None, 1), [newest], "byte {at}");
            }
        }
    }

    #[test]
    fn what_is_damaged_while_it_is_open_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        four_segments(dir.path());
        let letters = DeadLetters::open(dir.path(), 1 << 20).unwrap();
        flip(&segments(dir.path())[2], 20);
        assert_eq!(ids(&letters, None, 100), [12, 11, 10, 6, 5, 4, 3, 2, 1]);
        assert_eq!(ids(&letters, Some(10), 4), [6]);
        assert_eq!(ids(&letters, Some(7), 2), [6, 5]);
    }
}
