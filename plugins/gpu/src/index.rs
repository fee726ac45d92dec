//! Which `{index}` a GPU has. Pure.
//!
//! NVIDIA's GPUs have NVML's indices, from 0. The others follow, in order of their PCI address, from the number of NVIDIA's display controllers
//! on the PCI bus: counted there and not by NVML, so that nothing moves when NVIDIA's driver is missing or reloaded. An index once given
//! is kept as long as the source runs: a GPU that sleeps, fails or is unplugged leaves it free, one that is plugged in takes the next. Only if NVML shows
//! more GPUs than the bus had do the others move up, for NVML's indices are what NVIDIA's own tools say.

use std::collections::BTreeMap;
use std::fmt;

/// More addresses than this are not remembered: machines have up to 16 GPUs, and the rest are of enclosures that were plugged in and out.
pub const MAX_REMEMBERED: usize = 256;

/// Where a device is on the PCI bus; ordered as lspci orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// Of `0000:03:00.0`, as the kernel names a PCI device.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, ':');
        let domain = u32::from_str_radix(parts.next()?, 16).ok()?;
        let bus = u8::from_str_radix(parts.next()?, 16).ok()?;
        let (device, function) = parts.next()?.split_once('.')?;
        Some(Self {
            domain,
            bus,
            device: u8::from_str_radix(device, 16).ok()?,
            function: u8::from_str_radix(function, 16).ok()?,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// The indices of those that are not NVIDIA's.
#[derive(Debug)]
pub struct Indices {
    /// Below this are NVIDIA's.
    first: u32,
    given: BTreeMap<PciAddress, u32>,
}

impl Indices {
    /// Nothing is given yet.
    #[must_use]
    pub fn new(nvidia_on_bus: u32) -> Self {
        Self {
            first: nvidia_on_bus,
            given: BTreeMap::new(),
        }
    }

    /// The index of each GPU of `present`, which are in order of their address; `nvidia` is how many NVML has.
    pub fn give(&mut self, nvidia: u32, present: impl IntoIterator<Item = PciAddress>) -> Vec<u32> {
        let up = nvidia.saturating_sub(self.first);
        self.first += up;
        for index in self.given.values_mut() {
            *index += up;
        }
        let present: Vec<PciAddress> = present.into_iter().collect();
        if self.given.len() + present.len() > MAX_REMEMBERED {
            self.given.retain(|address, _| present.contains(address));
        }
        let mut next = self.given.values().max().map_or(self.first, |max| max + 1);
        let mut index_of = |address| {
            *self.given.entry(address).or_insert_with(|| {
                next += 1;
                next - 1
            })
        };
        present.into_iter().map(&mut index_of).collect()
    }

    /// What was given to it.
    #[must_use]
    pub fn of(&self, address: PciAddress) -> Option<u32> {
        self.given.get(&address).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(names: &[&str]) -> Vec<PciAddress> {
        names
            .iter()
            .map(|name| PciAddress::parse(name).unwrap())
            .collect()
    }

    #[test]
    fn addresses_read_as_the_kernel_writes_them() {
        for name in ["0000:03:00.0", "10000:e1:00.1"] {
            assert_eq!(PciAddress::parse(name).unwrap().to_string(), name);
        }
        for name in ["", "amdgpu_xcp.1", "0000:03:00", "0000:03", "x:03:00.0"] {
            assert_eq!(PciAddress::parse(name), None, "{name}");
        }
    }

    #[test]
    fn an_index_stays_while_gpus_come_and_go() {
        let mut indices = Indices::new(0);
        let both = at(&["0000:00:02.0", "0000:05:00.0"]);
        assert_eq!(indices.give(0, both.clone()), [0, 1]);
        assert_eq!(indices.give(0, at(&["0000:05:00.0"])), [1]);
        let three = at(&["0000:00:02.0", "0000:03:00.0", "0000:05:00.0"]);
        assert_eq!(indices.give(0, three), [0, 2, 1]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut indices = Indices::new(0);
        let own = at(&["0000:00:02.0"]);
        indices.give(0, own.clone());
        for bus in 1..=u8::MAX {
            for device in 0..4 {
                let other = at(&[&format!("0000:{bus:02x}:{device:02x}.0")]);
                indices.give(0, [own.clone(), other].concat());
                assert!(indices.given.len() <= MAX_REMEMBERED);
            }
        }
        assert_eq!(indices.give(0, own), [0]);
    }

    #[test]
    fn the_others_follow_nvidia_and_never_share_an_index_with_it() {
        let mut indices = Indices::new(2);
        let one = at(&["0000:00:02.0"]);
        // NVML is not there, then sees one of the two, then both.
        for nvidia in [0, 1, 2, 0] {
            assert_eq!(indices.give(nvidia, one.clone()), [2]);
        }
        // A third was plugged in.
        assert_eq!(indices.give(3, one.clone()), [3]);
        assert_eq!(indices.give(2, one), [3]);
    }
}
