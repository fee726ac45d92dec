//! Which messages of a device were committed before: the window of [`MessageId`]s.
//!
//! For each boot of the agent it keeps the sequence numbers seen as merged ranges: live data first, backlog later leaves a hole that closes again, so there are
//! few. An id is called a repeat only if it lies in a range, that is: it was committed. Both bounds forget towards "new": a forgotten id that comes
//! again is stored again, and (series, time) makes that harmless; a message that was never seen is never dropped.
//!
//! | bytes | boots of a device, version with the device's record |
//! |---|---|
//! | varint | number of boots, oldest first |
//! | text, varint | each: boot id, number of ranges |
//! | varint, varint | each range: distance of its first number from the last one's end, its length |

use devmon_core::wire::MessageId;

use super::varint::{Cursor, Malformed, put_bytes, put_u64};

/// Boots remembered for each device. Old ones matter only while their backlog drains; an agent that restarts 8 times meanwhile has other troubles.
const MAX_BOOTS: usize = 8;
/// Ranges remembered for each boot; each hole is a message that has not come yet. Over it the lowest range is forgotten.
const MAX_RANGES: usize = 1024;

/// The window of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The one used last is last.
    boots: Vec<Boot>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Boot {
    id: Box<str>,
    /// First and last number of each range: sorted, disjoint, not touching.
    ranges: Vec<(u64, u64)>,
}

impl Seen {
    /// True if this message was committed before.
    pub(super) fn contains(&self, id: &MessageId) -> bool {
        let boot = self.boots.iter().rev().find(|boot| boot.id == id.boot);
        boot.is_some_and(|boot| boot.contains(id.seq))
    }

    /// Remembers a committed message.
    pub(super) fn insert(&mut self, id: &MessageId) {
        let known = self.boots.iter().rposition(|boot| boot.id == id.boot);
        match known {
            Some(at) if at + 1 == self.boots.len() => {}
            Some(at) => self.boots[at..].rotate_left(1),
            None => {
                if self.boots.len() == MAX_BOOTS {
                    self.boots.remove(0);
                }
                self.boots.push(Boot {
                    id: id.boot.clone(),
                    ranges: Vec::new(),
                });
            }
        }
        if let Some(boot) = self.boots.last_mut() {
            boot.insert(id.seq);
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.boots.len() as u64);
        for boot in &self.boots {
            put_bytes(out, boot.id.as_bytes());
            put_u64(out, boot.ranges.len() as u64);
            let mut end = 0;
            for &(first, last) in &boot.ranges {
                put_u64(out, first - end);
                put_u64(out, last - first);
                end = last;
            }
        }
    }

    pub(super) fn decode(from: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let mut boots = Vec::new();
        for _ in 0..from.count(MAX_BOOTS)? {
            let id = from.text()?.into();
            let mut ranges = Vec::new();
            let mut end = 0u64;
            for _ in 0..from.count(MAX_RANGES)? {
                let beyond = Malformed("a sequence number beyond 64 bits");
                let first = end.checked_add(from.u64()?).ok_or(beyond)?;
                end = first.checked_add(from.u64()?).ok_or(beyond)?;
                ranges.push((first, end));
            }
            boots.push(Boot { id, ranges });
        }
        Ok(Self { boots })
    }
}

impl Boot {
    fn contains(&self, seq: u64) -> bool {
        let behind = self.ranges.partition_point(|&(first, _)| first <= seq);
        behind > 0 && seq <= self.ranges[behind - 1].1
    }

    fn insert(&mut self, seq: u64) {
        let at = self.ranges.partition_point(|&(first, _)| first <= seq);
        if at > 0 && seq <= self.ranges[at - 1].1 {
            return;
        }
        let joins_left = at > 0 && self.ranges[at - 1].1 + 1 == seq;
        let joins_right = self
            .ranges
            .get(at)
            .is_some_and(|&(first, _)| seq + 1 == first);
        match (joins_left, joins_right) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = seq,
            (false, true) => self.ranges[at].0 = seq,
            (false, false) => {
                self.ranges.insert(at, (seq, seq));
                if self.ranges.len() > MAX_RANGES {
                    self.ranges.remove(0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn id(boot: &str, seq: u64) -> MessageId {
        MessageId {
            boot: boot.into(),
            seq,
        }
    }

    proptest! {
        #[test]
        fn the_window_is_the_set_of_what_was_inserted(inserts in prop::collection::vec(("[ab]", 0u64..60), 0..120)) {
            let mut seen = Seen::default();
            let mut model = HashSet::new();
            for (boot, seq) in &inserts {
                seen.insert(&id(boot, *seq));
                model.insert((boot.clone(), *seq));
            }
            let mut bytes = Vec::new();
            seen.encode(&mut bytes);
            prop_assert_eq!(&Seen::decode(&mut Cursor(&bytes)).unwrap(), &seen);
            for boot in ["a", "b", "c"] {
                for seq in 0..61 {
                    prop_assert_eq!(seen.contains(&id(boot, seq)), model.contains(&(boot.to_owned(), seq)));
                }
            }
        }
    }

    #[test]
    fn live_first_and_backlog_later_leaves_one_range() {
        let mut seen = Seen::default();
        for seq in (500..600).chain((0..500).rev()) {
            assert!(!seen.contains(&id("a", seq)));
            seen.insert(&id("a", seq));
        }
        assert_eq!(seen.boots[0].ranges, [(0, 599)]);
    }

    #[test]
    fn both_bounds_forget_towards_new() {
        let mut seen = Seen::default();
        for n in 0..=MAX_RANGES as u64 {
            seen.insert(&id("a", n * 2));
        }
        assert!(!seen.contains(&id("a", 0)), "the lowest range is forgotten");
        assert!(seen.contains(&id("a", 2)));
        assert!(!seen.contains(&id("a", 3)), "a hole is not seen");
        for n in 0..MAX_BOOTS {
            seen.insert(&id(&format!("boot{n}"), 0));
        }
        assert!(
            !seen.contains(&id("a", 2)),
            "the boot unused for longest is forgotten"
        );
        assert!(seen.contains(&id("boot0", 0)));
    }

    #[test]
    fn the_last_number_of_all_is_no_trap() {
        let mut seen = Seen::default();
        for seq in [u64::MAX, u64::MAX - 1, 0] {
            seen.insert(&id("a", seq));
        }
        assert!(seen.contains(&id("a", u64::MAX)));
        seen.insert(&id("a", u64::MAX));
        assert_eq!(seen.boots[0].ranges, [(0, 0), (u64::MAX - 1, u64::MAX)]);
    }
}
