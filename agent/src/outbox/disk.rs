//! Between memory and the spool: what is handed over and when, what its answers mean, and when messages are read back.

use std::time::{Duration, Instant};

use devmon_core::journal::Position;

use super::entry::{Disk, Entry, Place, cost};
use super::{DropReason, Durability, Outbox};
use crate::spool::{Event, SpoolThread, State, Waiting};

/// Unacknowledged for this long: the broker does not answer. Then one write for all that waits, so an outage costs flash one write in this time.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that are read back from disk at a time; as much again when half of it is sent.
const WAKE: usize = 64;
/// And their bytes; of a small outbox a quarter. The last one may exceed it.
const WAKE_BYTES: usize = 1024 * 1024;

impl Outbox {
    /// When [`maintain`](Self::maintain) has something to write, if nothing is acknowledged until then.
    #[must_use]
    pub fn next_maintenance(&self) -> Option<Instant> {
        self.spool.as_ref()?;
        let unwritten = self.entries.values().find(|e| e.is_unwritten())?;
        Some(unwritten.since + PATIENCE)
    }

    /// Writes what has waited too long.
    pub fn maintain(&mut self, now: Instant) {
        let due = self.next_maintenance().is_some_and(|at| now >= at);
        if due && self.storing.is_empty() {
            self.spill(false);
        }
    }

    /// Strict: hands over what is not written. A spool that refuses is asked again by [`maintain`](Self::maintain), one that is behind when it has answered.
    pub(super) fn write_at_once(&mut self) {
        if self.durability == Durability::Strict && self.problem.is_none() && !self.is_behind() {
            self.spill(true);
        }
    }

    /// The spool has more to write than it should be given: the rest would only be dropped later.
    pub(super) fn is_behind(&self) -> bool {
        self.storing_bytes() > self.limit_bytes / 2
    }

    pub(super) fn storing_bytes(&self) -> usize {
        self.storing.iter().sum()
    }

    /// Hands to the spool what it has not. What is in flight stays in memory as well; with `keep` everything does.
    pub(super) fn spill(&mut self, keep: bool) {
        if self.spool.is_none() {
            return;
        }
        let unwritten = self.entries.iter().filter(|(_, e)| e.is_unwritten());
        let keys: Vec<u64> = unwritten.map(|(key, _)| *key).collect();
        let mut waiting = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let awake = keep || entry.place == Place::InFlight;
            let payload = if awake {
                entry.disk = Disk::Asked;
                entry.payload.clone()
            } else {
                self.remove(key).and_then(|e| e.payload)
            };
            waiting.push(Waiting {
                key,
                payload: payload.unwrap_or_default(), // there is one: that was asked above
                awake,
            });
        }
        if let Some(spool) = self.spool.as_ref().filter(|_| !waiting.is_empty()) {
            let bytes = waiting.iter().map(|w| cost(Some(&w.payload))).sum();
            self.storing.push_back(bytes);
            spool.store(waiting);
        }
    }

    /// The end: everything is handed to the spool, which writes it and ends. `None`: there is no spool.
    pub fn close(&mut self) -> Option<std::thread::JoinHandle<()>> {
        for entry in self.entries.values_mut() {
            if entry.disk == Disk::Deleted {
                entry.disk = Disk::No; // the newer ones have been delivered meanwhile, or not: it is the last chance
            }
        }
        self.spill(true);
        self.spool.take().map(SpoolThread::stop)
    }

    /// Messages in memory that are not on disk.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        let written = |e: &&Entry| !matches!(e.disk, Disk::At(_));
        self.entries.values().filter(written).count() + self.let_go.len()
    }

    /// Takes what the spool's thread has to say.
    pub fn on_spool(&mut self, event: Event, now: Instant) {
        match event {
            Event::Opened(state) => {
                self.problem = None;
                self.learn(state);
                self.write_at_once();
            }
            Event::NotOpen(problem) => self.problem = Some(problem),
            Event::Stuck(problem) => self.stuck = problem,
            Event::Settled(state) => self.learn(state),
            Event::Stored(places, state) => {
                self.storing.pop_front();
                self.problem = None;
                self.stored(places, state.rewinds == self.rewinds);
                self.learn(state);
                self.write_at_once();
            }
            Event::Refused(messages, problem) => {
                self.storing.pop_front();
                self.problem = Some(problem);
                for message in messages {
                    self.refused(message, now);
                }
            }
            Event::Woken(messages, state) => {
                self.waking = false;
                // Of before a lost connection: they sleep again.
                let valid = state.rewinds == self.rewinds;
                for (place, payload) in messages.into_iter().filter(|_| valid) {
                    self.insert(payload, Place::Backlog, now, Disk::At(place));
                }
                self.learn(state);
            }
        }
        self.make_room();
        self.refill();
    }

    /// These are on disk, awake. Not `current`: a lost connection has put them to sleep since.
    fn stored(&mut self, places: Vec<(u64, Position)>, current: bool) {
        let mut asleep = Vec::new();
        for (key, place) in places {
            match self.entries.get_mut(&key) {
                Some(entry) if current || entry.place == Place::InFlight => {
                    entry.disk = Disk::At(place);
                }
                Some(_) => {
                    self.remove(key);
                }
                None if self.let_go.remove(&key) => asleep.push(place),
                // Acknowledged meanwhile.
                None => self.settle(place),
            }
        }
        self.sleep(asleep);
    }

    /// The spool could not write it.
    fn refused(&mut self, message: Waiting, now: Instant) {
        let Waiting {
            key,
            payload,
            awake,
        } = message;
        if let Some(entry) = self.entries.get_mut(&key) {
            self.bytes -= entry.size_bytes();
            (entry.disk, entry.since) = (Disk::No, now);
            entry.payload = Some(payload);
            self.bytes += entry.size_bytes();
        } else if self.let_go.remove(&key) || !awake {
            self.put(key, payload, Place::Backlog, now, Disk::No);
        }
    }

    /// What the spool deleted to keep its own bounds is on disk no more.
    fn learn(&mut self, state: State) {
        let oldest = state.oldest;
        if oldest != self.state.oldest {
            for entry in self.entries.values_mut() {
                if matches!(entry.disk, Disk::At(place) if place < oldest) {
                    entry.disk = Disk::Deleted;
                }
            }
        }
        let mut lost = 0;
        self.parting.retain(|place, told| {
            let knows = *told <= state.told; // then it counts for itself
            lost += u64::from(!knows && *place < oldest);
            !knows && *place >= oldest
        });
        if lost > 0 {
            *self.dropped.entry(DropReason::SpoolFull).or_default() += lost;
        }
        self.state = state;
        self.state.sleeps |= !self.parting.is_empty();
    }

    /// Reads more back from disk before the backlog in memory runs out. Not into memory that is half full: it would leave again at once.
    pub(super) fn refill(&mut self) {
        let Some(spool) = &self.spool else { return };
        let has_room = self.bytes <= self.limit_bytes / 2;
        if self.connected
            && self.state.sleeps
            && !self.waking
            && has_room
            && self.backlog < WAKE / 2
        {
            self.waking = true;
            spool.wake(WAKE, WAKE_BYTES.min(self.limit_bytes / 4));
        }
    }

    pub(super) fn settle(&mut self, place: Position) {
        if let Some(spool) = &self.spool {
            spool.settle(vec![place]);
        }
    }

    pub(super) fn sleep(&mut self, places: Vec<Position>) {
        if let Some(spool) = self.spool.as_ref().filter(|_| !places.is_empty()) {
            spool.sleep(places.clone());
            self.part(&places);
        }
    }

    /// These are on disk only, and the spool was just told so.
    pub(super) fn part(&mut self, places: &[Position]) {
        self.told += 1;
        let told = self.told;
        self.parting.extend(places.iter().map(|p| (*p, told)));
        self.state.sleeps = true;
    }
}
