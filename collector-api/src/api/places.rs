//! Who may have a connection: so many in all, so many of one address. Whoever gets no place is told so, on one of a few connections for that; beyond these it is
//! closed without a word.
//!
//! IPv6 addresses count by their first 64 bits: a client has all that follow.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections at a time on which is said that there is no place.
const REFUSED: usize = 64;

/// How many connections there are.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    most_per_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    refused: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    All,
    OfAddress,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    addr: IpAddr,
    pub(super) refused: Option<NoPlace>,
}

impl Places {
    pub(super) fn new(most: usize, most_per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_per_address,
            taken: Mutex::default(),
        })
    }

    /// A place for a connection, or one to say on that there is none; `None`: neither.
    pub(super) fn take(self: &Arc<Self>, addr: IpAddr) -> Option<Place> {
        let addr = client(addr);
        let mut taken = self.taken();
        let of_address = taken.by_address.get(&addr).copied().unwrap_or(0);
        let refused = if of_address >= self.most_per_address {
            Some(NoPlace::OfAddress)
        } else if taken.all >= self.most {
            Some(NoPlace::All)
        } else {
            None
        };
        if refused.is_some() {
            if taken.refused >= REFUSED {
                return None;
            }
            taken.refused += 1;
        } else {
            taken.all += 1;
            *taken.by_address.entry(addr).or_default() += 1;
        }
        let places = self.clone();
        Some(Place {
            places,
            addr,
            refused,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if self.refused.is_some() {
            taken.refused -= 1;
            return;
        }
        taken.all -= 1;
        if let Some(count) = taken.by_address.get_mut(&self.addr) {
            *count -= 1;
            if *count == 0 {
                taken.by_address.remove(&self.addr);
            }
        }
    }
}

/// The address that stands for a client.
fn client(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(v6) => {
            let network = v6.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &Arc<Places>, addr: &str) -> Option<Place> {
        places.take(addr.parse().unwrap())
    }

    #[test]
    fn places_are_counted_in_all_and_by_address() {
        let places = Places::new(3, 2);
        let refused = |addr: &str| take(&places, addr).unwrap().refused;
        let a = take(&places, "10.0.0.1").unwrap();
        let _b = take(&places, "::ffff:10.0.0.1").unwrap();
        assert_eq!(refused("10.0.0.1"), Some(NoPlace::OfAddress));
        let c = take(&places, "2001:db8::1").unwrap();
        assert_eq!(refused("2001:db8::2"), Some(NoPlace::All));
        drop(c);
        drop(a);
        assert_eq!(refused("10.0.0.1"), None);
        let _d = take(&places, "2001:db8:0:0:1::1").unwrap();
        let _e = take(&places, "2001:db8::ffff").unwrap();
        assert_eq!(refused("2001:db8::"), Some(NoPlace::OfAddress));
    }

    #[test]
    fn few_are_told_that_there_is_no_place_and_none_is_forgotten() {
        let places = Places::new(1, 9);
        let one = take(&places, "10.0.0.1").unwrap();
        let told: Vec<_> = (0..REFUSED).map(|_| take(&places, "10.0.0.2")).collect();
        assert!(told.iter().all(|place| place.is_some()));
        assert!(take(&places, "10.0.0.2").is_none());
        drop((one, told));
        let taken = places.taken();
        assert_eq!((taken.all, taken.refused), (0, 0));
        assert!(taken.by_address.is_empty());
    }
}
