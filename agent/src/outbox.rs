//! What is not yet acknowledged: messages wait here from the moment they are packed until the broker's PUBACK.
//!
//! Live data goes first: after an outage the newest message leaves at once, and what gathered meanwhile follows as backlog, oldest first. The outbox is bounded by bytes; when it is
//! full the oldest messages are dropped and counted by [`DropReason`], for a fresh value is worth more than an old one and memory is the agent's to keep small. A message is
//! known by its seq, which only grows.
//!
//! [`Outbox`] is the seam for the spool on disk, which is not built yet: it will wrap a [`MemoryOutbox`] and take over what would be dropped here.

use std::collections::BTreeMap;

use devmon_core::wire::pack::Packed;

/// Default bound: some 5 000 messages of a small device, over an hour at 1 s.
pub const DEFAULT_BYTES: usize = 8 * 1024 * 1024;
/// What a message costs beside its payload: map entry, vector header, allocator.
const OVERHEAD_BYTES: usize = 96;

/// Why a message was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// The outbox was full, and this was the oldest message.
    OutboxFull,
    /// The agent ended before the broker had acknowledged it.
    Shutdown,
}

impl DropReason {
    /// The name in logs and counters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutboxFull => "outbox_full",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Where messages wait. Called by one task at a time.
pub trait Outbox: Send {
    /// Takes a message. May drop older ones.
    fn push(&mut self, message: Packed);
    /// The next message to send: live first, then backlog if `backlog` allows. It counts as in flight from here.
    fn next(&mut self, backlog: bool) -> Option<(u64, Vec<u8>)>;
    /// The broker has it. Unknown numbers are ignored: it may have been dropped meanwhile.
    fn acknowledged(&mut self, seq: u64);
    /// The connection is gone: what was in flight or live is backlog now.
    fn disconnected(&mut self);
    /// A connection stands: the newest message is live, all before it are backlog.
    fn connected(&mut self);
    /// Is there backlog to send?
    fn has_backlog(&self) -> bool;
    /// Messages not yet acknowledged.
    fn len(&self) -> usize;
    /// True if all is acknowledged.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Messages dropped so far, by reason.
    fn dropped(&self) -> &BTreeMap<DropReason, u64>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Live,
    Backlog,
    InFlight,
}

#[derive(Debug)]
struct Entry {
    payload: Vec<u8>,
    place: Place,
}

/// An outbox in memory.
#[derive(Debug)]
pub struct MemoryOutbox {
    limit_bytes: usize,
    bytes: usize,
    /// By seq, so oldest first.
    entries: BTreeMap<u64, Entry>,
    /// Entries at each place, so that nobody searches for what is not there.
    live: usize,
    backlog: usize,
    dropped: BTreeMap<DropReason, u64>,
}

impl MemoryOutbox {
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            bytes: 0,
            entries: BTreeMap::new(),
            live: 0,
            backlog: 0,
            dropped: BTreeMap::new(),
        }
    }

    fn remove(&mut self, seq: u64) {
        if let Some(entry) = self.entries.remove(&seq) {
            self.bytes -= entry.payload.len() + OVERHEAD_BYTES;
            self.count(entry.place, -1);
        }
    }

    fn count(&mut self, place: Place, by: isize) {
        match place {
            Place::Live => self.live = self.live.saturating_add_signed(by),
            Place::Backlog => self.backlog = self.backlog.saturating_add_signed(by),
            Place::InFlight => {}
        }
    }

    /// The oldest message that is not in flight, else the oldest of all, but never the newest.
    fn victim(&self) -> Option<u64> {
        let newest = *self.entries.last_key_value()?.0;
        let waiting = self
            .entries
            .iter()
            .find(|(_, e)| e.place != Place::InFlight)
            .map(|(seq, _)| *seq)
            .filter(|seq| *seq != newest);
        let oldest = *self.entries.first_key_value()?.0;
        waiting.or((oldest != newest).then_some(oldest))
    }
}

impl Outbox for MemoryOutbox {
    fn push(&mut self, message: Packed) {
        self.bytes += message.payload.len() + OVERHEAD_BYTES;
        let entry = Entry {
            payload: message.payload,
            place: Place::Live,
        };
        self.entries.insert(message.seq, entry);
        self.live += 1;
        while self.bytes > self.limit_bytes {
            let Some(seq) = self.victim() else { break };
            self.remove(seq);
            *self.dropped.entry(DropReason::OutboxFull).or_default() += 1;
        }
    }

    fn next(&mut self, backlog: bool) -> Option<(u64, Vec<u8>)> {
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
        let seq = *found?.0;
        self.count(place, -1);
        let entry = self.entries.get_mut(&seq)?;
        entry.place = Place::InFlight;
        Some((seq, entry.payload.clone()))
    }

    fn acknowledged(&mut self, seq: u64) {
        self.remove(seq);
    }

    fn disconnected(&mut self) {
        for entry in self.entries.values_mut() {
            entry.place = Place::Backlog;
        }
        (self.live, self.backlog) = (0, self.entries.len());
    }

    fn connected(&mut self) {
        self.disconnected();
        if let Some(mut newest) = self.entries.last_entry() {
            newest.get_mut().place = Place::Live;
            self.live += 1;
            self.backlog -= 1;
        }
    }

    fn has_backlog(&self) -> bool {
        self.backlog > 0
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn dropped(&self) -> &BTreeMap<DropReason, u64> {
        &self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(seq: u64, size: usize) -> Packed {
        Packed {
            seq,
            payload: vec![b'x'; size],
        }
    }

    fn drain(outbox: &mut MemoryOutbox, backlog: bool) -> Vec<u64> {
        std::iter::from_fn(|| outbox.next(backlog).map(|(seq, _)| seq)).collect()
    }

    #[test]
    fn live_data_goes_first_and_the_backlog_in_order() {
        let mut outbox = MemoryOutbox::new(DEFAULT_BYTES);
        for seq in 0..4 {
            outbox.push(message(seq, 10));
        }
        assert_eq!(drain(&mut outbox, true), [0, 1, 2, 3]);
        outbox.acknowledged(1);
        outbox.disconnected();
        outbox.push(message(4, 10));
        outbox.push(message(5, 10));
        outbox.connected();
        assert!(outbox.has_backlog());
        outbox.push(message(6, 10));
        let live = drain(&mut outbox, false);
        assert_eq!(live, [5, 6], "no backlog unless allowed");
        assert_eq!(drain(&mut outbox, true), [0, 2, 3, 4]);
        outbox.acknowledged(6);
        for seq in [0, 2, 3, 4, 5] {
            outbox.acknowledged(seq);
        }
        assert!(outbox.is_empty() && outbox.bytes == 0);
    }

    #[test]
    fn the_oldest_is_dropped_and_counted_when_full() {
        let each = 1_000 + OVERHEAD_BYTES;
        let mut outbox = MemoryOutbox::new(3 * each);
        for seq in 0..5 {
            outbox.push(message(seq, 1_000));
        }
        assert_eq!(outbox.dropped()[&DropReason::OutboxFull], 2);
        assert_eq!(drain(&mut outbox, true), [2, 3, 4]);
        // All in flight: a broker that answers nothing. The bound holds, the newest stays.
        outbox.push(message(5, 1_000));
        assert_eq!((outbox.len(), drain(&mut outbox, true)), (3, vec![5]));
        outbox.acknowledged(2); // dropped meanwhile
        assert_eq!(outbox.len(), 3);
    }

    #[test]
    fn a_single_message_over_the_bound_is_kept() {
        let mut outbox = MemoryOutbox::new(100);
        outbox.push(message(0, 1_000));
        assert_eq!(drain(&mut outbox, true), [0]);
    }
}
