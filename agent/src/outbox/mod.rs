//! What is not yet acknowledged: messages wait here from the moment they are packed until the broker's PUBACK.
//!
//! Live data goes first: after an outage the newest message leaves at once, and what gathered meanwhile follows as backlog, oldest first.
//!
//! While the broker answers, messages are in memory only and nothing is written to disk. What is not acknowledged within [`PATIENCE`] is handed to the [`spool`](crate::spool) and leaves memory, unless
//! it is just being sent; [`Durability::Strict`] writes each message at once. So a kill -9 or a power cut costs what was measured in the last seconds of an
//! outage, or nothing. A spool that can not be written gives its messages back, and they wait in memory.
//!
//! Memory is bounded by bytes. When it is full, what is on disk as well leaves it first and is read again later, then what is not is written. Only when the spool refuses, the oldest messages are
//! dropped and counted by [`DropReason`], for a fresh value is worth more than an old one. While a disk that stalls owes an answer, memory may hold [twice the bound](Outbox::make_room); beyond it
//! messages are dropped all the same.
//!
//! Here is the line that messages stand in; [`entry`] is one of them, [`disk`] what passes between memory and the spool, [`room`] keeps the bound, [`drops`] lists why messages are given up.

mod disk;
mod drops;
mod entry;
mod room;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use devmon_core::journal::Position;
use serde::Deserialize;

pub use disk::PATIENCE;
pub use drops::DropReason;

use crate::spool::{SpoolThread, State};
use entry::{Disk, Entry, OVERHEAD_BYTES, Place};

/// Default bound in memory: some 5 000 messages of a small device, over an hour at 1 s.
pub const DEFAULT_BYTES: usize = 8 * 1024 * 1024;

/// When messages are written to disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When the broker does not answer, and at the end.
    #[default]
    Relaxed,
    /// Each, at once.
    Strict,
}

/// Messages in memory, and what the spool has behind them. Called by one task at a time.
#[derive(Debug)]
pub struct Outbox {
    limit_bytes: usize,
    bytes: usize,
    durability: Durability,
    /// By number in order of arrival, so oldest first.
    entries: BTreeMap<u64, Entry>,
    next_key: u64,
    /// Entries at each place, so that nobody searches for what is not there.
    live: usize,
    backlog: usize,
    dropped: BTreeMap<DropReason, u64>,
    spool: Option<SpoolThread>,
    /// As the spool's thread last said.
    state: State,
    /// Why it takes nothing.
    problem: Option<String>,
    /// Why it deletes nothing.
    stuck: Option<String>,
    /// Bytes of each order to store that is not answered yet.
    storing: VecDeque<usize>,
    /// Left memory while they were being stored.
    let_go: BTreeSet<u64>,
    /// Left memory for they are on disk, and the spool has not yet said that it knows: with the number of the order that tells it.
    parting: BTreeMap<Position, u64>,
    /// How often the spool was told that messages sleep again.
    told: u64,
    waking: bool,
    connected: bool,
    /// How often the spool was rewound.
    rewinds: u64,
}

impl Outbox {
    #[must_use]
    pub fn new(limit_bytes: usize, durability: Durability) -> Self {
        Self {
            limit_bytes,
            bytes: 0,
            durability,
            entries: BTreeMap::new(),
            next_key: 0,
            live: 0,
            backlog: 0,
            dropped: BTreeMap::new(),
            spool: None,
            state: State::default(),
            problem: None,
            stuck: None,
            storing: VecDeque::new(),
            let_go: BTreeSet::new(),
            parting: BTreeMap::new(),
            told: 0,
            waking: false,
            connected: false,
            rewinds: 0,
        }
    }

    /// Gives it a spool; the spool's events come back through [`on_spool`](Self::on_spool).
    pub fn set_spool(&mut self, spool: SpoolThread) {
        self.spool = Some(spool);
    }

    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// True if it is worth waiting a moment with a message of this size: there is no room for it, and the broker or the spool is about to make some.
    #[must_use]
    pub fn is_busy(&self, payload_bytes: usize) -> bool {
        let writes_at_once =
            self.durability == Durability::Strict && self.spool.is_some() && self.problem.is_none();
        // What waits is not on disk. So a strict outbox takes it as long as nothing is dropped for it.
        let most = if writes_at_once {
            2 * self.limit_bytes
        } else {
            self.limit_bytes
        };
        let is_full = self.size_bytes() + payload_bytes + OVERHEAD_BYTES > most;
        let in_flight = self.entries.len() - self.live - self.backlog;
        let spool_answers = self.problem.is_none() && !self.storing.is_empty();
        is_full && (self.connected && in_flight > 0 || spool_answers)
    }

    /// Takes a message. May drop older ones.
    pub fn push(&mut self, payload: Vec<u8>, now: Instant) {
        self.insert(payload, Place::Live, now, Disk::No);
        self.write_at_once();
        self.make_room();
    }

    fn insert(&mut self, payload: Vec<u8>, place: Place, since: Instant, disk: Disk) {
        let key = self.next_key;
        self.next_key += 1;
        self.put(key, payload, place, since, disk);
    }

    fn put(&mut self, key: u64, payload: Vec<u8>, place: Place, since: Instant, disk: Disk) {
        self.count(place, 1);
        let entry = Entry {
            payload: Some(payload),
            place,
            since,
            disk,
        };
        self.bytes += entry.size_bytes();
        self.entries.insert(key, entry);
    }

    /// The next message to send: live first, then backlog if `backlog` allows. It counts as in flight from here.
    pub fn next(&mut self, backlog: bool) -> Option<(u64, Vec<u8>)> {
        let place = match (self.live, self.backlog) {
            (1.., _) => Place::Live,
            (0, 1..) if backlog => Place::Backlog,
            _ => return None,
        };
        // Live messages are the newest: a search from the end finds the first of the few there are, in their order.
        let found = if place == Place::Live {
            let newest_first = self.entries.iter().rev().filter(|(_, e)| e.place == place);
            newest_first.take(self.live).last()
        } else {
            self.entries.iter().find(|(_, e)| e.place == place)
        };
        let key = *found?.0;
        self.count(place, -1);
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::InFlight;
        let payload = entry.payload.clone()?; // only what is in flight has none
        self.refill();
        Some((key, payload))
    }

    /// The broker has it. Unknown numbers are ignored: it may have been dropped meanwhile.
    pub fn acknowledged(&mut self, key: u64) {
        if let Some(entry) = self.remove(key)
            && let Disk::At(place) = entry.disk
        {
            self.settle(place);
        }
        self.refill();
    }

    /// The connection is gone: what was in flight or live is backlog now; what is on disk as well leaves memory.
    pub fn disconnected(&mut self) {
        self.connected = false;
        (self.bytes, self.live, self.backlog) = (0, 0, 0);
        let mut on_disk = Vec::new();
        for (key, entry) in std::mem::take(&mut self.entries) {
            match (entry.disk, entry.payload) {
                (Disk::At(place), _) => on_disk.push(place),
                (disk, Some(payload)) => {
                    self.put(key, payload, Place::Backlog, entry.since, disk);
                }
                (Disk::Asked, None) => {
                    self.let_go.insert(key);
                }
                // It was in flight only: neither here nor on disk any more.
                (Disk::No | Disk::Deleted, None) => self.drop_one(DropReason::SpoolFull),
            }
        }
        if let Some(spool) = self.spool.as_ref().filter(|_| !on_disk.is_empty()) {
            self.rewinds += 1;
            spool.rewind();
            self.part(&on_disk);
        }
    }

    /// A connection stands: the newest message is live, all before it are backlog.
    pub fn connected(&mut self) {
        self.disconnected();
        self.connected = true;
        if let Some(mut newest) = self.entries.last_entry() {
            newest.get_mut().place = Place::Live;
            self.live += 1;
            self.backlog -= 1;
        }
        self.refill();
    }

    fn remove(&mut self, key: u64) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.bytes -= entry.size_bytes();
        self.count(entry.place, -1);
        Some(entry)
    }

    fn count(&mut self, place: Place, by: isize) {
        match place {
            Place::Live => self.live = self.live.saturating_add_signed(by),
            Place::Backlog => self.backlog = self.backlog.saturating_add_signed(by),
            Place::InFlight => {}
        }
    }

    /// Is there backlog in memory to send?
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.backlog > 0
    }

    /// Messages in memory that are not yet acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if all is acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && !self.state.sleeps
            && self.storing.is_empty()
            && self.parting.is_empty()
            && !self.waking
    }

    /// Bytes in memory, with those that the spool was handed and has not answered for.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes + self.storing_bytes()
    }

    /// The spool as it last said, and why it takes or deletes nothing.
    #[must_use]
    pub fn spool(&self) -> (State, Option<&str>) {
        (
            self.state,
            self.problem.as_deref().or(self.stuck.as_deref()),
        )
    }

    /// Messages dropped since the start, by reason.
    #[must_use]
    pub fn dropped(&self) -> BTreeMap<DropReason, u64> {
        let mut dropped = self.dropped.clone();
        let given_up = self.state.given_up;
        for (reason, count) in [
            (DropReason::SpoolFull, given_up.full),
            (DropReason::SpoolAge, given_up.aged),
            (DropReason::SpoolDamaged, given_up.damaged),
        ] {
            if count > 0 {
                *dropped.entry(reason).or_default() += count;
            }
        }
        dropped
    }
}
