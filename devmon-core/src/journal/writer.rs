//! Writing: append, group commit, rolling, trimming, and recovery at open.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::repair::{self, SEARCH_BYTES};
use super::segment::{self, HEADER_BYTES};
use super::{Dropped, JournalError, MAX_RECORD_BYTES, Position, Reader, disk};

/// How long another holder of the directory is waited for.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// How a journal is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// A segment that has grown past this is closed and a new one begun. Trimming works by whole segments.
    pub segment_bytes: u64,
    /// Drop the oldest segments when all together pass this. `None`: unbounded; the owner trims. The newest segment stays, also if it passes this alone.
    pub max_bytes: Option<u64>,
    /// Drop segments whose last record is older than this, but for the newest. `None`: no limit.
    pub max_age: Option<Duration>,
}

impl Default for Options {
    /// Segments of 64 MiB, unbounded.
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_bytes: None,
            max_age: None,
        }
    }
}

/// What open found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Segments that were there.
    pub segments: usize,
    /// Bytes of a torn tail that were cut off: an append that was never committed.
    pub torn_bytes: u64,
    /// Set when good records stood behind bad bytes in the last segment: then committed bytes may have been changed, not only an append torn. The good records
    /// were appended again; the segment as it was found lies here.
    pub damaged: Option<PathBuf>,
}

/// An open journal. One writer; readers may read what is committed meanwhile.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    options: Options,
    /// Closed segments, oldest first, then the active one.
    segments: VecDeque<Segment>,
    /// The active segment's file; `None` after a failure, until the next append begins a fresh segment.
    active: Option<File>,
    /// A segment behind whose committed bytes a failed commit may have left others, and how long it must be. Cut before anything else is written.
    uncut: Option<(File, u64)>,
    next_number: u64,
    /// Appended, not yet committed.
    pending: Vec<u8>,
    pending_records: u64,
    dropped: Dropped,
    /// Holds the lock on the directory.
    _lock: File,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    /// Committed bytes, header included.
    bytes: u64,
    /// Committed records; `None`: of an earlier life, not counted yet.
    records: Option<u64>,
    /// When it was begun, if that is known.
    begun: Option<SystemTime>,
    last_written: SystemTime,
}

impl Journal {
    /// Opens or makes the journal in `dir` and checks every record of the last segment: a torn tail is cut off; good records behind bad bytes are saved and a
    /// copy of the segment is kept ([`Recovery::damaged`]). Older segments are checked when they are read.
    ///
    /// # Errors
    /// [`JournalError::Locked`], [`JournalError::Version`] or [`JournalError::Io`].
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovery), JournalError> {
        std::fs::create_dir_all(dir).map_err(JournalError::io(dir, "create directory"))?;
        let lock = lock(dir)?;
        let numbers = segment::list(dir)?;
        let mut recovery = Recovery {
            segments: numbers.len(),
            torn_bytes: 0,
            damaged: None,
        };
        let mut segments = VecDeque::new();
        for (i, &number) in numbers.iter().enumerate() {
            let path = segment::path(dir, number);
            let meta = std::fs::metadata(&path).map_err(JournalError::io(&path, "stat"))?;
            let mut bytes = meta.len();
            let mut records = None;
            if i + 1 == numbers.len() {
                let content = std::fs::read(&path).map_err(JournalError::io(&path, "read"))?;
                let found = repair::examine(&content, &path, number, SEARCH_BYTES, &mut |_, _| {})?;
                if bytes <= HEADER_BYTES && !found.header {
                    // The crash came while the segment was being made: the header is on disk before any record is.
                    recovery.torn_bytes = bytes;
                    disk::remove(&path).map_err(JournalError::io(&path, "remove"))?;
                    continue;
                }
                records = Some(found.records);
                recovery.torn_bytes = bytes.saturating_sub(found.intact);
                if !found.header || !found.holes.is_empty() {
                    let aside = repair::set_aside(&path)?;
                    repair::mend(&path, number, content, &found)?;
                    recovery.damaged = Some(aside);
                } else {
                    let file = OpenOptions::new().write(true).open(&path);
                    let file = file.map_err(JournalError::io(&path, "open"))?;
                    if found.intact < bytes {
                        disk::set_len(&file, found.intact)
                            .map_err(JournalError::io(&path, "truncate"))?;
                    }
                    // Also if nothing was cut: whole records that a killed process wrote may not be on disk yet, and from now on they count.
                    disk::sync_all(&file).map_err(JournalError::io(&path, "fsync"))?;
                }
                bytes = found.intact;
            }
            let last_written = meta.modified().unwrap_or_else(|_| SystemTime::now());
            segments.push_back(Segment {
                number,
                bytes,
                records,
                begun: meta.created().ok().filter(|begun| *begun <= last_written),
                last_written,
            });
        }
        sync_dir(dir)?;
        let journal = Self {
            dir: dir.to_owned(),
            options,
            segments,
            active: None, // every open begins a segment of its own: a recovered tail is never written again
            uncut: None,
            next_number: numbers.last().map_or(0, |n| n + 1),
            pending: Vec::new(),
            pending_records: 0,
            dropped: Dropped::default(),
            _lock: lock,
        };
        Ok((journal, recovery))
    }

    /// Puts a record in line for the next [`commit`](Self::commit) and returns the position behind it. It is not on disk yet.
    ///
    /// # Errors
    /// [`JournalError::RecordSize`]; or [`JournalError::Io`] when a fresh segment could not be made.
    pub fn append(&mut self, payload: &[u8]) -> Result<Position, JournalError> {
        if payload.is_empty() || payload.len() > MAX_RECORD_BYTES {
            return Err(JournalError::RecordSize(payload.len()));
        }
        if self.active.is_none() {
            self.begin_segment()?;
        }
        let (number, offset) = self.end();
        segment::encode(&mut self.pending, number, offset, payload);
        self.pending_records += 1;
        let (segment, offset) = self.end();
        Ok(Position { segment, offset })
    }

    /// Writes and fdatasyncs what was appended. When this returns `Ok`, all of it is on disk; on an error none of it counts.
    ///
    /// # Errors
    /// [`JournalError::Io`]. The records of this commit are gone from the journal and must be appended again.
    pub fn commit(&mut self) -> Result<(), JournalError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let records = std::mem::take(&mut self.pending_records);
        let written = self.write_durably(&pending, records);
        // The buffer is kept for the next commit.
        self.pending = pending;
        self.pending.clear();
        match written {
            Ok(()) => {
                let full = self
                    .segments
                    .back()
                    .is_some_and(|s| s.bytes >= self.options.segment_bytes);
                if full {
                    self.active = None;
                }
                Ok(())
            }
            Err(error) => {
                self.abandon_active();
                Err(error)
            }
        }
    }

    fn write_durably(&mut self, bytes: &[u8], records: u64) -> Result<(), JournalError> {
        let (Some(file), Some(active)) = (&self.active, self.segments.back_mut()) else {
            return Ok(()); // pending is empty whenever there is no active segment
        };
        let path = || segment::path(&self.dir, active.number);
        disk::write_at(file, bytes, active.bytes).map_err(JournalError::io(path(), "write"))?;
        disk::sync_data(file).map_err(JournalError::io(path(), "fdatasync"))?;
        if disk::is_unlinked(file) {
            let removed = std::io::Error::other("somebody has removed it");
            return Err(JournalError::io(path(), "write")(removed));
        }
        active.bytes += bytes.len() as u64;
        active.records = active.records.map(|before| before + records);
        active.last_written = SystemTime::now();
        Ok(())
    }

    /// After a failed write: the next append begins a fresh segment, once what may have been written is cut off.
    fn abandon_active(&mut self) {
        if let (Some(file), Some(active)) = (self.active.take(), self.segments.back()) {
            self.uncut = Some((file, active.bytes));
        }
        // Tried again before the next segment. Until then this segment is the last, and a restart reads what is left behind the committed bytes as it reads any tail.
        let tried = self.cut();
        drop(tried);
    }

    fn cut(&mut self) -> std::io::Result<()> {
        if let Some((file, bytes)) = &self.uncut {
            disk::set_len(file, *bytes)?;
            disk::sync_all(file)?;
        }
        self.uncut = None;
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<(), JournalError> {
        self.cut().map_err(JournalError::io(
            &self.dir,
            "cut a segment after a failed commit",
        ))?;
        let number = self.next_number;
        let path = segment::path(&self.dir, number);
        let make = || -> std::io::Result<File> {
            let file = disk::create(&path)?;
            disk::write_at(&file, &segment::header(number), 0)?;
            disk::sync_all(&file)?;
            Ok(file)
        };
        let made = match make() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                // Somebody has removed the directory, and the lock with it.
                std::fs::create_dir_all(&self.dir)
                    .map_err(JournalError::io(&self.dir, "create directory"))?;
                self._lock = lock(&self.dir)?;
                make()
            }
            made => made,
        };
        let file = made.map_err(|source| {
            let removed = disk::remove(&path); // a disk that is full leaves an empty file behind
            drop(removed);
            JournalError::io(&path, "create segment")(source)
        })?;
        sync_dir(&self.dir)?;
        self.active = Some(file);
        self.next_number += 1;
        self.segments.push_back(Segment {
            number,
            bytes: HEADER_BYTES,
            records: Some(0),
            begun: Some(SystemTime::now()),
            last_written: SystemTime::now(),
        });
        Ok(())
    }

    /// Where the next record begins: segment number and offset.
    fn end(&self) -> (u64, u64) {
        match (&self.active, self.segments.back()) {
            (Some(_), Some(s)) => (s.number, s.bytes + self.pending.len() as u64),
            _ => (self.next_number, HEADER_BYTES),
        }
    }

    /// The position behind all committed records.
    #[must_use]
    pub fn committed(&self) -> Position {
        match self.segments.back() {
            Some(s) => Position {
                segment: s.number,
                offset: s.bytes,
            },
            None => Position {
                segment: self.next_number,
                offset: 0,
            },
        }
    }

    /// Where the oldest segment begins; what was before it is gone.
    #[must_use]
    pub fn oldest(&self) -> Position {
        let segment = self.segments.front().map_or(self.next_number, |s| s.number);
        Position { segment, offset: 0 }
    }

    /// True if records were committed behind `position`.
    #[must_use]
    pub fn has_records_behind(&self, position: Position) -> bool {
        self.segments.iter().any(|s| {
            let from = match s.number.cmp(&position.segment) {
                Ordering::Less => return false,
                Ordering::Equal => position.offset.max(HEADER_BYTES),
                Ordering::Greater => HEADER_BYTES,
            };
            s.bytes > from
        })
    }

    /// Bytes on disk in committed records and headers.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// Bytes on disk behind `position`, headers of segments included: about what [`read_from`](Self::read_from) will read.
    #[must_use]
    pub fn bytes_behind(&self, position: Position) -> u64 {
        let behind = |s: &Segment| match s.number.cmp(&position.segment) {
            Ordering::Less => 0,
            Ordering::Equal => s.bytes.saturating_sub(position.offset),
            Ordering::Greater => s.bytes,
        };
        self.segments.iter().map(behind).sum()
    }

    /// Closes the active segment, so that all that is committed can be trimmed as soon as it is no longer needed.
    pub fn roll(&mut self) {
        if self.pending.is_empty() {
            self.active = None;
        }
    }

    /// Deletes the segments that lie wholly before `position`. The newest stays, or an empty one takes its place: numbers, and so positions, never
    /// begin anew, not even when everything was trimmed and the journal is opened again.
    ///
    /// # Errors
    /// [`JournalError::Io`]; trimming again later is fine.
    pub fn trim_to(&mut self, position: Position) -> Result<(), JournalError> {
        let before = |s: &Segment| {
            s.number < position.segment
                || (s.number == position.segment && s.bytes <= position.offset)
        };
        let mut removed = false;
        while self.segments.front().is_some_and(before) && !self.front_is_active() {
            self.keep_the_numbering()?;
            self.remove_front()?;
            removed = true;
        }
        if removed { sync_dir(&self.dir) } else { Ok(()) }
    }

    /// Enforces `max_bytes` and `max_age`: gives up whole segments, oldest first, but never the newest. Returns what was given up, to be counted; after an error
    /// [`dropped`](Self::dropped) has it.
    ///
    /// Ages are differences of wall clock times here: an owner whose clock may be set meanwhile counts them itself, with [`enforce_limits_by`](Self::enforce_limits_by).
    ///
    /// # Errors
    /// [`JournalError::Io`]; doing it again later is fine.
    pub fn enforce_limits(&mut self, now: SystemTime) -> Result<Dropped, JournalError> {
        let max = self.options.max_age;
        self.enforce_limits_by(|_, last_written| {
            let age = now.duration_since(last_written).unwrap_or_default();
            max.is_some_and(|max| age > max)
        })
    }

    /// Enforces `max_bytes`, and gives up as well what is `too_old`, which is told a segment's number and when its last record was written by the wall clock of then.
    ///
    /// # Errors
    /// [`JournalError::Io`]; doing it again later is fine.
    pub fn enforce_limits_by(
        &mut self,
        too_old: impl Fn(u64, SystemTime) -> bool,
    ) -> Result<Dropped, JournalError> {
        let mut dropped = Dropped::default();
        while let [front, _, ..] = self.segments.make_contiguous() {
            let over_age = too_old(front.number, front.last_written);
            let over_bytes = (self.options.max_bytes).is_some_and(|max| self.size_bytes() > max);
            if !(over_bytes || over_age) {
                break;
            }
            dropped += self.give_up_front()?;
        }
        if dropped.segments > 0 {
            sync_dir(&self.dir)?;
        }
        Ok(dropped)
    }

    /// Gives up the oldest segment whatever the limits say, to make room on a full disk; never the newest: then nothing is dropped.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn drop_oldest(&mut self) -> Result<Dropped, JournalError> {
        if self.segments.len() < 2 {
            return Ok(Dropped::default());
        }
        let dropped = self.give_up_front()?;
        sync_dir(&self.dir)?;
        Ok(dropped)
    }

    /// All that was given up since the journal was opened. What is trimmed is not: nobody needs that any more.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    fn give_up_front(&mut self) -> Result<Dropped, JournalError> {
        let Some(front) = self.segments.front() else {
            return Ok(Dropped::default());
        };
        let records = front
            .records
            .unwrap_or_else(|| count_records(&segment::path(&self.dir, front.number), front));
        let dropped = Dropped {
            segments: 1,
            records,
            bytes: front.bytes,
            oldest: front.begun,
            newest: Some(front.last_written),
        };
        self.remove_front()?;
        self.dropped += dropped;
        Ok(dropped)
    }

    /// Before the only segment goes: begins the next, whose name carries the number on.
    fn keep_the_numbering(&mut self) -> Result<(), JournalError> {
        if self.segments.len() == 1 && self.active.is_none() {
            self.begin_segment()?;
        }
        Ok(())
    }

    fn front_is_active(&self) -> bool {
        self.segments.len() == 1 && self.active.is_some()
    }

    fn remove_front(&mut self) -> Result<(), JournalError> {
        let Some(front) = self.segments.front() else {
            return Ok(());
        };
        let path = segment::path(&self.dir, front.number);
        match disk::remove(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(JournalError::io(&path, "remove")(source));
            }
            _ => {}
        }
        self.segments.pop_front();
        Ok(())
    }

    /// Reads the committed records from `from` on, as they are now.
    #[must_use]
    pub fn read_from(&self, from: Position) -> Reader {
        let segments = self.segments.iter().map(|s| (s.number, s.bytes)).collect();
        Reader::new(self.dir.clone(), segments, from)
    }
}

pub(super) fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let file = file.map_err(JournalError::io(&path, "open"))?;
    // A child that is being started holds a copy of our descriptors until it has begun its own program: a moment's patience.
    let give_up = std::time::Instant::now() + LOCK_PATIENCE;
    let mut locked = file.try_lock();
    while matches!(locked, Err(std::fs::TryLockError::WouldBlock))
        && std::time::Instant::now() < give_up
    {
        std::thread::sleep(Duration::from_millis(10));
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(JournalError::Locked(dir.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(JournalError::io(&path, "lock")(source)),
    }
}

/// Records of a segment that an earlier process wrote: those that can be read, for its checksums are looked at when somebody reads it.
fn count_records(path: &Path, segment: &Segment) -> u64 {
    let Ok(bytes) = std::fs::read(path) else {
        return 0;
    };
    repair::examine(&bytes, path, segment.number, SEARCH_BYTES, &mut |_, _| {})
        .map_or(0, |found| found.records)
}

fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    disk::sync_dir(dir).map_err(JournalError::io(dir, "fsync directory"))
}
