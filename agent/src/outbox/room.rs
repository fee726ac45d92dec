//! The bound on memory, and what gives way when it is reached: first what is on disk as well, then what can be written, and last the oldest messages, which are counted.

use super::entry::{Disk, Entry, Place};
use super::{DropReason, Outbox};

impl Outbox {
    /// Keeps the bound: by forgetting what is on disk or on its way there, then by writing, and by dropping only if the spool refuses, or owes an answer for so long
    /// that memory and what it was handed are over twice the bound.
    pub(super) fn make_room(&mut self) {
        if self.bytes > self.limit_bytes && self.spool.is_some() {
            self.forget_payloads();
            self.forget_what_is_on_disk();
            if self.bytes > self.limit_bytes && self.problem.is_none() && !self.is_behind() {
                self.spill(false);
                self.forget_payloads();
            }
        }
        let is_awaited = !self.storing.is_empty() && self.problem.is_none();
        let most = if is_awaited {
            (2 * self.limit_bytes).saturating_sub(self.storing_bytes())
        } else {
            self.limit_bytes
        };
        while self.bytes > most {
            let Some(key) = self.victim() else { break };
            self.remove(key);
            self.drop_one(DropReason::OutboxFull);
        }
    }

    /// Of what is in flight, the bytes are needed only if the connection is lost; then it is read from disk.
    fn forget_payloads(&mut self) {
        let in_flight = self
            .entries
            .values_mut()
            .filter(|e| e.place == Place::InFlight && e.disk.has_it() && e.payload.is_some());
        for entry in in_flight {
            self.bytes -= entry.size_bytes();
            entry.payload = None;
            self.bytes += entry.size_bytes();
        }
    }

    /// Until the bound holds: backlog that was read too early, then the oldest live messages.
    fn forget_what_is_on_disk(&mut self) {
        let (mut excess, mut keys) = (self.bytes.saturating_sub(self.limit_bytes), Vec::new());
        for place in [Place::Backlog, Place::Live] {
            let there = self.entries.iter().filter(|(_, e)| e.place == place);
            for (key, entry) in there.filter(|(_, e)| e.disk.has_it()) {
                if excess == 0 {
                    break;
                }
                excess = excess.saturating_sub(entry.size_bytes());
                keys.push(*key);
            }
        }
        let mut asleep = Vec::new();
        for key in keys {
            match self.remove(key).map(|e| e.disk) {
                Some(Disk::At(place)) => asleep.push(place),
                Some(Disk::Asked) => {
                    self.let_go.insert(key);
                }
                Some(Disk::No | Disk::Deleted) | None => {}
            }
        }
        self.sleep(asleep);
    }

    pub(super) fn drop_one(&mut self, reason: DropReason) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    /// The oldest message that is neither in flight nor on disk, else the oldest of all, but never the newest.
    fn victim(&self) -> Option<u64> {
        let newest = *self.entries.last_key_value()?.0;
        let only_here = |e: &Entry| e.payload.is_some() && !e.disk.has_it();
        let in_memory = || self.entries.iter().filter(|(_, e)| only_here(e));
        let waiting = in_memory()
            .find(|(_, e)| e.place != Place::InFlight)
            .map(|(key, _)| *key)
            .filter(|key| *key != newest);
        let oldest = in_memory().map(|(key, _)| *key).next()?;
        waiting.or((oldest != newest).then_some(oldest))
    }
}
