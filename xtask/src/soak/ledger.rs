//! What was sent and what was acknowledged, as ranges: a soak of hours takes some kilobytes.
//!
//! A device's ticks are numbered; [`FRAMES`] of them make a **chunk**, which is one message. Which boot and number it has follows from its own number, so that it can be
//! sent again at any time, and its values follow from device and tick ([`Shape`](crate::load::Shape)).
//!
//! [`SLOTS`] devices send at a time. Each lives for [`LIFE_CHUNKS`] and is followed by a new one; they begin spread over that time, so that there is always a young and an old one.

use std::collections::BTreeMap;

use crate::load::Message;

/// Ticks in a message.
pub(super) const FRAMES: u16 = 5;
/// Added to a boot: the same samples in a message of another name.
const OTHER_BOOT: u32 = 50_000_000;
/// Chunks of one boot: so many that the store remembers all boots of a device, under both names.
const BOOT_CHUNKS: u32 = 2048;
/// Devices that send at a time.
pub(super) const SLOTS: u32 = 6;
/// Chunks of a device: twenty days at one tick a minute.
pub(super) const LIFE_CHUNKS: u32 = 5760;

/// A set of numbers, kept as disjoint ranges that do not touch.
#[derive(Debug, Default, Clone)]
pub(super) struct Ranges(BTreeMap<u32, u32>);

impl Ranges {
    pub(super) fn contains(&self, n: u32) -> bool {
        let at = self.0.range(..=n).next_back();
        at.is_some_and(|(_, end)| n < *end)
    }

    pub(super) fn insert(&mut self, n: u32) {
        if self.contains(n) {
            return;
        }
        let end = self.0.remove(&(n + 1)).unwrap_or(n + 1);
        match self.0.range_mut(..n).next_back() {
            Some((_, before)) if *before == n => *before = end,
            _ => {
                self.0.insert(n, end);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(begin, end)| *begin..*end)
    }

    pub(super) fn len(&self) -> u64 {
        self.0
            .iter()
            .map(|(begin, end)| u64::from(end - begin))
            .sum()
    }

    /// One of them, `nth` of all, if there are so many.
    pub(super) fn nth(&self, mut nth: u64) -> Option<u32> {
        for (begin, end) in &self.0 {
            let here = u64::from(end - begin);
            if nth < here {
                return Some(begin + nth as u32);
            }
            nth -= here;
        }
        None
    }
}

/// One device's.
#[derive(Debug, Default)]
pub(super) struct Device {
    /// The first chunk that was never chosen.
    pub(super) next: u32,
    pub(super) sent: Ranges,
    /// Of them, those that were sent by another name, too.
    pub(super) renamed: Ranges,
    pub(super) acked: Ranges,
}

/// Everybody's, and what waits for its time.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) devices: Vec<Device>,
    /// Left out when their turn came: sent late.
    pub(super) held: Vec<(u32, u32)>,
    /// Sent, and the collector was killed before the PUBACK.
    pub(super) lost: Vec<(u32, u32)>,
}

impl Ledger {
    pub(super) fn device(&mut self, device: u32) -> &mut Device {
        while self.devices.len() <= device as usize {
            let number = self.devices.len();
            self.devices.push(Device {
                next: first_chunk(number as u32),
                ..Device::default()
            });
        }
        &mut self.devices[device as usize]
    }

    /// The device that sends in a slot now.
    pub(super) fn current(&mut self, slot: u32) -> u32 {
        let mut device = slot % SLOTS;
        while self.device(device).next >= first_chunk(device + SLOTS) {
            device += SLOTS;
        }
        device
    }

    /// The first chunk that nobody has come to yet.
    pub(super) fn front(&self) -> u32 {
        self.devices.iter().map(|d| d.next).max().unwrap_or(0)
    }

    pub(super) fn sent(&mut self, message: &Message) {
        let device = self.device(message.device);
        device.sent.insert(chunk_of(message));
        if message.boot >= OTHER_BOOT {
            device.renamed.insert(chunk_of(message));
        }
    }

    pub(super) fn acked(&mut self, message: &Message) {
        self.device(message.device).acked.insert(chunk_of(message));
    }

    pub(super) fn lost(&mut self, message: &Message) {
        let chunk = chunk_of(message);
        if !self.device(message.device).acked.contains(chunk) {
            self.lost.push((message.device, chunk));
        }
    }

    pub(super) fn messages_acked(&self) -> u64 {
        self.devices.iter().map(|d| d.acked.len()).sum()
    }
}

/// Where a device's life begins.
fn first_chunk(device: u32) -> u32 {
    let (slot, turn) = (device % SLOTS, device / SLOTS);
    match turn {
        0 => 0,
        _ => (turn - 1) * LIFE_CHUNKS + (slot + 1) * (LIFE_CHUNKS / SLOTS),
    }
}

pub(super) fn message(device: u32, chunk: u32) -> Message {
    Message {
        device,
        boot: chunk / BOOT_CHUNKS,
        seq: chunk,
        tick: chunk * u32::from(FRAMES),
        frames: FRAMES,
    }
}

/// The same samples, and the collector can not know it by the message's name.
pub(super) fn renamed(message: Message) -> Message {
    Message {
        boot: message.boot + OTHER_BOOT,
        ..message
    }
}

pub(super) fn chunk_of(message: &Message) -> u32 {
    message.tick / u32::from(FRAMES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Random;

    #[test]
    fn ranges_are_a_set() {
        let (mut ranges, mut model) = (Ranges::default(), std::collections::BTreeSet::new());
        let mut random = Random::new(7);
        for _ in 0..2000 {
            let n = random.below(500) as u32;
            ranges.insert(n);
            model.insert(n);
        }
        assert!(ranges.iter().eq(model.iter().copied()));
        assert_eq!(ranges.len(), model.len() as u64);
        assert_eq!(ranges.nth(17), model.iter().nth(17).copied());
        assert_eq!(ranges.nth(500), None);
        let ends: Vec<_> = ranges.0.iter().collect();
        assert!(ends.windows(2).all(|w| w[0].1 < w[1].0), "merged: {ends:?}");
        assert!((0..501).all(|n| ranges.contains(n) == model.contains(&n)));
    }
}
