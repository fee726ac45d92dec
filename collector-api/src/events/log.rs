//! Events by number: all of the last ones, and of each thing its newest.
//!
//! Two lists of the same events, each bounded by bytes. The **recent** ones are all there are behind a number: who has kept up gets every event. The **newest** ones are, of
//! each device's sources, of its status and so on, the last event: who has not kept up, or does not want all, gets these, by number as well. What both have lost is a gap.
//!
//! Of the samples of one source, the newest are those with the highest time: a backlog that comes late does not stand for how things are.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::event::{Event, Kind, Slot};

/// Bound on each of the two lists, as estimated; they share most events. At 100 devices of 50 metrics a second, a recent list of a minute.
pub const MAX_BYTES: usize = 32 << 20;
/// Most events that are read at once: bounds how long the log is locked.
const READ_AT_ONCE: usize = 256;

/// Some events that were read.
#[derive(Debug, Default)]
pub struct Batch {
    /// By number.
    pub events: Vec<Arc<Event>>,
    /// The number to read from next.
    pub next: u64,
}

/// The log.
#[derive(Debug)]
pub struct Log {
    open: bool,
    /// The number of the next event.
    next: u64,
    /// Without holes; the last one is `next - 1`.
    recent: VecDeque<Arc<Event>>,
    recent_bytes: usize,
    newest: BTreeMap<u64, Arc<Event>>,
    newest_bytes: usize,
    /// Where in `newest` to find what.
    places: HashMap<Arc<str>, Vec<(Slot, u64)>>,
    /// Of the events before this number, a newest one may be gone.
    floor: u64,
    most_bytes: usize,
}

impl Default for Log {
    fn default() -> Self {
        Self::bounded(MAX_BYTES)
    }
}

impl Log {
    pub(super) fn bounded(most_bytes: usize) -> Self {
        Self {
            open: false,
            next: 1,
            recent: VecDeque::new(),
            recent_bytes: 0,
            newest: BTreeMap::new(),
            newest_bytes: 0,
            places: HashMap::new(),
            floor: 1,
            most_bytes,
        }
    }

    /// The number of the next event.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether events are written.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn open(&mut self) {
        self.open = true;
    }

    /// From now on no events are written; what was is given up.
    pub(super) fn close(&mut self) {
        self.hole();
        self.open = false;
    }

    /// Something is missing here: nothing before it leads up to what comes after it.
    pub(super) fn hole(&mut self) {
        let (open, most_bytes) = (self.open, self.most_bytes);
        let next = self.next + 1;
        *self = Self {
            open,
            next,
            floor: next,
            ..Self::bounded(most_bytes)
        };
    }

    /// Writes events, and numbers them.
    pub(super) fn push(&mut self, events: Vec<Event>) {
        for mut event in events {
            event.seq = self.next;
            self.next += 1;
            let event = Arc::new(event);
            self.recent_bytes += event.size_bytes();
            self.recent.push_back(event.clone());
            self.renew(event);
        }
        while self.recent_bytes > self.most_bytes
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.size_bytes();
        }
        while self.newest_bytes > self.most_bytes
            && let Some((seq, oldest)) = self.newest.pop_first()
        {
            self.newest_bytes -= oldest.size_bytes();
            self.floor = seq + 1;
            if let Some(places) = self.places.get_mut(&oldest.device) {
                places.retain(|(_, at)| *at != seq);
                if places.is_empty() {
                    self.places.remove(&oldest.device);
                }
            }
        }
    }

    /// Takes the event for the newest of its kind, if it is.
    fn renew(&mut self, event: Arc<Event>) {
        if !self.places.contains_key(&event.device) {
            self.places.insert(event.device.clone(), Vec::new());
        }
        let Some(places) = self.places.get_mut(&event.device) else {
            return; // it was put there just now
        };
        match places.iter_mut().find(|(slot, _)| event.is_of(slot)) {
            Some((_, at)) => {
                let before = self.newest.get(at);
                let late =
                    |before: &Arc<Event>| event.kind() == Kind::Samples && before.ts() > event.ts();
                if before.is_some_and(late) {
                    return;
                }
                if let Some(before) = self.newest.remove(at) {
                    self.newest_bytes -= before.size_bytes();
                }
                *at = event.seq;
            }
            None => places.push((event.slot(), event.seq)),
        }
        self.newest_bytes += event.size_bytes();
        self.newest.insert(event.seq, event);
    }

    /// Of the events before this number, a newest one may be lost.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Some of all events from a number on; `None`: not all are there any more.
    pub(super) fn every(&self, from: u64) -> Option<Batch> {
        let first = self.next - self.recent.len() as u64;
        let begin = usize::try_from(from.checked_sub(first)?).ok()?;
        let begin = begin.min(self.recent.len());
        let end = self.recent.len().min(begin + READ_AT_ONCE);
        Some(Batch {
            events: self.recent.range(begin..end).cloned().collect(),
            next: from.max(first + end as u64),
        })
    }

    /// Some of the newest events of their kind from a number on, before `end`.
    pub(super) fn newest(&self, from: u64, end: u64) -> Batch {
        let end = end.min(self.next).max(from);
        let events = self.newest.range(from..end);
        let events: Vec<_> = events.take(READ_AT_ONCE).map(|(_, e)| e.clone()).collect();
        let next = match events.last() {
            Some(last) if events.len() == READ_AT_ONCE => last.seq + 1,
            _ => end,
        };
        Batch { events, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::event::What;
    use devmon_core::wire::{FlatMessage, TimestampMs};

    fn samples(device: &str, source: &str, ts: i64) -> Event {
        let text = format!(
            r#"{{"v":1,"boot":"B","seq":1,"frames":[{{"ts":{ts},"source":"{source}","metrics":{{"a":1}}}}]}}"#
        );
        let mut message = FlatMessage::decode(text.as_bytes()).unwrap();
        Event::new(device.into(), What::Samples(message.frames.remove(0)))
    }

    fn forgotten(device: &str, ts: i64) -> Event {
        let (is_there, ts) = (false, TimestampMs(ts));
        Event::new(device.into(), What::Device { is_there, ts })
    }

    fn seqs(batch: &Batch) -> Vec<u64> {
        batch.events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn all_are_there_until_the_bytes_are_used_up_and_of_each_thing_the_newest_stays() {
        let size = samples("a", "cpu", 0).size_bytes();
        let mut log = Log::bounded(10 * size);
        log.push(vec![
            samples("quiet", "cpu", 1),
            samples("a", "cpu", 1),
            samples("a", "disk", 1),
        ]);
        assert_eq!(seqs(&log.every(1).unwrap()), [1, 2, 3]);
        for ts in 2..22 {
            log.push(vec![samples("a", "cpu", ts)]);
        }
        assert!(log.recent_bytes <= 10 * size);
        assert!(log.every(1).is_none(), "the first ones had to go");
        let first = 24 - log.recent.len() as u64;
        assert_eq!(
            seqs(&log.every(first).unwrap()),
            (first..24).collect::<Vec<_>>()
        );
        assert_eq!(log.every(24).unwrap().next, 24);
        let newest = log.newest(1, u64::MAX);
        assert_eq!((seqs(&newest), newest.next), (vec![1, 3, 23], 24));
        assert_eq!(seqs(&log.newest(1, 23)), [1, 3]);
        assert_eq!(log.floor(), 1, "no newest one was lost");

        // More things than there is room for.
        log.push(
            (0..20)
                .map(|n| samples(&format!("d{n}"), "cpu", 1))
                .collect(),
        );
        assert!(log.newest_bytes <= 10 * size && log.floor() > 1);
        let kept: usize = log.places.values().map(Vec::len).sum();
        assert_eq!(kept, log.newest.len(), "no place without its event");
        assert_eq!(seqs(&log.newest(log.floor(), u64::MAX)).len(), kept);
    }

    #[test]
    fn late_samples_do_not_stand_for_how_things_are_and_a_clock_put_back_does_not_hide_them() {
        let mut log = Log::default();
        log.push(vec![
            samples("a", "cpu", 50),
            samples("a", "cpu", 10),
            forgotten("a", 50),
            forgotten("a", 10),
        ]);
        assert_eq!(seqs(&log.newest(1, u64::MAX)), [1, 4]);
        assert_eq!(seqs(&log.every(1).unwrap()), [1, 2, 3, 4]);
    }

    #[test]
    fn nothing_leads_over_a_hole() {
        let mut log = Log::default();
        log.push(vec![samples("a", "cpu", 1)]);
        log.hole();
        log.push(vec![samples("a", "disk", 1)]);
        assert!(log.every(2).is_none());
        assert_eq!(seqs(&log.every(3).unwrap()), [3]);
        assert_eq!((log.floor(), seqs(&log.newest(1, 9))), (3, vec![3]));
    }

    #[test]
    fn much_is_read_in_parts() {
        let mut log = Log::default();
        let many = 2 * READ_AT_ONCE as u64 + 1;
        log.push(
            (0..many)
                .map(|n| samples(&format!("d{n}"), "cpu", 1))
                .collect(),
        );
        for read in [
            &|log: &Log, from| log.every(from).unwrap() as Batch,
            &|log: &Log, from| log.newest(from, u64::MAX),
        ] as [&dyn Fn(&Log, u64) -> Batch; 2]
        {
            let (mut all, mut next) = (Vec::new(), 1);
            while next < log.next() {
                let batch = read(&log, next);
                assert!(batch.events.len() <= READ_AT_ONCE);
                all.extend(seqs(&batch));
                next = batch.next;
            }
            assert_eq!(all, (1..=many).collect::<Vec<_>>());
        }
    }
}
