//! What of the journal is kept for those who read it behind the store's back (`forward`), although it is in the database.
//!
//! A seal trims the journal up to the oldest place that is held, and no further. How far a reader may stay behind is the reader's business: whoever holds a place for ever fills the
//! disk. A hold does not end with its owner: when the collector ends, seals may still be made after the last reader is gone.

use std::sync::{Arc, Mutex};

use devmon_core::journal::Position;

use super::local::lock;

/// The places that are held; clones are handles of the same ones.
#[derive(Debug, Clone, Default)]
pub struct Pins(Arc<Mutex<Vec<Option<Position>>>>);

impl Pins {
    /// Keeps what comes behind `from`, as far as it is still there. Before the store is opened, so that its first seal knows.
    #[must_use]
    pub fn pin(&self, from: Position) -> Pin {
        let mut places = lock(&self.0);
        places.push(Some(from));
        Pin {
            pins: self.clone(),
            place: places.len() - 1,
        }
    }

    /// The oldest place that somebody holds.
    pub(super) fn oldest(&self) -> Option<Position> {
        lock(&self.0).iter().flatten().min().copied()
    }
}

/// One held place. Held until it is [released](Self::release), or the store is closed.
#[derive(Debug)]
pub struct Pin {
    pins: Pins,
    place: usize,
}

impl Pin {
    /// What comes before `to` is no longer needed.
    pub fn move_to(&self, to: Position) {
        self.set(Some(to));
    }

    /// It is held no more.
    pub fn release(&self) {
        self.set(None);
    }

    fn set(&self, to: Option<Position>) {
        if let Some(place) = lock(&self.pins.0).get_mut(self.place) {
            *place = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_counts_until_it_is_gone() {
        let at = |segment| Position { segment, offset: 0 };
        let pins = Pins::default();
        assert_eq!(pins.oldest(), None);
        let (a, b) = (pins.pin(at(3)), pins.pin(at(5)));
        assert_eq!(pins.oldest(), Some(at(3)));
        a.move_to(at(7));
        assert_eq!(pins.oldest(), Some(at(5)));
        b.release();
        assert_eq!(pins.oldest(), Some(at(7)));
        a.release();
        assert_eq!(pins.oldest(), None);
    }
}
