//! The spool: messages that have waited too long, on disk until the broker has acknowledged them.
//!
//! A [`Journal`] and a cursor. A record behind the cursor **sleeps**: it is on disk only. [`Spool::wake`] hands the oldest out and moves the cursor over them; from there they are
//! **awake**, held in memory by the [`outbox`](crate::outbox), until [`Spool::settle`] says that the broker has them, [`Spool::sleep`] that memory was needed for others, or [`Spool::rewind`] that
//! the connection is lost and all sleep again.
//! A record may also be stored as awake, because it is just being sent. Segments in which all is settled are deleted.
//!
//! **Promises**: what [`Spool::store`] has returned `Ok` for survives kill -9 and power cuts, and is handed out again after a restart. At a restart everything in the spool sleeps, so that up
//! to one segment ([`SEGMENT_BYTES`]) of settled messages may be sent again; the collector knows them by their (device, boot, seq).
//! Bounded by bytes and age: whole segments go, oldest first, and what slept in them is counted. What was awake is in the outbox's hands, which learns of it by [`State::oldest`].
//!
//! Setting the wall clock makes nothing older ([`age`]).
//!
//! It leaves to others: when to store (the outbox), and not to block the daemon ([`SpoolThread`], which is all that it sees).

mod age;
#[cfg(test)]
mod tests;
mod thread;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use devmon_core::journal::{Dropped, Journal, JournalError, Options, Position, Reader};
use tracing::{error, warn};

use crate::clock::{self, Reading};
use crate::holder;
use age::Ages;
pub use thread::{Event, SpoolThread, State, Waiting};

/// Small, for a segment is what is deleted at a time, what is read into memory at a time, and what may be sent again after a crash.
pub const SEGMENT_BYTES: u64 = 512 * 1024;
/// After something failed (a full or read-only disk, a directory that somebody else has), this passes before the next try.
const RETRY: Duration = Duration::from_secs(10);

/// What whoever has a journal holds a lock of, in its directory.
const LOCK: &str = "lock";

/// Where the spool lies and how much it may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub dir: PathBuf,
    pub max_bytes: u64,
    pub max_age: Duration,
}

impl Limits {
    /// The process that has the spool, as far as the kernel tells.
    #[must_use]
    pub fn holder(&self) -> Option<u32> {
        holder::of(&self.dir.join(LOCK))
    }
}

/// What was given up, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GivenUp {
    /// Messages over `max_bytes`.
    pub full: u64,
    /// Messages over `max_age`.
    pub aged: u64,
    /// Segments with bytes that are not what was written; how many messages were in them can not be known.
    pub damaged: u64,
}

/// The spool itself. Blocks on the disk; used by one thread.
#[derive(Debug)]
pub struct Spool {
    journal: Journal,
    /// Everything behind it sleeps, but for what is in `awake` and `settled`.
    cursor: Position,
    /// With the end of what it sees: all that was committed when it was made.
    reader: Option<(Reader, Position)>,
    /// Ends of records that are awake.
    awake: BTreeSet<Position>,
    /// Ends of records that are settled and still on disk, for others in their segment are not.
    settled: BTreeSet<Position>,
    given_up: GivenUp,
    max_bytes: u64,
    ages: Ages,
    /// Why a segment could not be deleted. None is tried until [`try_again`](Self::try_again): each acknowledgement would.
    stuck: Option<String>,
    /// It was not tried again yet.
    is_paused: bool,
}

/// Why the spool takes nothing.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It may grow no further.
    #[error("the spool is over its max_bytes, and its oldest segment can not be deleted: {0}")]
    Stuck(String),
}

impl Spool {
    /// Opens or makes it. Whatever is in it sleeps.
    ///
    /// # Errors
    /// [`JournalError`]: the directory can not be made or written, or another agent has it.
    pub fn open(limits: &Limits) -> Result<Self, JournalError> {
        let now = Reading::now();
        Self::open_at(limits, now, clock::is_believed_at_start(now))
    }

    /// Opens it at this moment, with the wall clock believed or not.
    fn open_at(limits: &Limits, now: Reading, believed: bool) -> Result<Self, JournalError> {
        let options = Options {
            segment_bytes: SEGMENT_BYTES,
            max_bytes: Some(limits.max_bytes),
            max_age: None, // the journal's are of the wall clock
        };
        let (journal, recovery) = Journal::open(&limits.dir, options)?;
        if let Some(aside) = recovery.damaged {
            warn!(file = %aside.display(), "the spool was damaged; what could be read is kept, the segment as it was found lies here");
        }
        let mut spool = Self {
            journal,
            cursor: Position::START,
            reader: None,
            awake: BTreeSet::new(),
            settled: BTreeSet::new(),
            given_up: GivenUp::default(),
            max_bytes: limits.max_bytes,
            ages: Ages::new(limits.max_age, now, believed),
            stuck: None,
            is_paused: false,
        };
        spool.enforce(now);
        Ok(spool)
    }

    /// Writes messages and returns when they are on disk, with the place of each. Those with `true` are awake, the others sleep.
    ///
    /// # Errors
    /// [`SpoolError`]; then none of them is in the spool.
    pub fn store(&mut self, messages: &[(&[u8], bool)]) -> Result<Vec<Position>, SpoolError> {
        self.store_at(messages, Reading::now())
    }

    fn store_at(
        &mut self,
        messages: &[(&[u8], bool)],
        now: Reading,
    ) -> Result<Vec<Position>, SpoolError> {
        if let Some(problem) = self.stuck.clone()
            && self.journal.size_bytes() > self.max_bytes
        {
            return Err(SpoolError::Stuck(problem));
        }
        let nothing_sleeps = !self.sleeps();
        let mut places = Vec::with_capacity(messages.len());
        for (payload, _) in messages {
            places.push(self.journal.append(payload)?);
        }
        self.journal.commit()?;
        let all_awake = messages.iter().all(|(_, awake)| *awake);
        for (place, (_, awake)) in places.iter().zip(messages) {
            if *awake {
                self.awake.insert(*place);
            }
        }
        if nothing_sleeps && all_awake {
            self.cursor = self.journal.committed();
            self.reader = None;
        }
        for place in &places {
            self.ages.written(place.segment, now);
        }
        self.enforce(now);
        Ok(places)
    }

    /// The oldest sleeping messages, at most `count` and some `bytes`; they are awake now. Empty: nothing sleeps.
    pub fn wake(&mut self, count: usize, bytes: usize) -> Vec<(Position, Vec<u8>)> {
        let mut woken = Vec::new();
        let mut size = 0;
        while woken.len() < count && size < bytes {
            let end = self.journal.committed();
            if self.reader.is_none() && self.sleeps() {
                self.reader = Some((self.journal.read_from(self.cursor), end));
            }
            let Some((reader, seen)) = &mut self.reader else {
                break;
            };
            let seen = *seen;
            match reader.next() {
                Some(Ok(record)) => {
                    self.cursor = record.end;
                    if !self.settled.contains(&record.end) && self.awake.insert(record.end) {
                        size += record.payload.len();
                        woken.push((record.end, record.payload));
                    }
                }
                Some(Err(e)) => {
                    error!(error = %e, "part of the spool can not be read and is passed over");
                    self.given_up.damaged += 1;
                    self.reader = None;
                    let next = self.cursor.segment + 1;
                    self.cursor = end.min(Position {
                        segment: next,
                        offset: 0,
                    });
                }
                None => {
                    self.cursor = self.cursor.max(seen);
                    self.reader = None;
                }
            }
        }
        self.trim();
        woken
    }

    /// The broker has this message.
    pub fn settle(&mut self, place: Position) {
        if self.awake.remove(&place) {
            self.settled.insert(place);
        }
        self.trim();
    }

    /// These were awake and sleep again.
    pub fn sleep(&mut self, places: &[Position]) {
        for place in places {
            if self.awake.remove(place) {
                // Where the record begins is not known, but its segment is; what is settled or awake in it is passed over.
                let begins = Position {
                    segment: place.segment,
                    offset: 0,
                };
                self.cursor = self.cursor.min(begins);
                self.reader = None;
            }
        }
    }

    /// Everything that is not settled sleeps again.
    pub fn rewind(&mut self) {
        self.awake.clear();
        self.cursor = self.journal.oldest();
        self.reader = None;
    }

    /// True if a message is on disk only.
    #[must_use]
    pub fn sleeps(&self) -> bool {
        self.journal.has_records_behind(self.cursor)
    }

    /// No record lies before it.
    #[must_use]
    pub fn oldest(&self) -> Position {
        self.journal.oldest()
    }

    /// Bytes on disk.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.journal.size_bytes()
    }

    /// What was given up since it was opened.
    #[must_use]
    pub fn given_up(&self) -> GivenUp {
        self.given_up
    }

    /// Why something could not be deleted, if so.
    #[must_use]
    pub fn stuck(&self) -> Option<&str> {
        self.stuck.as_deref()
    }

    /// Deletes what could not be deleted, if that is possible now.
    pub fn try_again(&mut self) {
        self.is_paused = false;
        self.enforce(Reading::now());
        self.trim();
        if !self.is_paused {
            self.stuck = None;
        }
    }

    fn failed_to_delete(&mut self, error: &JournalError) {
        self.stuck = Some(error.to_string());
        self.is_paused = true;
    }

    /// Deletes what nobody needs. `whole`: also the newest segment, if all of it is settled; the next message begins another.
    pub fn tidy(&mut self, whole: bool) {
        let used = self.journal.has_records_behind(Position::START);
        if whole && used && !self.sleeps() && self.awake.is_empty() {
            self.cursor = self.journal.committed();
            self.journal.roll();
        }
        self.trim();
    }

    fn trim(&mut self) {
        if self.is_paused {
            return;
        }
        let before = self.journal.oldest();
        let needed = self.awake.first().map_or(self.cursor, |first| {
            // An end: the record itself begins before it, in the same segment.
            let begins = Position {
                segment: first.segment,
                offset: 0,
            };
            self.cursor.min(begins)
        });
        let trimmed = self.journal.trim_to(needed);
        let oldest = self.journal.oldest();
        match trimmed {
            Err(e) => self.failed_to_delete(&e),
            Ok(()) if oldest > before => self.stuck = None,
            Ok(()) => {} // nothing was to be deleted
        }
        self.settled = self.settled.split_off(&oldest);
        self.ages.forget_before(oldest.segment);
    }

    fn enforce(&mut self, now: Reading) {
        if self.is_paused {
            return;
        }
        let full = self.journal.size_bytes() > self.max_bytes;
        let before = self.journal.dropped();
        let ages = &self.ages;
        let too_old = |segment, stamp| ages.is_too_old(segment, stamp, now);
        if let Err(e) = self.journal.enforce_limits_by(too_old) {
            self.failed_to_delete(&e);
        }
        let dropped = self.journal.dropped();
        if dropped.segments == before.segments {
            return;
        }
        if !self.is_paused {
            self.stuck = None;
        }
        let begins = self.journal.oldest();
        let settled = self.settled.range(..begins).count() as u64;
        // Awake ones are in the outbox, which counts what it loses.
        let awake = self.awake.range(..begins).count() as u64;
        let lost = lost(before, dropped).saturating_sub(settled + awake);
        if full {
            self.given_up.full += lost;
        } else {
            self.given_up.aged += lost;
        }
        self.settled = self.settled.split_off(&begins);
        self.awake = self.awake.split_off(&begins);
        if self.cursor < begins {
            self.cursor = begins;
            self.reader = None;
        }
    }
}

fn lost(before: Dropped, now: Dropped) -> u64 {
    now.records - before.records
}
