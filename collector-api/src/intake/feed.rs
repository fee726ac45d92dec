//! What was committed, handed on to whoever follows it.
//!
//! # Promises
//! - Only what a commit returned `Ok` for, in the order of the commits, each message once.
//! - It costs the writer one look when nobody follows, and one push a commit when somebody does: a batch is moved, not copied, and freed by the reader.
//! - It is bounded in bytes. What does not fit, because the reader is slower than the intake, is left out; the reader is told that something was.
//!
//! It leaves to others: what a message means to a follower (`events`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::accept::lock;
use crate::store::engine::Accepted;

/// Most payload that waits for the reader; decoded it is some four times that. A single batch always fits, whatever its size.
const MAX_WAITING_BYTES: usize = 8 << 20;

/// What the reader finds.
#[derive(Debug)]
pub enum News {
    /// Messages of one commit; each was stored.
    Stored(Vec<Accepted>),
    /// Batches were left out here.
    Missed,
    /// Somebody [woke](Feed::wake) the reader, or nothing came in time.
    Nothing,
}

/// A queue of committed batches with one writer and one reader.
#[derive(Debug, Default)]
pub struct Feed {
    wanted: AtomicBool,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<(Vec<Accepted>, usize)>,
    bytes: usize,
    /// Something was left out behind all that waits.
    missed: bool,
    woken: bool,
}

impl Feed {
    /// Whether batches are to be handed on. What is committed after this returns is; what waited, when they are not, is dropped.
    pub fn want(&self, wanted: bool) {
        let mut waiting = lock(&self.waiting);
        self.wanted.store(wanted, Relaxed); // under the lock: no batch slips in behind a no
        if !wanted {
            *waiting = Waiting::default();
        }
    }

    /// Whether somebody follows.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed)
    }

    /// Hands a batch on, whose payloads have so many bytes.
    pub(super) fn tell(&self, stored: Vec<Accepted>, bytes: usize) {
        if !self.is_wanted() || stored.is_empty() {
            return;
        }
        let mut waiting = lock(&self.waiting);
        if !self.is_wanted() {
            return;
        }
        let full = !waiting.batches.is_empty() && waiting.bytes + bytes > MAX_WAITING_BYTES;
        // Once something is left out, all is until the reader has heard of it: what it is told stays in order.
        if full || waiting.missed {
            waiting.missed = true;
        } else {
            waiting.bytes += bytes;
            waiting.batches.push_back((stored, bytes));
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// The next of what waits; waits for it until `deadline`.
    #[must_use]
    pub fn next(&self, deadline: Instant) -> News {
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some((stored, bytes)) = waiting.batches.pop_front() {
                waiting.bytes -= bytes;
                return News::Stored(stored);
            }
            if std::mem::take(&mut waiting.missed) {
                return News::Missed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if std::mem::take(&mut waiting.woken) || left.is_zero() {
                return News::Nothing;
            }
            waiting = self.wait(waiting, left);
        }
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, Waiting>, left: Duration) -> MutexGuard<'a, Waiting> {
        let waited = self.changed.wait_timeout(guard, left);
        waited.map_or_else(|poisoned| poisoned.into_inner().0, |(guard, _)| guard)
    }

    /// Makes [`next`](Self::next) return, now or the next time that nothing waits.
    pub fn wake(&self) {
        lock(&self.waiting).woken = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::engine::Content;
    use devmon_core::wire::TimestampMs;
    use devmon_core::wire::about::Presence;

    fn batch(received: i64) -> Vec<Accepted> {
        vec![Accepted {
            device: "d".parse().unwrap(),
            received: TimestampMs(received),
            payload: bytes::Bytes::new(),
            content: Content::Status(Presence::Online),
        }]
    }

    /// The times of arrival of what waits; `None` stands for what was left out.
    fn told(feed: &Feed) -> Vec<Option<i64>> {
        let mut told = Vec::new();
        loop {
            match feed.next(Instant::now()) {
                News::Stored(batch) => told.push(Some(batch[0].received.0)),
                News::Missed => told.push(None),
                News::Nothing => return told,
            }
        }
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let feed = Feed::default();
        feed.tell(batch(1), 1);
        assert_eq!(told(&feed), []);
        feed.want(true);
        feed.tell(batch(2), 1);
        feed.want(false);
        feed.tell(batch(3), 1);
        feed.want(true);
        feed.tell(batch(4), 1);
        assert_eq!(told(&feed), [Some(4)]);
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said_so_in_its_place() {
        let feed = Feed::default();
        feed.want(true);
        feed.tell(batch(1), MAX_WAITING_BYTES + 1); // alone it fits
        feed.tell(batch(2), 1);
        feed.tell(batch(3), 0);
        assert_eq!(told(&feed), [Some(1), None]);
        feed.tell(batch(4), MAX_WAITING_BYTES - 1);
        feed.tell(batch(5), 1);
        assert_eq!(told(&feed), [Some(4), Some(5)]);
    }

    #[test]
    fn a_reader_that_waits_is_woken() {
        let feed = std::sync::Arc::new(Feed::default());
        feed.want(true);
        let reader = {
            let feed = feed.clone();
            std::thread::spawn(move || {
                let far = Instant::now() + Duration::from_secs(60);
                [feed.next(far), feed.next(far)]
            })
        };
        feed.tell(batch(1), 1);
        feed.wake();
        let [first, second] = reader.join().unwrap();
        assert!(matches!(first, News::Stored(_)) || matches!(first, News::Nothing));
        assert!(matches!(second, News::Stored(_)) || matches!(second, News::Nothing));
    }
}
