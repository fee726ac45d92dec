//! The blocking half: journal to requests, and the cursor. Runs on a blocking thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devmon_core::journal::{JournalError, Position};
use devmon_core::wire::TimestampMs;

use super::batch::{Batch, Request};
use super::cursor::Cursor;
use super::labels::{LeftOut, Names};
use super::settings::Target;
use crate::store::Pin;
use crate::store::engine::{Followed, Store, StoreError};

/// Journal that is read at once; decoded it is some four times that.
const READ_BYTES: u64 = 1 << 20;
/// Stretches that are looked through for one batch, when hardly anything in them is wanted.
const MAX_STRETCHES: usize = 16;
/// Messages that are skipped between two looks at how far behind a target is.
const SKIPPED_AT_ONCE: usize = 64;
/// How much of what was answered a loss of power may have sent again. kill -9 costs less: the cursor is written at once.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// What the next requests hold.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) requests: VecDeque<Request>,
    /// The place behind it.
    pub(super) end: Option<Position>,
    /// When the oldest message in it arrived.
    pub(super) oldest: Option<TimestampMs>,
    pub(super) left_out: LeftOut,
    /// Messages that can not be read, of what was read since the last time.
    pub(super) unreadable: u64,
    /// There is more to read.
    pub(super) full: bool,
    /// Bytes of journal that are not forwarded, these included.
    pub(super) behind_bytes: u64,
}

impl Gathered {
    pub(super) fn samples(&self) -> u64 {
        self.requests.iter().map(|request| request.samples).sum()
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("samples can not be compressed: {0}")]
    Compress(#[from] snap::Error),
}

/// Reads the journal for one target.
pub(super) struct Reader {
    store: Arc<dyn Store>,
    names: Names,
    max_samples: usize,
    cursor: Cursor,
    pin: Pin,
    synced: Instant,
    /// Read and not gathered.
    queue: VecDeque<Followed>,
    /// Behind what was read.
    next: Position,
    /// Messages that could not be read and were not told yet.
    unreadable: u64,
}

impl Reader {
    pub(super) fn new(target: &Target, store: Arc<dyn Store>, cursor: Cursor, pin: Pin) -> Self {
        Self {
            store,
            names: Names::new(target),
            max_samples: target.max_samples,
            next: cursor.at(),
            cursor,
            pin,
            synced: Instant::now(),
            queue: VecDeque::new(),
            unreadable: 0,
        }
    }

    /// Gathers what comes next, up to `max_samples` and what one message has. After an error it begins behind the cursor again.
    pub(super) fn gather(&mut self) -> Result<Gathered, ReadError> {
        let gathered = self.gather_some();
        if gathered.is_err() {
            self.queue.clear();
            self.unreadable = 0; // read again, and counted then
            self.next = self.cursor.at();
        }
        gathered
    }

    fn gather_some(&mut self) -> Result<Gathered, ReadError> {
        let mut gathered = Gathered::default();
        let mut batch = Batch::default();
        let mut stretches = 0;
        loop {
            if batch.len() >= self.max_samples || stretches >= MAX_STRETCHES {
                gathered.full = true;
                break;
            }
            let Some(item) = self.queue.pop_front() else {
                if !self.read()? {
                    break;
                }
                stretches += 1;
                continue;
            };
            gathered.oldest.get_or_insert(item.message.received);
            gathered.left_out += self.names.add(&*self.store, &item.message, &mut batch);

            gathered.end = Some(item.end);
        }
        if self.queue.is_empty() {
            gathered.end = Some(self.next); // behind messages of other kinds, too
        }
        gathered.requests = batch.requests(self.max_samples)?.into();
        gathered.behind_bytes = self.behind()?;
        gathered.unreadable = std::mem::take(&mut self.unreadable);
        Ok(gathered)
    }

    /// Reads the next stretch; false if there is none.
    fn read(&mut self) -> Result<bool, StoreError> {
        let stretch = match self.store.follow(self.next, READ_BYTES) {
            Err(StoreError::Journal(error @ JournalError::Damaged { .. })) => {
                let next = Position {
                    segment: self.next.segment + 1,
                    offset: 0,
                };
                if self.store.follow(next, 0)?.committed < next {
                    return Err(error.into());
                }
                tracing::error!(%error, "the rest of this file of the journal is not forwarded");
                self.next = next;
                return Ok(true);
            }
            stretch => stretch?,
        };
        let more = stretch.end > self.next;
        self.next = stretch.end;
        self.unreadable += stretch.unreadable;
        self.queue.extend(stretch.items);
        Ok(more)
    }

    /// All up to here is dealt with.
    pub(super) fn advance(&mut self, to: Position) -> std::io::Result<()> {
        if to != self.cursor.at() {
            self.cursor.set(to)?;
        }
        if self.synced.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes the cursor durable, and gives up the journal before it.
    pub(super) fn sync(&mut self) -> std::io::Result<()> {
        self.synced = Instant::now();
        self.cursor.sync()?;
        self.pin.move_to(self.cursor.synced());
        Ok(())
    }

    /// It will not be read on from here: the journal need not be kept.
    pub(super) fn give_up(&self) {
        self.pin.release();
    }

    /// Bytes of journal that are not dealt with.
    pub(super) fn behind(&self) -> Result<u64, StoreError> {
        Ok(self.store.follow(self.cursor.at(), 0)?.behind_bytes)
    }

    /// Leaves out the oldest, until no more than `keep_bytes` of journal are not dealt with. Returns how many samples that were, wanted ones only.
    pub(super) fn skip(&mut self, keep_bytes: u64) -> Result<u64, ReadError> {
        let mut samples = 0;
        while self.behind()? > keep_bytes {
            if self.queue.is_empty() && !self.read()? {
                break;
            }
            let mut batch = Batch::default();
            let few = self.queue.len().min(SKIPPED_AT_ONCE);
            let mut end = self.next;
            for item in self.queue.drain(..few) {
                let left = self.names.add(&*self.store, &item.message, &mut batch);
                samples += left.forgotten + left.too_old;
                end = item.end;
            }
            samples += batch.len() as u64;
            if self.queue.is_empty() {
                end = self.next; // behind messages of other kinds, too
            }
            let moved = self.cursor.set(end);
            moved.unwrap_or_else(|error| tracing::warn!(%error, "the cursor can not be written"));
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::settings::tests::target;
    use crate::store::engine::{Accepted, Content};
    use crate::store::{Engine, Options, Pins};
    use devmon_core::wire::FlatMessage;

    #[test]
    fn a_message_that_can_not_be_read_is_counted_and_what_is_behind_it_is_gathered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Engine::open(dir.path(), Options::default()).unwrap();
        let now = TimestampMs::now();
        let good = format!(r#"{{"ts":{},"metrics":{{"a":1}}}}"#, now.0);
        // The journal keeps the payload, and reads it again.
        let item = |payload: &str| Accepted {
            device: "d".parse().unwrap(),
            received: now,
            payload: payload.to_owned().into(),
            content: Content::Metrics {
                id: None,
                frames: FlatMessage::decode(good.as_bytes()).unwrap().frames,
            },
        };
        let batch = ["from a later release", "and another", &good].map(item);
        store.commit(&batch).unwrap();
        let target = target("url = 'http://127.0.0.1:1/w'").unwrap();
        let cursor = Cursor::open(&dir.path().join("cursor"), Position::START).unwrap();
        let pin = Pins::default().pin(Position::START);
        let mut reader = Reader::new(&target, Arc::new(store), cursor, pin);
        let gathered = reader.gather().unwrap();
        assert_eq!((gathered.unreadable, gathered.samples()), (2, 1));
        let again = reader.gather().unwrap();
        assert_eq!((again.unreadable, again.samples()), (0, 0), "told once");
    }
}
