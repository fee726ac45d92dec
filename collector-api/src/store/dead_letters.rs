//! Refused messages, kept whole: a small journal of their own, bounded in bytes, the oldest segments first to go.
//!
//! Ids grow with each letter, also over a restart, so that a reader can page and come back. An index of ids and positions is in memory; letters are read from disk.
//!
//! | size | record, version 1 |
//! |---|---|
//! | 1 | version, 1 |
//! | varint, zigzag varint | id, time in unix ms |
//! | texts | reason, topic, detail: each varint length and UTF-8 |
//! | rest | payload as it came |

use std::collections::VecDeque;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use devmon_core::journal::{Journal, JournalError, Options, Position};
use devmon_core::wire::{Reason, TimestampMs};

use super::engine::DeadLetter;
use super::varint::{Cursor, Malformed, put_bytes, put_i64, put_u64};

const VERSION: u8 = 1;
/// Letters are given up by whole segments: a sixteenth of the default bound at a time.
const SEGMENT_BYTES: u64 = 1 << 20;

/// The dead letters on disk.
#[derive(Debug)]
pub(super) struct DeadLetters {
    journal: Journal,
    /// Id and start of each letter that is kept, oldest first.
    index: VecDeque<(u64, Position)>,
    next_id: u64,
}

impl DeadLetters {
    /// Opens or makes them in `dir`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(super) fn open(dir: &Path, max_bytes: u64) -> Result<Self, JournalError> {
        let options = Options {
            segment_bytes: SEGMENT_BYTES.min(max_bytes / 2),
            max_bytes: Some(max_bytes),
            max_age: None,
        };
        let (journal, _) = Journal::open(dir, options)?;
        let mut letters = Self {
            journal,
            index: VecDeque::new(),
            next_id: 1,
        };
        for record in letters.journal.read_from(Position::START) {
            let record = record?;
            // A reason of a newer release: the letter stays on disk, and its id is taken.
            if let Ok((id, _)) = decode(&record.payload) {
                letters.index.push_back((id, record.start));
                letters.next_id = letters.next_id.max(id + 1);
            }
        }
        Ok(letters)
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
            Ok(0) => {}
            Ok(dropped_bytes) => {
                tracing::info!(dropped_bytes, "the oldest dead letters were given up");
                self.forget_dropped();
            }
            Err(error) => tracing::warn!(%error, "old dead letters can not be removed"),
        }
        Ok(())
    }

    fn forget_dropped(&mut self) {
        let Some(Ok(first)) = self.journal.read_from(Position::START).next() else {
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

    /// Letters with an id below `before`, newest first.
    pub(super) fn list(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        let end = before.map_or(self.index.len(), |id| {
            self.index.partition_point(|&(i, _)| i < id)
        });
        let begin = end.saturating_sub(limit);
        let Some(&(_, from)) = self.index.range(begin..end).next() else {
            return Ok(Vec::new());
        };
        let mut letters = Vec::new();
        for record in self.journal.read_from(from) {
            let record = record?;
            if letters.len() == end - begin {
                break;
            }
            if let Ok((id, Some(letter))) = decode(&record.payload) {
                debug_assert_eq!(id, letter.id);
                letters.push(letter);
            }
        }
        letters.reverse();
        Ok(letters)
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.journal.size_bytes()
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
fn decode(record: &[u8]) -> Result<(u64, Option<DeadLetter>), Malformed> {
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
        letters
            .list(before, limit)
            .unwrap()
            .iter()
            .map(|l| l.id)
            .collect()
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
        for (found, n) in letters.list(None, 100).unwrap().iter().zip((0..9).rev()) {
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
}
