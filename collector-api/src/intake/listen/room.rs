//! Memory for packets on their way in. Small ones are free: connections are bounded, and so is what each has of them. A large one has a place here before its
//! first byte is kept: while there is none, its connection is not read, and TCP holds the client back.
//!
//! A place is taken at once for the whole packet and held until the intake has it, so that nobody waits here who holds one: no two wait for each other.
//! Who comes first is served first. A client that does not get on with its packet while others wait is let go ([`Limits::packet_timeout`](super::Limits)).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Receiving;

/// Packets up to this, header included, take no place: a device's tick has some KiB.
pub(super) const SMALL_PACKET_BYTES: usize = 16 * 1024;

/// The memory that connections share.
#[derive(Debug)]
pub(super) struct Room {
    bytes: Arc<Semaphore>,
    most: u32,
    waiting: AtomicUsize,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        let most = u32::try_from(bytes.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self {
            bytes: Arc::new(Semaphore::new(most as usize)),
            most,
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits for a place for so many bytes; for all there are, if they are not enough: then it is alone. `None`: never, the room is closed.
    pub(super) async fn place(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.most);
        if let Ok(place) = self.bytes.clone().try_acquire_many_owned(bytes) {
            return Some(place);
        }
        self.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(&self.waiting);
        self.bytes.clone().acquire_many_owned(bytes).await.ok()
    }

    /// True if somebody waits.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    pub(super) fn receiving(&self) -> Receiving {
        Receiving {
            bytes: (self.most as usize).saturating_sub(self.bytes.available_permits()),
            waiting: self.waiting.load(Relaxed),
        }
    }
}

/// Where packets begin and end in what a client sends, known before the packet is kept anywhere.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Framing {
    /// Bytes of the header that have come: the packet's kind, and its length in 1 to 4 bytes.
    header: usize,
    /// The length, as far as it is known.
    length: usize,
    /// What is missing of the body.
    missing: usize,
}

/// What stands at the front of some input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Bytes that belong to one packet.
    pub(super) bytes: usize,
    /// The packet's size, header included, if its header ends in this piece.
    pub(super) packet_bytes: Option<usize>,
}

impl Framing {
    /// The next piece of the input, which has to be taken.
    pub(super) fn next(&mut self, input: &[u8]) -> Piece {
        let mut bytes = 0;
        let mut packet_bytes = None;
        while self.missing == 0 {
            let Some(&byte) = input.get(bytes) else {
                return Piece {
                    bytes,
                    packet_bytes,
                };
            };
            bytes += 1;
            self.header += 1;
            if self.header == 1 {
                continue; // its kind
            }
            self.length |= usize::from(byte & 0x7f) << (7 * (self.header - 2));
            // A fifth byte is malformed: whoever reads the packet says so.
            if byte < 0x80 || self.header > 4 {
                packet_bytes = Some(self.header + self.length);
                self.missing = self.length;
                (self.header, self.length) = (0, 0);
                break;
            }
        }
        let body = self.missing.min(input.len() - bytes);
        self.missing -= body;
        Piece {
            bytes: bytes + body,
            packet_bytes,
        }
    }

    /// True between two packets.
    pub(super) fn is_between(&self) -> bool {
        self.header == 0 && self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(length: usize) -> Vec<u8> {
        let mut packet = vec![0x30];
        let mut rest = length;
        while rest >= 0x80 {
            packet.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        packet.push(rest as u8);
        packet.resize(packet.len() + length, 0xff);
        packet
    }

    proptest! {
        #[test]
        fn packets_end_where_they_end_however_they_come(
            lengths in prop::collection::vec(prop_oneof![0usize..4, 120usize..140, 16_380usize..16_390], 1..8),
            reads in prop::collection::vec(1usize..20_000, 1..8),
        ) {
            let packets: Vec<_> = lengths.iter().map(|length| packet(*length)).collect();
            let all = packets.concat();
            let mut framing = Framing::default();
            let (mut sizes, mut ends) = (Vec::new(), Vec::new());
            let mut at = 0;
            for read in reads.iter().cycle() {
                let end = (at + read).min(all.len());
                while at < end {
                    let piece = framing.next(&all[at..end]);
                    prop_assert!(piece.bytes > 0);
                    at += piece.bytes;
                    sizes.extend(piece.packet_bytes);
                    if framing.is_between() {
                        ends.push(at);
                    }
                }
                if at == all.len() {
                    break;
                }
            }
            let mut end = 0;
            let expected: Vec<_> = packets.iter().map(|packet| { end += packet.len(); end }).collect();
            prop_assert_eq!(ends, expected);
            prop_assert_eq!(sizes, packets.iter().map(Vec::len).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 1..100)) {
            let mut framing = Framing::default();
            let mut at = 0;
            while at < bytes.len() {
                let piece = framing.next(&bytes[at..]);
                prop_assert!(piece.bytes > 0);
                at += piece.bytes;
            }
        }
    }

    #[tokio::test]
    async fn who_waits_is_known_and_served_in_turn() {
        let room = Room::new(100);
        let first = room.place(70).await;
        let mut second = Box::pin(room.place(500));
        let waits = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(second.as_mut().poll(cx).is_pending())
        });
        assert!(waits.await);
        assert!(room.is_wanted());
        drop(first);
        assert!(second.await.is_some(), "all there is");
        assert!(!room.is_wanted());
    }
}
